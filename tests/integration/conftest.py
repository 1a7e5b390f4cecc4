"""A client and a worker's runtime on this test's own servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from repositories.database import DatabaseManager
from tests.engines import NotingEngine
from tests.workshop import Workshop
from worker.client import JobClient
from worker.leases import LeaseKeeper
from worker.queue import JobQueue
from worker.run import Runtime
from worker.settings import Settings
from worker.storage import Storage
from worker.tasks import TASKS
from worker.uploads.opening import Sources, make_sources


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return Storage(settings.storage_url)


@pytest.fixture
def sources(settings: Settings) -> Sources:
    return make_sources(settings)


@pytest.fixture
def engine() -> NotingEngine:
    return NotingEngine()


@pytest.fixture
def client(database: DatabaseManager, queue: JobQueue, storage: Storage, settings: Settings) -> JobClient:
    return JobClient(database, queue, storage, settings, engine="noting")


class TellingKeeper(LeaseKeeper):
    """A lease keeper that lets a test wait until a job was told something."""

    def __init__(self, database_url: str, told: asyncio.Event) -> None:
        super().__init__(database_url, lease=timedelta(seconds=2), every=timedelta(seconds=0.1))
        self._told = told

    def _tell(self, call: Callable[[], None]) -> None:
        super()._tell(call)
        super()._tell(self._told.set)


@pytest.fixture
def told() -> asyncio.Event:
    """Set once the lease keeper has told a job that it was lost or is to be cancelled."""
    return asyncio.Event()


@pytest.fixture
async def runtime(
    database: DatabaseManager,
    database_url: str,
    told: asyncio.Event,
    queue: JobQueue,
    sources: Sources,
    settings: Settings,
    engine: NotingEngine,
) -> AsyncIterator[Runtime]:
    """What a worker lends to its jobs; leases of two seconds, extended ten times a second."""
    leases = TellingKeeper(database_url, told)
    await leases.start()
    yield Runtime(settings, database, queue, sources, engine, leases, "worker-1", TASKS)
    await leases.stop()


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
def shop(runtime: Runtime, workshop: Workshop) -> Runtime:
    return replace(runtime, tasks=workshop.tasks)
