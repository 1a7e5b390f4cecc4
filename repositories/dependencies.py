"""FastAPI dependencies: a repository for a request, on the process-wide database and cache of ``init_db``.

Importing this module needs the extra ``web``. Each dependency can be replaced in ``app.dependency_overrides``.

The session has the scope ``function``: it commits before the response is sent, so that who got an answer finds the job,
and a commit that fails is an error and no success. FastAPI's default would commit afterwards. Where an endpoint needs
the session as well, it takes ``job_repo.session``, or ``Depends(get_db_session, scope="function")``, which is the same.
"""

from typing import Annotated

from fastapi import Depends
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.cache import CacheRepository
from repositories.database import get_db_read_session, get_db_session, get_hot_status, get_redis
from repositories.jobs import JobRepository

__all__ = ["get_cache_repository", "get_job_repository", "get_read_repository"]


async def get_job_repository(
    session: Annotated[AsyncSession, Depends(get_db_session, scope="function")],
) -> JobRepository:
    """A job repository on the request's session, which commits before the response is sent; hot statuses follow it."""
    return JobRepository(session, get_hot_status())


def get_read_repository(
    session: Annotated[AsyncSession, Depends(get_db_read_session, scope="function")],
) -> JobRepository:
    """A job repository for lists and statistics: it only reads, on the read replica if there is one that answers.

    A replica follows with some lag: what the request before has written may not be there yet.
    """
    return JobRepository(session)


async def get_cache_repository(redis_client: Annotated[Redis | None, Depends(get_redis)]) -> CacheRepository:
    """The cache: in Redis if there is one, else the one memory of the process, never an empty one a request."""
    return CacheRepository(redis_client)
