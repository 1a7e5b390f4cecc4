"""What Redis says of an ended job is what the record says, and whoever waits for one is shown the record."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from rich.console import Console
from sqlalchemy import text

from repositories.cache import reset_shared_memory_backend
from repositories.database import DatabaseManager
from repositories.hot_status import HotStatus, JobStatusView
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.schemas import ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus, JobStatus
from tests.factories import ERROR, hold, running_jobs
from worker.batches import Batches
from worker.client import JobClient
from worker.ends import Cancelled, Completed, End, Failed, HandedBack, TryAgain
from worker.files import FileSource
from worker.queue import JobQueue
from worker.recording import Ended, record_at_last
from worker.run import Run, Runtime
from worker.settings import Settings
from worker.storage import Storage
from worker.watch import View, follow

ENDS: dict[str, Callable[[], End]] = {
    "completed": lambda: Completed({"n": 1}),
    "failed": lambda: Failed(ERROR),
    "failed with a long message": lambda: Failed(JobError(code="long", message="ä" * 2_000)),
    "cancelled": Cancelled,
    "tried again": lambda: TryAgain(ERROR),
    "tried again later": lambda: TryAgain(ERROR, timedelta(hours=1)),
    "handed back": lambda: HandedBack(timedelta(0), "shutdown"),
}


@pytest.fixture
async def hot(redis: ArqRedis) -> AsyncIterator[HotStatus]:
    hot = HotStatus(redis)
    yield hot
    await hot.settled()
    reset_shared_memory_backend()


@pytest.fixture
def following(
    database: DatabaseManager, queue: JobQueue, storage: Storage, settings: Settings, hot: HotStatus
) -> JobClient:
    """A client that reads statuses from Redis."""
    return JobClient(database, queue, storage, settings, engine="noting", hot=hot)


async def _on_record(database: DatabaseManager, *ids: UUID) -> dict[UUID, JobStatusView]:
    async with database.get_session() as session:
        return {job.id: JobStatusView.of(job) for job in await JobRepository(session).snapshot(ids)}


async def _misstate(redis: ArqRedis, job_id: UUID, **fields: str) -> None:
    """Have the copy in Redis say something else."""
    async with redis.pipeline() as pipe:
        pipe.hset(f"cache:status:{job_id}", mapping=fields)
        await pipe.execute()


@pytest.mark.parametrize("cancel_asked", [False, True])
@pytest.mark.parametrize("end", ENDS)
async def test_every_kind_of_end_leaves_the_status_of_the_record(
    database: DatabaseManager, runtime: Runtime, following: JobClient, hot: HotStatus, end: str, *, cancel_asked: bool
) -> None:
    """It was looked at once, right after its start; all that came then is told by its end alone."""
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
    assert (await following.statuses([job.id]))[job.id].items_total == 0
    async with database.get_transaction() as session:
        items = ItemRepository(session)
        await items.expand(hold(job), [NewItem(position=place, key=str(place), spec={}) for place in range(3)])
        await items.record(
            hold(job),
            [
                ItemOutcome(position=0, status=ItemStatus.FAILED, error=ERROR),
                ItemOutcome(position=1, status=ItemStatus.DONE, result={}),
            ],
        )
        if cancel_asked:
            await session.execute(text("UPDATE jobs SET cancel_requested_at = now(), cancel_reason = 'no more need'"))

    await record_at_last(replace(runtime, hot=hot), [Ended(Run(job, runtime), ENDS[end]())])

    assert await hot.read([job.id]) == await _on_record(database, job.id)


async def test_a_hundred_jobs_that_fail_at_once_are_shown_as_the_record_has_them(
    database: DatabaseManager, runtime: Runtime, following: JobClient, hot: HotStatus
) -> None:
    files = [FileSource(f"{place}.txt", b"reject") for place in range(2)]
    ids = [(await following.upload_documents("handbook", files)).id for _ in range(100)]
    last: dict[UUID, JobStatusView] = {}

    async with Batches(replace(runtime, hot=hot), ("default",)):
        async for view in following.events(ids):
            last[view.id] = view

    assert last == await _on_record(database, *ids)
    assert await hot.read(ids) == last
    assert {(view.status, view.items_total, view.items_failed) for view in last.values()} == {(JobStatus.FAILED, 2, 2)}


async def test_the_last_line_of_who_follows_is_the_record(
    database: DatabaseManager, following: JobClient, redis: ArqRedis
) -> None:
    """Also where the copy in Redis is wrong for a reason that nobody thought of."""
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
    await following.statuses([job.id])
    await _misstate(redis, job.id, status="failed", items_failed="2")
    async with database.get_transaction() as session:
        await session.execute(
            text("UPDATE jobs SET status = 'failed', completed_at = now(), lease_expires_at = NULL, items_total = 2")
        )
    console = Console(file=StringIO(), width=200)

    (returned,) = await follow(following, [job.id], console, View.JSON)

    (*_, last) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    told = json.loads(last)
    assert (told["status"], told["items_total"], told["items_failed"]) == ("failed", 2, 0)
    assert (returned.status, returned.items_total, returned.items_failed) == (JobStatus.FAILED, 2, 0)


async def test_a_job_that_redis_alone_takes_for_ended_is_followed_on(
    database: DatabaseManager, following: JobClient, redis: ArqRedis
) -> None:
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
    await following.statuses([job.id])
    await _misstate(redis, job.id, status="failed")

    events = following.events([job.id])

    assert (await anext(events)).status is JobStatus.PROCESSING
    async with database.get_transaction() as session:
        await session.execute(
            text("UPDATE jobs SET status = 'completed', completed_at = now(), lease_expires_at = NULL")
        )
    assert [view.status async for view in events] == [JobStatus.COMPLETED]
