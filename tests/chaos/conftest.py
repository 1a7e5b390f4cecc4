"""Real worker processes on a test's own database, and the client that gives them work."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from arq.connections import ArqRedis

from tests.chaos.programs import Programs
from worker.client import JobClient, open_client
from worker.settings import Settings


@pytest.fixture
async def programs(settings: Settings, redis: ArqRedis, tmp_path: Path) -> AsyncIterator[Programs]:
    running = Programs(settings, tmp_path / "programs.log")
    yield running
    await running.end()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[JobClient]:
    async with open_client(settings) as client:
        yield client
