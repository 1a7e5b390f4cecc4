"""The page's names: a job repository and a cache repository on this test's own servers."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncSession

from repositories import CacheRepository, JobRepository


@pytest.fixture
def job_repo(session: AsyncSession) -> JobRepository:
    return JobRepository(session)


@pytest.fixture
async def cache_repo(redis: ArqRedis) -> AsyncIterator[CacheRepository]:
    cache = CacheRepository(redis, namespace=f"test-{uuid4().hex[:8]}")
    yield cache
    await cache.clear()
