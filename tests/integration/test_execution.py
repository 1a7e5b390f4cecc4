"""One attempt at one job, from claim to end."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import text

from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import Held
from repositories.states import ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.engines import NotingEngine
from tests.factories import LEASE
from worker.client import JobClient
from worker.execution import execute
from worker.files import FileSource
from worker.leases import LeaseKeeper
from worker.questions.question_set import Question, QuestionSet
from worker.retries import retry_delay
from worker.run import Runtime
from worker.settings import Settings
from worker.storage import Storage

FILES = [FileSource(f"{n}.txt", f"document {n}".encode()) for n in range(6)]
QUESTIONS = QuestionSet(
    name="set.csv",
    questions=(
        Question(id="q1", text="What is the answer?", expected_fragments=("42",)),
        Question(id="q2", text="What is the question?", expected_fragments=("six by nine",)),
        Question(id="q3", text="Is there nothing?", answerable=False),
    ),
)

# A sequence is not rolled back: the second try is told from the first.
REFUSE_THE_FIRST_END = (
    "CREATE SEQUENCE ends_seen",
    """CREATE FUNCTION refuse_the_first_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('ends_seen') = 1 THEN RAISE 'deadlock detected' USING ERRCODE = '40P01'; END IF;
           RETURN new;
       END $$""",
    """CREATE TRIGGER refuse_the_first_end BEFORE UPDATE ON jobs
       FOR EACH ROW WHEN (new.status = 'completed') EXECUTE FUNCTION refuse_the_first_end()""",
)


async def _statuses(client: JobClient, job_id: UUID) -> list[ItemStatus]:
    return [item.status for item in await client.items(job_id)]


async def _running(runtime: Runtime, engine: NotingEngine, job: Job) -> "asyncio.Task[None]":
    """The job in the hands of a worker that is held in the middle of its first items."""
    engine.gate.clear()
    task = asyncio.create_task(execute(runtime, str(job.id)))
    await asyncio.wait_for(engine.entered.wait(), 10)
    return task


async def test_an_upload_stores_and_embeds_every_file(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES)

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.items_done, after.progress) == (JobStatus.COMPLETED, 6, 100.0)
    assert sorted(engine.embedded) == sorted(f"{job.id}/{at}" for at in range(6))
    assert after.result is not None
    assert after.result["workspace_slug"] == "slug-handbook"
    assert after.result["bytes"] == sum(len(f"document {n}") for n in range(6))
    items = await client.items(job.id)
    assert set(items[0].timings) == {"read", "upload", "embed", "verify"}


async def test_one_bad_file_fails_its_item_and_never_the_job(client: JobClient, runtime: Runtime) -> None:
    files = [*FILES[:2], FileSource("bad.pdf", b"reject me"), FileSource("empty.txt", b"")]
    job = await client.upload_documents("handbook", files)

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.items_done, after.items_failed) == (JobStatus.COMPLETED, 2, 2)
    assert after.result is not None
    assert after.result["failures"] == {"corrupt": 1, "empty": 1}


async def test_a_job_whose_items_all_failed_has_failed(client: JobClient, runtime: Runtime) -> None:
    job = await client.upload_documents("handbook", [FileSource("bad.pdf", b"reject me")])

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.errors[-1]["code"]) == (JobStatus.FAILED, "all_items_failed")


async def test_content_that_is_there_already_is_skipped_and_told(client: JobClient, runtime: Runtime) -> None:
    job = await client.upload_documents("handbook", [FileSource("a.txt", b"same"), FileSource("b.txt", b"same")])

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.items_done, after.items_skipped) == (1, 1)


async def test_questions_are_asked_scored_and_counted(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    async with runtime.database.get_transaction() as session:
        await WorkspaceRepository(session, "noting").register("handbook", "slug-handbook")
    job = await client.process_questions("handbook", QUESTIONS)

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert after.status is JobStatus.COMPLETED
    assert after.result is not None
    assert {key: after.result[key] for key in ("questions", "answered", "refused", "passed")} == {
        "questions": 3,
        "answered": 2,
        "refused": 1,
        "passed": 2,
    }
    assert len(engine.asked) == 3


async def test_a_workspace_that_is_gone_when_the_job_runs_fails_it_at_once_with_near_names(
    client: JobClient, runtime: Runtime
) -> None:
    async with runtime.database.get_transaction() as session:
        await WorkspaceRepository(session, "noting").register("handbook", "slug-handbook")
    parent = await client.upload_documents("elsewhere", FILES[:1])
    job = await client.process_questions("handbok", QUESTIONS, depends_on=[parent.id])
    await execute(runtime, str(parent.id))

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.failures) == (JobStatus.FAILED, 1)
    assert "did you mean 'handbook'" in str(after.error)


async def test_an_engine_that_is_away_puts_the_job_back_and_counts_nothing(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES)
    engine.away_now = True

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.failures, after.crashes) == (JobStatus.QUEUED, 0, 0)
    assert after.scheduled_at is not None


async def test_an_unexpected_error_is_retried_and_then_fails_the_job(client: JobClient, runtime: Runtime) -> None:
    job = await client.upload_documents("handbook", [FileSource("odd.txt", b"crash")], max_attempts=2)

    await execute(runtime, str(job.id))
    first = await client.status(job.id)
    assert (first.status, first.failures) == (JobStatus.QUEUED, 1)
    async with runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL"))
    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.failures, after.attempt) == (JobStatus.FAILED, 2, 2)
    assert [error["code"] for error in after.errors] == ["unexpected_error", "all_items_failed"]
    (item,) = await client.items(job.id)
    assert item.error == "RuntimeError: no idea what to do with odd.txt"


async def test_an_item_with_an_unexpected_error_never_stops_the_others(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    runtime.settings = runtime.settings.model_copy(update={"item_concurrency": 1})
    files = [FileSource("0-odd.txt", b"crash"), *FILES]
    job = await client.upload_documents("handbook", files, max_attempts=2)

    await execute(runtime, str(job.id))
    first = await client.status(job.id)
    assert (first.status, first.items_done, first.items_failed) == (JobStatus.QUEUED, 6, 0)
    async with runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL"))
    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.items_done, after.items_failed) == (JobStatus.COMPLETED, 6, 1)
    assert engine.added.count("0-odd.txt") == 2


async def test_bytes_that_are_not_there_yet_are_waited_for_before_a_zip_is_listed(
    client: JobClient, runtime: Runtime, settings: Settings, tmp_path: Path
) -> None:
    """A worker that does not see the client's storage must not record the zip itself as a document."""
    job = await client.upload_documents("handbook", [FileSource("box.zip", b"PK\x05\x06" + b"\x00" * 18)])
    runtime.sources = replace(runtime.sources, storage=Storage(str(tmp_path / "elsewhere")))

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.items_total, after.errors[-1]["code"]) == (JobStatus.QUEUED, 0, "bytes_missing")


async def test_what_an_error_says_is_never_why_it_cannot_be_recorded(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", [FileSource("odd\ufffd.txt", b"crash")], max_attempts=1)
    engine.trouble = "nul \x00 and a lone surrogate \ud800"

    await execute(runtime, str(job.id))

    (item,) = await client.items(job.id)
    assert item.error == "RuntimeError: nul \ufffd and a lone surrogate \ufffd"


async def test_an_end_that_met_a_deadlock_is_written_again_and_the_work_is_not_done_twice(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES)
    async with runtime.database.get_transaction() as session:
        for statement in REFUSE_THE_FIRST_END:
            await session.execute(text(statement))
    try:
        await execute(runtime, str(job.id))
    finally:
        async with runtime.database.get_transaction() as session:
            await session.execute(text("DROP FUNCTION refuse_the_first_end CASCADE"))
            await session.execute(text("DROP SEQUENCE ends_seen"))

    after = await client.status(job.id)
    assert (after.status, after.attempt, len(engine.embedded)) == (JobStatus.COMPLETED, 1, len(FILES))


class _Unwatched(NamedTuple):
    held: Held

    def stop_as_lost(self) -> None: ...

    def request_cancel(self) -> None: ...


@pytest.mark.slow
async def test_the_lease_keeper_outlives_an_error_that_no_one_thought_of(database_url: str) -> None:
    keeper = LeaseKeeper(database_url.replace("test_", "gone_"), LEASE, timedelta(seconds=0.05))
    with keeper.holding(_Unwatched(Held(UUID(int=1), 1))):
        await keeper.start()
        thread = keeper._thread
        assert thread is not None
        await asyncio.to_thread(thread.join, 1.5)  # many turns, each with a database that does not exist
        assert thread.is_alive()
    await keeper.stop()


async def test_an_attempt_that_takes_too_long_is_stopped(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES, timeout_seconds=1, max_attempts=1)
    engine.gate.clear()

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.errors[-1]["code"]) == (JobStatus.FAILED, "timeout")


async def test_a_cancelled_job_stops_at_its_next_item_and_keeps_what_is_done(
    client: JobClient, runtime: Runtime, engine: NotingEngine, told: asyncio.Event
) -> None:
    runtime.settings = runtime.settings.model_copy(update={"item_concurrency": 4})
    job = await client.upload_documents("handbook", FILES)
    task = await _running(runtime, engine, job)
    await client.cancel([job.id], "wrong folder")
    await asyncio.wait_for(told.wait(), 10)
    engine.gate.set()
    await task

    after = await client.status(job.id)
    assert (after.status, after.error) == (JobStatus.CANCELLED, "Job cancelled: wrong folder")
    assert after.items_done == runtime.settings.item_concurrency  # those that were in flight, and no more
    assert (await _statuses(client, job.id)).count(ItemStatus.PENDING) == 2


async def test_a_lost_attempt_is_stopped_and_nothing_it_did_is_recorded(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES)
    task = await _running(runtime, engine, job)
    async with runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 hour'"))
        await JobRepository(session).rescue()
        await JobRepository(session).claim([job.id], "worker-2", LEASE)

    await asyncio.wait_for(task, 10)  # the lease keeper finds the attempt gone and stops the task at its await

    after = await client.status(job.id)
    assert (after.status, after.attempt, after.worker_id) == (JobStatus.PROCESSING, 2, "worker-2")
    assert set(await _statuses(client, job.id)) == {ItemStatus.PENDING}


async def test_shutdown_keeps_finished_items_and_puts_the_job_back_uncounted(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES)
    task = await _running(runtime, engine, job)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    after = await client.status(job.id)
    assert (after.status, after.failures, after.crashes, after.scheduled_at) == (JobStatus.QUEUED, 0, 0, None)


async def test_a_second_attempt_does_only_what_is_left(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    files = [*FILES, FileSource("odd.txt", b"crash")]
    job = await client.upload_documents("handbook", files)
    await execute(runtime, str(job.id))  # ends with an error; the other items are on the record
    engine.added.clear()
    async with runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL"))

    await execute(runtime, str(job.id))

    assert engine.added == ["odd.txt"]


async def test_a_second_delivery_of_a_running_or_finished_job_does_nothing(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await client.upload_documents("handbook", FILES)

    await asyncio.gather(execute(runtime, str(job.id)), execute(runtime, str(job.id)))
    await execute(runtime, str(job.id))

    assert sorted(engine.added) == sorted(file.name for file in FILES)


async def test_a_message_that_names_no_job_is_dropped(runtime: Runtime) -> None:
    await execute(runtime, "not-an-id")
    await execute(runtime, "01a20c21-c349-77ee-a3f8-36c03af62079")


async def test_a_payload_that_cannot_be_read_fails_the_job_and_names_the_field(
    client: JobClient, runtime: Runtime
) -> None:
    async with runtime.database.get_transaction() as session:
        job = await JobRepository(session).create_job("document_upload", payload={"version": 1, "workspace": "w"})

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.failures) == (JobStatus.FAILED, 1)
    assert "files" in str(after.error)


def test_retries_wait_longer_each_time_and_never_longer_than_five_minutes() -> None:
    for failures in range(30):
        ceiling = min(300, 2 * 2**failures)
        assert timedelta(0) < retry_delay(failures) <= timedelta(seconds=ceiling)


async def test_an_attempt_whose_write_is_refused_stops_and_leaves_the_record_to_its_owner(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    """Without the lease keeper's help: the first group of items that is refused ends the run."""
    job = await client.upload_documents("handbook", FILES)
    runtime.leases = LeaseKeeper("postgresql+asyncpg://nobody", LEASE, LEASE)  # never started: tells nobody anything
    task = await _running(runtime, engine, job)
    async with runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET attempt = 2, worker_id = 'worker-2'"))

    engine.gate.set()
    await asyncio.wait_for(task, 10)

    after = await client.status(job.id)
    assert (after.status, after.attempt, after.items_done) == (JobStatus.PROCESSING, 2, 0)
    assert set(await _statuses(client, job.id)) == {ItemStatus.PENDING}


async def test_an_empty_zip_is_a_failed_item_and_not_a_silent_success(client: JobClient, runtime: Runtime) -> None:
    empty_zip = b"PK\x05\x06" + b"\x00" * 18
    job = await client.upload_documents("handbook", [*FILES[:1], FileSource("box.zip", empty_zip)])

    await execute(runtime, str(job.id))

    items = {item.key: item for item in await client.items(job.id)}
    assert (items["box.zip"].status, items["box.zip"].error_code) == (ItemStatus.FAILED, "empty")
    assert "holds no files" in str(items["box.zip"].error)
