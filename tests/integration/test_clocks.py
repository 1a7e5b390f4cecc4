"""Machines whose clocks differ by hours: who takes a job, in which order, and who counts as alive."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import arq.utils
import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix
from arq.worker import Retry as ArqRetry

import worker.execution
import worker.why
from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.schemas import NewJob
from repositories.states import JobStatus
from tests.arq_workers import NOOP, stock_worker
from tests.factories import running_jobs
from tests.integration.test_registry import live_worker
from tests.waiting import until
from worker.batches import Batches
from worker.client import JobClient
from worker.execution import execute
from worker.queue import JobQueue
from worker.reasons import Reason
from worker.registry import Registry
from worker.run import Runtime
from worker.settings import Settings

HOUR = 3_600
REAL_TIME, REAL_MS = time.time, arq.utils.timestamp_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    return Clock(monkeypatch)


class Clock:
    """This process's clock; the servers' are as they are."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def is_ahead(self, seconds: float) -> None:
        """Have it be so far ahead; less than zero: behind."""
        self._patch.setattr(time, "time", lambda: REAL_TIME() + seconds)
        self._patch.setattr(arq.worker, "timestamp_ms", lambda: REAL_MS() + int(seconds * 1000))


async def _enqueue(client: JobClient, *priorities: int) -> list[UUID]:
    return await client.enqueue_many([NewJob(type="noop", payload={}, priority=priority) for priority in priorities])


@pytest.mark.parametrize("worker_clock", [-HOUR, 0, HOUR])
@pytest.mark.parametrize("client_clock", [-HOUR, 0, HOUR])
@pytest.mark.parametrize("kind", ["ours", "stock"])
async def test_the_last_priority_is_taken_whatever_the_clocks_say(
    client: JobClient,
    runtime: Runtime,
    settings: Settings,
    clock: Clock,
    kind: str,
    client_clock: int,
    worker_clock: int,
) -> None:
    clock.is_ahead(client_clock)
    ids = await _enqueue(client, 9, 0, 5)
    clock.is_ahead(worker_clock)

    if kind == "ours":
        async with Batches(replace(runtime, tasks=NOOP), ("default",)):
            jobs = await client.wait(ids, timeout_seconds=20)
    else:
        async with stock_worker(settings) as running:
            jobs = await client.wait(ids, timeout_seconds=20)
            assert not running.done()

    assert {job.status for job in jobs} == {JobStatus.COMPLETED}


async def test_places_are_by_priority_and_then_by_time_whoever_enqueued(
    client: JobClient, queue: JobQueue, clock: Clock
) -> None:
    enqueued: list[tuple[int, UUID]] = []
    for ahead in (HOUR, -HOUR, 0, -5 * HOUR, HOUR):
        clock.is_ahead(ahead)
        enqueued += zip((9, 0, 5), await _enqueue(client, 9, 0, 5), strict=True)
        await until(_later_than(REAL_TIME() + 0.002))  # places are told in milliseconds

    places = await queue.positions([job_id for _, job_id in enqueued])

    # Sorting keeps the order of what is equal: within a priority the one that was handed over first.
    assert sorted(places, key=lambda job_id: places[job_id]) == [
        job_id for _, job_id in sorted(enqueued, key=lambda one: one[0])
    ]


def _later_than(end: float) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return REAL_TIME() > end

    return look


async def test_a_message_that_a_stock_worker_put_off_by_its_own_clock_is_taken_at_once(
    client: JobClient, queue: JobQueue, redis: ArqRedis
) -> None:
    (job_id,) = await _enqueue(client, 5)
    await redis.zadd(default_queue_name, {str(job_id): (REAL_TIME() + HOUR) * 1000})

    assert await queue.take(["default"], 1) == [job_id]
    assert 0 < await redis.pttl(f"{in_progress_key_prefix}{job_id}") <= 5_000


async def test_a_stock_worker_that_cannot_claim_leaves_the_message_in_its_place(
    database: DatabaseManager, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.execution, "_AGAIN_SECONDS", 0.01)
    away = DatabaseManager("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))

    with pytest.raises(ArqRetry) as caught:
        await execute(replace(runtime, database=away), str(job.id))

    assert caught.value.defer_score is None  # by whose clock would it be?


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(hours=-3)])
async def test_a_worker_whose_clock_differs_hides_no_other_and_is_not_hidden(redis: ArqRedis, ahead: timedelta) -> None:
    registry = Registry(redis)
    usual, other = live_worker("usual"), live_worker("other", beat_at=datetime.now(UTC) + ahead)
    await registry.announce(usual)
    await registry.announce(other)
    assert {one.id for one in await registry.live()} == {"usual", "other"}

    await registry.announce(usual)

    assert {one.id for one in await registry.live()} == {"usual", "other"}


async def test_whether_a_lease_ran_out_is_asked_of_the_database(
    database: DatabaseManager, client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Ahead":
            return super().now(tz) + timedelta(hours=1)

    monkeypatch.setattr(worker.why, "datetime", Ahead)
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))

    assert (await client.why(job.id)).reason is Reason.RUNNING
