"""A job that kills its worker is found and fails; the jobs that were running beside it all complete."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from typing import Self

import pytest

from repositories.database import DatabaseManager
from repositories.schemas import NewJob
from repositories.states import JobStatus
from worker.client import JobClient
from worker.queue import JobQueue
from worker.settings import Settings
from worker.storage import Storage

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(170)]


class Fleet:
    """Workers that are started again when they die, as a platform would."""

    def __init__(self, settings: Settings, processes: int) -> None:
        assert settings.database_url is not None
        assert settings.redis_url is not None
        self._environment = os.environ | {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "STORAGE_URL": settings.storage_url,
            "LEASE_SECONDS": "2",
            "HEARTBEAT_SECONDS": "0.5",
        }
        self._processes = processes
        self._keepers: list[asyncio.Task[None]] = []
        self.deaths = 0

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.poison_worker"), env=self._environment, stdout=DEVNULL, stderr=DEVNULL
        )

    async def _keep(self) -> None:
        while True:
            process = await self._start()
            try:
                await process.wait()
                self.deaths += 1
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()

    async def __aenter__(self) -> Self:
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._processes)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.wait(self._keepers)


@pytest.fixture
def client(database: DatabaseManager, queue: JobQueue, settings: Settings) -> JobClient:
    return JobClient(database, queue, Storage(settings.storage_url), settings)


async def test_a_poison_job_fails_alone_and_its_neighbours_complete(client: JobClient, settings: Settings) -> None:
    steady = [NewJob(type="steady", payload={}) for _ in range(36)]
    ids = await client.enqueue_many([*steady[:5], NewJob(type="poison", payload={}), *steady[5:]])

    async with Fleet(settings, 2) as fleet:
        ended = await client.wait(ids, timeout_seconds=150)

    bad = ended.pop(5)
    assert (bad.status, bad.errors[-1]["code"], bad.crashes) == (JobStatus.FAILED, "worker_lost", bad.max_crashes)
    assert {job.status for job in ended} == {JobStatus.COMPLETED}
    assert sum(job.crashes for job in ended) == 0
    assert fleet.deaths <= 3  # beside others; the rest of its tries killed nothing but a process of its own
    assert bad.attempt == 2 + bad.max_crashes
