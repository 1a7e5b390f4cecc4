"""Hot status follows the record: what a commit moved stands in Redis, and what was rolled back does not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from arq.connections import ArqRedis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from repositories.cache import CacheRepository, reset_shared_memory_backend
from repositories.database import DatabaseManager, close_db, get_db_session, get_hot_status, init_db
from repositories.dependencies import get_job_repository
from repositories.hot_status import HotStatus, JobStatusView
from repositories.items import ItemRepository
from repositories.jobs import ClaimedJob, JobRepository
from repositories.models import Job
from repositories.schemas import Finish, ItemOutcome, NewItem
from repositories.settings import CacheSettings
from repositories.states import ItemStatus, JobStatus
from tests.factories import ERROR, LEASE, expire_lease, held, hold, new_job, queued_jobs, running_jobs
from worker.client import JobClient
from worker.execution import execute
from worker.loops import Upkeep
from worker.queue import JobQueue
from worker.recorder import ItemRecorder
from worker.run import Runtime
from worker.settings import Settings
from worker.storage import Storage

Move = Callable[[JobRepository, list[Job]], Awaitable[object]]


@pytest.fixture
async def hot(redis: ArqRedis) -> AsyncIterator[HotStatus]:
    hot = HotStatus(redis)
    await hot.read([uuid7()])  # in step
    yield hot
    await hot.settled()
    reset_shared_memory_backend()


async def on_record(database: DatabaseManager, *ids: UUID) -> dict[UUID, JobStatusView]:
    async with database.get_session() as session:
        return {job.id: JobStatusView.of(job) for job in await JobRepository(session).snapshot(ids)}


async def watch(hot: HotStatus, views: Mapping[UUID, JobStatusView]) -> None:
    """Ask for these statuses and answer: from now on somebody watches them."""
    await hot.read(list(views))
    await hot.write(list(views.values()))


async def nothing_missing(ids: object) -> list[Job]:
    raise AssertionError(f"asked PostgreSQL for {ids}")


async def _claim(jobs: JobRepository, found: list[Job]) -> None:
    assert len(await jobs.claim([job.id for job in found], "worker-1", LEASE)) == len(found)


async def _rescue(jobs: JobRepository, found: list[Job]) -> None:
    await expire_lease(jobs.session, *(job.id for job in found))
    assert (await jobs.rescue()).moved.keys() >= {job.id for job in found}


async def _take_due(jobs: JobRepository, found: list[Job]) -> None:
    await jobs.session.execute(text("UPDATE jobs SET scheduled_at = now() - interval '1 second'"))
    assert len(await jobs.take_due()) == len(found)


async def _clean_up(jobs: JobRepository, found: list[Job]) -> None:
    await jobs.cancel([job.id for job in found])
    await jobs.session.execute(text("UPDATE jobs SET completed_at = now() - interval '1 day'"))
    assert await jobs.cleanup(timedelta(hours=1)) == len(found)


async def _retried(jobs: JobRepository, found: list[Job]) -> None:
    await jobs.finish([Finish(hold(job), JobStatus.FAILED, None, ERROR) for job in found])
    assert len((await jobs.retry([job.id for job in found])).moved) == len(found)


MOVES: dict[str, tuple[bool, Move]] = {
    "claim": (False, _claim),
    "cancel": (False, lambda jobs, found: jobs.cancel([job.id for job in found])),
    "cancel_job": (False, lambda jobs, found: jobs.cancel_job(found[0].id)),
    "retry": (True, _retried),
    "finish": (True, lambda jobs, found: jobs.finish([Finish(hold(job), JobStatus.COMPLETED) for job in found])),
    "put_back": (True, lambda jobs, found: jobs.put_back(held(*found), timedelta(0), ERROR)),
    "rescue": (True, _rescue),
    "take_due": (False, _take_due),
    "update": (False, lambda jobs, found: jobs.update(found[0].id, {"workspace_id": "moved"})),
    "update_many": (False, lambda jobs, _: jobs.update_many({"status": "queued"}, {"workspace_id": "moved"})),
    "bulk_update": (
        False,
        lambda jobs, found: jobs.bulk_update([{"id": job.id, "workspace_id": "moved"} for job in found]),
    ),
    "delete": (False, lambda jobs, found: jobs.delete(found[0].id)),
    "delete_many": (False, lambda jobs, _: jobs.delete_many({"status": "queued"})),
    "cleanup": (False, _clean_up),
}


async def test_after_every_kind_of_transition_is_committed_its_status_is_written_and_the_callers_key_gone(
    database: DatabaseManager, redis: ArqRedis, hot: HotStatus
) -> None:
    cache = CacheRepository(redis)
    for move, (runs, act) in MOVES.items():
        async with database.get_transaction() as session:
            await session.execute(text("DELETE FROM jobs"))
            jobs = JobRepository(session)
            (made,) = await (running_jobs if runs else queued_jobs)(jobs, 1)
            job = await jobs.get_by_id_or_raise(made.id)
        before = await on_record(database, job.id)
        await watch(hot, before)
        await cache.set(f"job:{job.id}", "the caller's")

        async with database.get_transaction() as session:
            await act(JobRepository(session, hot), [job])
            assert await hot.read([job.id]) == before, f"{move}: before the commit"
        await hot.settled()

        assert await hot.read([job.id]) == await on_record(database, job.id), move
        assert await cache.get(f"job:{job.id}") is None, move


async def test_new_jobs_and_those_of_their_callers_are_followed(database: DatabaseManager, hot: HotStatus) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session, hot)
        mine = await jobs.create_job("document_upload")
        others = await jobs.create_many([new_job(), new_job()])
    await watch(hot, await on_record(database, mine.id, *(job.id for job in others)))
    async with database.get_transaction() as session:
        await JobRepository(session, hot).update_job_status(mine.id, JobStatus.PROCESSING, progress=40.0)
    await hot.settled()

    found = await hot.read([mine.id, *(job.id for job in others)])

    assert found == await on_record(database, *found)
    assert len(found) == 3
    assert (found[mine.id].status, found[mine.id].progress) == (JobStatus.PROCESSING, 40.0)


async def test_children_that_a_finish_released_or_failed_are_followed_in_one_statement_and_one_write(
    database: DatabaseManager, hot: HotStatus, statements: list[str]
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        good, bad = await running_jobs(jobs, 2)
        released, failed = await jobs.create_many([new_job(depends_on=[good.id]), new_job(depends_on=[bad.id])])
        (grandchild,) = await jobs.create_many([new_job(depends_on=[failed.id])])
    ids = [good.id, bad.id, released.id, failed.id, grandchild.id]
    await watch(hot, await on_record(database, *ids))

    async with database.get_transaction() as session:
        ends = [Finish(hold(good), JobStatus.COMPLETED), Finish(hold(bad), JobStatus.FAILED, None, ERROR)]
        await JobRepository(session, hot).finish(ends)
        statements.clear()
    await hot.settled()

    assert len(statements) == 1
    found = await hot.read(ids)
    assert found == await on_record(database, *ids)
    assert [found[job_id].status for job_id in ids] == ["completed", "failed", "queued", "failed", "failed"]


async def test_a_rollback_writes_nothing_and_a_savepoint_decides_nothing(
    database: DatabaseManager, redis: ArqRedis, hot: HotStatus, statements: list[str]
) -> None:
    async with database.get_transaction() as session:
        first, second = await queued_jobs(JobRepository(session), 2)
    before = await on_record(database, first.id, second.id)
    await watch(hot, before)
    await CacheRepository(redis).set(f"job:{first.id}", "the caller's")

    async with database.get_session() as session:
        await JobRepository(session, hot).cancel([first.id])
        await session.rollback()
        async with session.begin_nested():
            await JobRepository(session, hot).cancel([first.id])
    statements.clear()
    await hot.settled()
    assert statements == []
    assert await hot.read([first.id, second.id]) == before
    assert await CacheRepository(redis).get(f"job:{first.id}") == "the caller's"

    async with database.get_session() as session:
        async with session.begin_nested() as savepoint:
            await JobRepository(session, hot).cancel([first.id])
            await savepoint.rollback()
        async with session.begin_nested():
            await JobRepository(session, hot).cancel([second.id])
        await session.commit()
    await hot.settled()
    found = await hot.read([first.id, second.id])
    assert (found[first.id].status, found[second.id].status) == (JobStatus.QUEUED, JobStatus.CANCELLED)


async def test_the_process_that_committed_never_reads_what_was_before(
    database: DatabaseManager, hot: HotStatus
) -> None:
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session))
    await watch(hot, await on_record(database, job.id))

    async with database.get_session() as session:
        await JobRepository(session, hot).cancel([job.id])
        await session.commit()
        found = await hot.read([job.id])  # at once: what follows the commit is still under way

    assert found == {} or found[job.id].status is JobStatus.CANCELLED


async def test_statuses_that_cannot_be_read_again_are_not_believed_any_more(
    database: DatabaseManager, hot: HotStatus
) -> None:
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session))
    await watch(hot, await on_record(database, job.id))

    with capture_logs() as logs:
        async with database.get_transaction() as session:
            await JobRepository(session, hot).cancel([job.id])
            # Whoever reads it again after the commit finds no table: a database that fails at that moment.
            await session.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
        await hot.settled()

    assert await hot.read([job.id]) == {}
    assert [entry["jobs"] for entry in logs if entry["event"] == "hot_status.not_followed"] == [1]


async def test_a_hundred_statuses_are_read_through_with_one_query_and_then_with_none(
    database: DatabaseManager, hot: HotStatus, statements: list[str]
) -> None:
    async with database.get_transaction() as session:
        jobs = await queued_jobs(JobRepository(session), 100)
    ids = [job.id for job in jobs]
    known = await on_record(database, *ids)
    await watch(hot, {job_id: known[job_id] for job_id in ids[:50]})
    asked: list[Sequence[UUID]] = []

    async def load(missing: Sequence[UUID]) -> list[Job]:
        asked.append(missing)
        async with database.get_session() as session:
            return await JobRepository(session).snapshot(missing)

    statements.clear()
    found = await hot.get_many([*ids, uuid7()], load)

    assert found == known
    assert len(statements) == 1
    assert (len(asked), len(asked[0])) == (1, 51)
    assert await hot.get_many(ids, nothing_missing) == known


@pytest.fixture
def client(database: DatabaseManager, queue: JobQueue, settings: Settings, hot: HotStatus) -> JobClient:
    return JobClient(database, queue, Storage(settings.storage_url), settings, engine="noting", hot=hot)


async def test_the_client_asks_hot_status_and_without_it_postgresql(
    database: DatabaseManager, client: JobClient, hot: HotStatus, statements: list[str]
) -> None:
    async with database.get_transaction() as session:
        first, second = await queued_jobs(JobRepository(session), 2)
    ids = [first.id, second.id]
    known = await client.statuses(ids)
    statements.clear()
    assert await client.statuses(ids) == known
    assert statements == []

    away = JobClient(database, client._queue, client._storage, client._settings, hot=None)
    assert await away.statuses(ids) == known == await on_record(database, *ids)

    outcome = await client.cancel(ids)
    await client.settled()
    assert set(outcome.moved) == set(ids)
    seen = [view.status async for view in client.events(ids)]
    assert seen == [JobStatus.CANCELLED, JobStatus.CANCELLED]
    await client.retry(ids)
    await client.settled()
    assert {view.status for view in (await hot.get_many(ids, nothing_missing)).values()} == {JobStatus.QUEUED}


async def test_a_worker_writes_through_what_it_claims_does_and_ends_of_a_job_that_somebody_watches(
    database: DatabaseManager, client: JobClient, runtime: Runtime, hot: HotStatus
) -> None:
    runtime.hot = hot
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session), 1, type="waits")
    await watch(hot, await on_record(database, job.id))
    began, go_on = asyncio.Event(), asyncio.Event()

    async def task(_: object) -> dict[str, int]:
        began.set()
        await go_on.wait()
        return {"answer": 42}

    runtime.tasks = {"waits": task}
    running = asyncio.create_task(execute(runtime, str(job.id)))
    await began.wait()
    claimed = (await hot.get_many([job.id], nothing_missing))[job.id]
    go_on.set()
    await running
    await hot.settled()

    assert (claimed.status, claimed.worker_id, claimed.attempt) == (JobStatus.PROCESSING, "worker-1", 1)
    assert await hot.get_many([job.id], nothing_missing) == await on_record(database, job.id)


async def test_rescued_and_staged_jobs_are_written_through(
    database: DatabaseManager, queue: JobQueue, hot: HotStatus
) -> None:
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
        await expire_lease(session, job.id)
    await watch(hot, await on_record(database, job.id))

    await Upkeep(database, queue, timedelta(0), hot=hot).rescue()
    await hot.settled()

    assert (await hot.get_many([job.id], nothing_missing))[job.id].status is JobStatus.QUEUED


async def test_progress_is_told_at_most_four_times_a_second_and_the_last_of_it_too(
    database: DatabaseManager, hot: HotStatus, statements: list[str]
) -> None:
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
        await expand(session, job, 60)
    await watch(hot, await on_record(database, job.id))
    told: list[int] = []
    write, all_told = hot.write, asyncio.Event()

    async def noting(views: list[JobStatusView], **options: object) -> None:
        told.append(views[0].items_done)
        if told[-1] == 60:
            all_told.set()
        await write(views, **options)  # type: ignore[arg-type]  # passed on as it came

    hot.write = noting  # type: ignore[method-assign, assignment]  # only listens
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with asyncio.timeout(20), ItemRecorder(database, hold(job), hot) as recorder:
        for position in range(60):
            recorder.add(ItemOutcome(position=position, status=ItemStatus.DONE))
            await database.ping()  # as long as an item might take
        await all_told.wait()
    seconds = clock() - begun

    assert told == sorted(told)
    assert 1 <= len(told) <= 2 + seconds / 0.25
    assert (await hot.read([job.id]))[job.id].items_done == 60


async def expand(session: AsyncSession, job: Job | ClaimedJob, count: int) -> None:
    items = [NewItem(position=position, key=str(position), spec={}) for position in range(count)]
    assert await ItemRepository(session).expand(hold(job), items)


async def test_the_process_wide_repositories_write_through(settings: Settings, redis: ArqRedis) -> None:
    await init_db(settings, settings)
    try:
        hot = get_hot_status()
        assert hot is not None
        await hot.read([uuid4()])
        async for session in get_db_session():
            job = await (await get_job_repository(session)).create_job("document_upload")
        await hot.read([job.id])  # asks
        async for session in get_db_session():
            await (await get_job_repository(session)).update_job_status(job.id, JobStatus.PROCESSING)
        await hot.settled()
        assert (await hot.read([job.id]))[job.id].status is JobStatus.PROCESSING
    finally:
        await close_db()
    await init_db(settings, CacheSettings(redis_enabled=False))
    assert get_hot_status() is None
    await close_db()
