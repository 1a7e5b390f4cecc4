"""The lease keeper's thread: a busy event loop loses no job, and a cancel request is told at once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import NewJob
from repositories.states import JobStatus
from worker.batches import Batches
from worker.client import JobClient
from worker.errors import CancelRequestedError
from worker.leases import LeaseKeeper
from worker.run import Run, Runtime

LEASE_SECONDS = 1.0
BLOCKED_SECONDS = 3.0


class Rescuer:
    """Another worker, in a thread of its own: it rescues lost jobs all the time."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.looks = 0
        self.rescued = 0

    async def _run(self) -> None:
        async with DatabaseManager(self._url, pool_size=1) as database:
            while not self._stop.wait(0.02):
                async with database.get_transaction() as session:
                    outcome = await JobRepository(session).rescue(10, timedelta(seconds=LEASE_SECONDS))
                self.rescued += len(outcome.moved)
                self.looks += 1

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 10)


@pytest.fixture
async def rescuer(database_url: str) -> AsyncIterator[Rescuer]:
    rescuer = Rescuer(database_url)
    rescuer.start()
    yield rescuer
    await rescuer.stop()


@pytest.fixture
async def keeper(database_url: str) -> AsyncIterator[LeaseKeeper]:
    keeper = LeaseKeeper(database_url, lease=timedelta(seconds=LEASE_SECONDS), every=timedelta(seconds=0.2))
    await keeper.start()
    yield keeper
    await keeper.stop()


@pytest.mark.slow
async def test_a_task_that_blocks_the_event_loop_for_longer_than_the_lease_keeps_its_job(
    client: JobClient, runtime: Runtime, keeper: LeaseKeeper, rescuer: Rescuer
) -> None:
    looks = []

    async def blocks(run: Run) -> dict[str, Any]:
        looks.append(rescuer.looks)
        time.sleep(BLOCKED_SECONDS)  # noqa: ASYNC251 - the fault that is to do no harm
        looks.append(rescuer.looks)
        return {}

    settings = runtime.settings.model_copy(update={"lease_seconds": LEASE_SECONDS})
    ours = replace(runtime, settings=settings, leases=keeper, tasks={"blocks": blocks})
    ids = await client.enqueue_many([NewJob(type="blocks", payload={})])

    async with Batches(ours, ["default"]):
        (job,) = await client.wait(ids, timeout_seconds=20)

    assert (job.status, job.attempt, job.crashes) == (JobStatus.COMPLETED, 1, 0)
    assert rescuer.rescued == 0
    assert looks[1] - looks[0] > 5, "nobody looked for lost jobs meanwhile"


async def test_a_row_that_is_locked_most_of_the_time_keeps_its_lease(
    database: DatabaseManager, keeper: LeaseKeeper, rescuer: Rescuer
) -> None:
    lease = timedelta(seconds=LEASE_SECONDS)
    async with database.get_transaction() as session:
        (job,) = await JobRepository(session).create_many([NewJob(type="x", payload={})])
        (claimed,) = await JobRepository(session).claim([job.id], "worker", lease)

    class Held:
        held = claimed.held

        def stop_as_lost(self) -> None:
            pass

        request_cancel = stop_as_lost

    with keeper.holding(Held()):
        for _ in range(12):  # as progress does that is written all the time to a slow disk
            async with database.get_transaction() as session:
                await session.execute(select(Job.id).where(Job.id == job.id).with_for_update())
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.06)

    assert rescuer.rescued == 0


@pytest.mark.slow
async def test_a_running_job_is_told_within_a_second_that_it_is_to_be_cancelled(
    client: JobClient, runtime: Runtime, database_url: str
) -> None:
    settings = runtime.settings  # as they are shipped
    leases = LeaseKeeper(
        database_url,
        lease=timedelta(seconds=settings.lease_seconds),
        every=timedelta(seconds=settings.heartbeat_seconds),
    )
    told: dict[str, float] = {}

    async def waits(run: Run) -> dict[str, Any]:
        while not run.cancel_requested:  # noqa: ASYNC110 - how a task learns of it
            await asyncio.sleep(0.002)
        told[str(run.job.id)] = time.monotonic()
        raise CancelRequestedError

    await leases.start()
    delays = []
    async with Batches(replace(runtime, leases=leases, tasks={"waits": waits}), ["default"]) as batches:
        for number in range(8):
            (job_id,) = await client.enqueue_many([NewJob(type="waits", payload={})])
            async with asyncio.timeout(10):
                while batches.running == 0:  # noqa: ASYNC110 - as tests.waiting, but quicker
                    await asyncio.sleep(0.002)
            await asyncio.sleep(number * 0.07)  # so that the requests fall between two looks at various places
            asked = time.monotonic()
            await client.cancel([job_id])
            (job,) = await client.wait([job_id], timeout_seconds=10)
            assert job.status is JobStatus.CANCELLED
            delays.append(told[str(job_id)] - asked)
    await leases.stop()

    assert max(delays) < 1.0, delays
