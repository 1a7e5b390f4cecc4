"""What other services do: enqueue, follow, cancel, retry."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from repositories.database import DatabaseManager
from repositories.errors import InvalidTransitionError, InvalidValueError, NotFoundError
from repositories.schemas import MAX_ITEMS, JobFilters, PaginationParams
from repositories.states import ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.factories import new_job
from worker.client import JobClient, WorkspaceNotFoundError, open_client
from worker.execution import execute
from worker.files import FileSource, NoFilesError, find_files, store_files
from worker.payloads import ObjectSource
from worker.questions.question_set import Question, QuestionSet
from worker.queue import JobQueue, connect
from worker.run import Runtime
from worker.settings import Settings, SettingsError
from worker.storage import Storage, StorageUnavailableError, StoredBytesMissingError

FILES = [FileSource("a.txt", b"alpha")]
QUESTIONS = QuestionSet(name="set.csv", questions=(Question(id="q1", text="What?"),))


class Rollback(Exception):  # noqa: N818 - not an error: it ends a transaction
    """Ends a transaction without its work."""


async def test_a_job_is_on_the_record_and_in_the_queue(client: JobClient, queue: JobQueue) -> None:
    job = await client.upload_documents("handbook", FILES, metadata={"project": "x"}, priority=2)

    assert (job.status, job.priority, job.queue_position, job.workspace_id) == (JobStatus.QUEUED, 2, 1, "handbook")
    assert await queue.positions([job.id]) == {job.id: 1}


async def test_bytes_go_to_storage_and_never_into_the_payload(client: JobClient, storage: Storage) -> None:
    job = await client.upload_documents("handbook", FILES)

    assert job.payload is not None
    (file,) = job.payload["files"]
    assert "alpha" not in str(job.payload)
    assert await storage.get(file["sha256"]) == b"alpha"


async def test_a_job_written_in_the_callers_transaction_is_handed_over_when_it_commits(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    async with database.get_transaction() as session:
        job = await client.upload_documents("handbook", FILES, session=session)
        assert await queue.length() == 0

    await client.settled()
    assert await queue.positions([job.id]) == {job.id: 1}


async def test_a_job_of_a_transaction_that_rolls_back_never_was(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    nobody = uuid7()

    async def change_of_mind() -> None:
        async with database.get_transaction() as session:
            await client.upload_documents("handbook", FILES, session=session, id=nobody)
            raise Rollback

    with pytest.raises(Rollback):
        await change_of_mind()

    await client.settled()
    assert await queue.length() == 0
    with pytest.raises(NotFoundError):
        await client.status(nobody)


async def test_a_session_that_rolled_back_hands_over_only_what_it_commits_later(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    async with database.get_session() as session:
        await client.upload_documents("handbook", FILES, session=session)
        await session.rollback()
        kept = await client.upload_documents("handbook", FILES, session=session)
        await session.commit()

    await client.settled()
    assert await queue.length() == 1
    assert await queue.positions([kept.id]) == {kept.id: 1}


async def test_savepoints_of_the_caller_neither_hand_over_early_nor_forget(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    async with database.get_transaction() as session:
        async with session.begin_nested():
            job = await client.upload_documents("handbook", FILES, session=session)
        await client.settled()
        assert await queue.length() == 0  # the savepoint is released, the transaction is not committed
        doomed = await session.begin_nested()
        await doomed.rollback()

    await client.settled()
    assert await queue.positions([job.id]) == {job.id: 1}


async def test_a_thousand_jobs_are_written_with_one_statement(
    client: JobClient, queue: JobQueue, statements: list[str]
) -> None:
    statements.clear()

    ids = await client.enqueue_many([new_job() for _ in range(1_000)])

    assert len(statements) == 1
    assert statements[0].startswith("WITH written AS")  # and so it returns no ids
    assert await queue.positions(ids[:2] + ids[-1:]) == {ids[0]: 1, ids[1]: 2, ids[-1]: 1_000}


@pytest.mark.parametrize("others", [0, 2])
async def test_of_many_jobs_only_those_that_were_not_there_are_handed_over(
    client: JobClient, queue: JobQueue, others: int
) -> None:
    written = [new_job() for _ in range(3)]
    await client.enqueue_many(written)
    await queue.remove([job.id for job in written])

    new = [new_job() for _ in range(others)]
    await client.enqueue_many([*written, *new])

    assert await queue.length() == others
    assert (await queue.positions([job.id for job in new])).keys() == {job.id for job in new}


async def test_jobs_of_one_call_are_all_written_or_none_however_many_statements_they_take(
    client: JobClient, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repositories.jobs.create._CHUNK", 2)
    good, bad = [new_job() for _ in range(3)], new_job(queue_position=2**40)  # no integer of its column

    with pytest.raises(InvalidValueError):
        await client.enqueue_many([*good, bad])

    assert await client.statuses([job.id for job in good]) == {}
    assert await queue.length() == 0

    await client.enqueue_many(good)
    assert await queue.length() == len(good)


async def test_a_job_that_is_named_twice_in_a_call_is_one(client: JobClient, queue: JobQueue) -> None:
    job = new_job()

    assert await client.enqueue_many([job, job]) == [job.id, job.id]

    assert await queue.positions([job.id]) == {job.id: 1}


async def test_without_redis_a_job_is_still_enqueued(
    database: DatabaseManager, storage: Storage, settings: Settings
) -> None:
    nobody = connect("redis://127.0.0.1:1/0")
    client = JobClient(database, JobQueue(nobody), storage, settings)

    job = await client.upload_documents("handbook", FILES)

    assert (job.status, job.queue_position) == (JobStatus.QUEUED, None)
    await nobody.aclose(close_connection_pool=True)


async def test_asking_an_unknown_workspace_offers_names_that_look_like_it(
    client: JobClient, database: DatabaseManager
) -> None:
    async with database.get_transaction() as session:
        await WorkspaceRepository(session, "noting").register("handbook", "handbook")

    with pytest.raises(WorkspaceNotFoundError, match="did you mean 'handbook'"):
        await client.process_questions("hand-book", QUESTIONS)
    with pytest.raises(WorkspaceNotFoundError, match="upload documents into it first"):
        await client.process_questions("zzz", QUESTIONS)


async def test_a_field_out_of_its_range_enqueues_nothing(client: JobClient, queue: JobQueue) -> None:
    with pytest.raises(ValidationError, match="priority"):
        await client.upload_documents("handbook", FILES, priority=10)
    with pytest.raises(NoFilesError):
        await client.upload_documents("handbook", [])

    assert await queue.length() == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"workspace": ""}, "workspace"),
        ({"files": FILES * (MAX_ITEMS + 1)}, "files"),
        ({"source": "s" * 256}, "source"),
        ({"sync": True}, "sync needs a source"),
        ({"links": ["https://example.org/" + "a" * 2_048]}, "example.org/a+… has 2,068 characters"),
        ({"objects": [ObjectSource(url="s3://inbox/")] * 1_001}, "objects"),
        ({"priority": 10}, "priority"),
    ],
)
async def test_what_is_out_of_its_range_is_told_before_a_byte_is_stored(
    client: JobClient, settings: Settings, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        await client.upload_documents(**({"workspace": "handbook", "files": FILES} | fields))

    assert [stored for stored in os.walk(settings.storage_url) if stored[2]] == []


async def test_a_name_that_cannot_be_recorded_refuses_its_file_alone(client: JobClient, runtime: Runtime) -> None:
    parts = "/".join(["n" * 255] * 4)
    names = ["", f"{parts}/n", "é" * 128, "nul\0.txt", "half\ud800.txt", parts]
    job = await client.upload_documents("handbook", [FileSource(name, name.encode(errors="replace")) for name in names])

    await execute(runtime, str(job.id))

    items = await client.items(job.id)
    assert [item.key for item in items] == [
        "(no name)",
        f"{parts}/n"[:1_024],
        "é" * 128,
        "nul\ufffd.txt",
        "half\ufffd.txt",
        parts,
    ]
    assert [item.error_code for item in items] == [*["invalid_name"] * 5, None]


async def test_a_storage_that_fails_leaves_no_other_file_being_stored(tmp_path: Path, settings: Settings) -> None:
    storage = Storage(str(tmp_path / "full"))
    (tmp_path / "full" / "sha256").write_text("in the way")
    stopped = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with pytest.raises(StorageUnavailableError):
        await store_files([FileSource("slow.txt", slow()), *FILES], storage, settings)

    assert stopped.is_set()


async def test_wait_returns_when_all_jobs_are_final(client: JobClient, runtime: Runtime) -> None:
    first = await client.upload_documents("handbook", FILES)
    second = await client.upload_documents("handbook", [FileSource("b.txt", b"reject")])
    waiting = asyncio.create_task(client.wait([first.id, second.id], timeout_seconds=20))

    await execute(runtime, str(first.id))
    await execute(runtime, str(second.id))

    assert [job.status for job in await waiting] == [JobStatus.COMPLETED, JobStatus.FAILED]


async def test_wait_has_a_bound_and_the_job_goes_on(client: JobClient) -> None:
    job = await client.upload_documents("handbook", FILES)

    with pytest.raises(TimeoutError):
        await client.wait([job.id], timeout_seconds=0.1)

    assert (await client.status(job.id)).status is JobStatus.QUEUED


async def test_following_a_job_that_does_not_exist_says_so(client: JobClient) -> None:
    nobody = uuid7()

    with pytest.raises(NotFoundError, match=str(nobody)):
        await client.wait([nobody])


async def test_a_cancelled_job_leaves_the_queue_and_a_retry_brings_it_back(client: JobClient, queue: JobQueue) -> None:
    job = await client.upload_documents("handbook", FILES)

    await client.cancel([job.id], "not yet")
    assert await queue.length() == 0
    await client.retry([job.id])

    assert await queue.positions([job.id]) == {job.id: 1}
    refusal = (await client.retry([job.id])).refused[job.id]
    assert isinstance(refusal, InvalidTransitionError)


async def test_a_file_that_cannot_be_taken_becomes_a_failed_item_that_says_why(
    client: JobClient, runtime: Runtime, settings: Settings, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"max_file_bytes": 10})
    client = JobClient(runtime.database, runtime.queue, runtime.sources.storage, small, engine="noting")
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone.txt").write_bytes(b"x")
    sources = [
        FileSource("good.txt", b"good"),
        FileSource("large.txt", b"12345678901"),
        FileSource("folder", tmp_path / "folder"),
        FileSource("missing.txt", tmp_path / "missing.txt"),
    ]
    job = await client.upload_documents("handbook", sources)

    await execute(runtime, str(job.id))

    items = {item.key: item for item in await client.items(job.id)}
    assert items["good.txt"].status is ItemStatus.DONE
    assert {key: item.error_code for key, item in items.items() if item.status is ItemStatus.FAILED} == {
        "large.txt": "too_large",
        "folder": "unreadable",
        "missing.txt": "unreadable",
    }
    assert "raise MAX_FILE_BYTES" in str(items["large.txt"].error)


def test_folders_are_walked_in_order_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", ".hidden", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    assert [source.name for source in find_files([tmp_path])] == ["a/c.txt", "b.txt"]


def test_two_files_of_the_same_name_are_both_taken_and_one_file_named_twice_once(tmp_path: Path) -> None:
    for name in ("jan", "feb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.txt").write_text(name)

    found = find_files([tmp_path / "jan", tmp_path / "feb", tmp_path / "feb" / "summary.txt"])

    assert len(found) == 2
    assert {source.content.read_text() for source in found if isinstance(source.content, Path)} == {"jan", "feb"}


def test_a_name_that_is_no_utf8_is_made_readable(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe.txt")).write_text("x")

    assert [source.name for source in find_files([tmp_path])] == ["gr\ufffd\ufffde.txt"]


async def test_a_pipe_that_nobody_writes_to_is_refused_at_once(
    storage: Storage, settings: Settings, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")

    (refused,) = await asyncio.wait_for(store_files([FileSource("pipe", tmp_path / "pipe")], storage, settings), 5)

    assert refused.error is not None
    assert refused.error.code == "not_a_file"


async def test_a_storage_that_cannot_be_written_says_so_without_its_url(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageUnavailableError, match="is STORAGE_URL right"):
        await Storage(str(tmp_path / "file")).put(b"x")
    with pytest.raises(StorageUnavailableError) as caught:
        Storage("foo://user:hunter2@bar")
    assert "hunter2" not in str(caught.value)


def test_an_empty_folder_and_a_missing_path_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoFilesError, match=str(tmp_path)):
        find_files([tmp_path])
    with pytest.raises(NoFilesError, match="nowhere does not exist"):
        find_files([tmp_path / "nowhere"])


async def test_bytes_that_are_not_in_storage_are_named_by_their_digest(storage: Storage) -> None:
    with pytest.raises(StoredBytesMissingError, match="does this worker see the STORAGE_URL"):
        await storage.get("0" * 64)


async def test_a_client_without_a_database_url_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        async with open_client(Settings(database_url=None)):
            pass


async def test_pages_of_jobs_come_with_their_total(client: JobClient) -> None:
    for _ in range(3):
        await client.upload_documents("handbook", FILES)

    page, total = await client.list_jobs(JobFilters(workspace_id="handbook"), PaginationParams(size=2))

    assert (len(page), total) == (2, 3)
