"""The fixtures of :mod:`tests.integration.anythingllm_fixtures` for tests that leave nothing as it was.

Each test has a server of its own, and an engine that no number of failures keeps from it.
"""

from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from tests.anythingllm_server import Behaviour, Server, anythingllm_server
from tests.integration.anythingllm_engines import make_engine
from tests.integration.anythingllm_fixtures import client, look
from worker.engines.anythingllm import AnythingLLMEngine

__all__ = ["client", "engine", "look", "server"]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with anythingllm_server(Behaviour.quick()) as running:
        yield running


@pytest.fixture
async def engine(server: Server, database: DatabaseManager, redis: ArqRedis) -> AsyncIterator[AnythingLLMEngine]:
    engine = make_engine(server, database, redis, circuit_failures=1_000)
    yield engine
    await engine.aclose()
