"""Fixtures of tests of the AnythingLLM engine: a server for a module, and an engine, a workspace and a look for a test.

A test module imports those that it names, and those that they need.
"""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from tests.anythingllm_server import Behaviour, Server, running_server
from tests.integration.anythingllm_engines import Look, make_engine
from worker.client import JobClient
from worker.engines.anythingllm import AnythingLLMEngine
from worker.queue import JobQueue
from worker.settings import Settings
from worker.storage import Storage

__all__ = ["client", "engine", "look", "running", "server", "slug"]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with running_server(Behaviour.quick()) as server:
        yield server


@pytest.fixture
async def server(running: Server) -> Server:
    """The module's server, behaving well again."""
    await running.control(**Behaviour.quick().model_dump(exclude={"seed", "api_key"}))
    await running.reset_counters()
    return running


@pytest.fixture
async def look(server: Server) -> AsyncIterator[Look]:
    looking = Look(server)
    yield looking
    await looking.aclose()


@pytest.fixture
async def engine(server: Server, database: DatabaseManager, redis: ArqRedis) -> AsyncIterator[AnythingLLMEngine]:
    engine = make_engine(server, database, redis)
    yield engine
    await engine.aclose()


@pytest.fixture
async def slug(engine: AnythingLLMEngine) -> str:
    return await engine.ensure_workspace(f"Shop {uuid4()}")


@pytest.fixture
def client(database: DatabaseManager, queue: JobQueue, storage: Storage, settings: Settings) -> JobClient:
    return JobClient(database, queue, storage, settings, engine="anythingllm")
