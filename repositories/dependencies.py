"""FastAPI dependencies: a repository for a request, on the process-wide database and cache of ``init_db``.

Importing this module needs the extra ``web``. Each dependency can be replaced in ``app.dependency_overrides``.
"""

from typing import Annotated

from fastapi import Depends
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.cache import CacheRepository
from repositories.database import get_db_session, get_redis
from repositories.jobs import JobRepository

__all__ = ["get_cache_repository", "get_job_repository"]


def get_job_repository(session: Annotated[AsyncSession, Depends(get_db_session)]) -> JobRepository:
    """A job repository on the request's session, which commits at the end of the request."""
    return JobRepository(session)


def get_cache_repository(redis_client: Annotated[Redis | None, Depends(get_redis)]) -> CacheRepository:
    """The cache: in Redis if there is one, else the one memory of the process, never an empty one a request."""
    return CacheRepository(redis_client)
