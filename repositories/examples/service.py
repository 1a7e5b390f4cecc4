"""A service layer: what an API would call instead of the repositories themselves.

It joins its caller's transaction and never commits. So the cache is written before the commit: should the transaction
be rolled back, the cache is ahead of the record until the lifetime ends. What decides something is read from the
database; the cache is for what is looked at often.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from repositories.base import as_uuid
from repositories.cache import CacheRepository
from repositories.cache.glob import escape_glob
from repositories.errors import DatabaseUnavailableError, translated
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.states import JobStatus

JOB_LIFETIME = timedelta(hours=1)
STATISTICS_LIFETIME = timedelta(minutes=1)


class RepositoryService:
    """Jobs through a cache.

    Args:
        job_repo: on the session of the caller, who commits.
        cache_repo: in Redis or in memory; nothing here asks which.
    """

    def __init__(self, job_repo: JobRepository, cache_repo: CacheRepository) -> None:
        self.job_repo = job_repo
        self.cache_repo = cache_repo

    async def create_and_cache_job(
        self, job_type: str, workspace_id: str | None = None, metadata: dict[str, Any] | None = None, **fields: Any
    ) -> Job:
        """Write a job and keep a copy of it for an hour.

        Args:
            job_type: a ``JobType``, or any other text.
            workspace_id: plain text; its cached statistics are forgotten.
            metadata: whatever the caller wants to find on the job again.
            fields: further fields of :class:`repositories.schemas.NewJob`.

        Raises:
            ConflictError: the idempotency key belongs to another job.
        """
        job = await self.job_repo.create_job(job_type, workspace_id, metadata, **fields)
        await self._forget_statistics(job.workspace_id)
        await self.cache_repo.set(_job_key(job.id), job.dict(), ttl=JOB_LIFETIME)
        return job

    async def get_job_with_cache(self, job_id: UUID | str) -> dict[str, Any] | None:
        """Return a job as a dict: from the cache if it is there, else from the database, which fills the cache.

        Every caller gets the same shape, wherever it came from; ``None`` is an unknown job, and is not kept.
        """
        key = as_uuid(job_id)  # however its id is spelt, a job has one key: an update can forget no second copy
        if key is None:
            return None
        cached: dict[str, Any] | None = await self.cache_repo.get(_job_key(key))
        if cached is not None:
            return cached
        job = await self.job_repo.get_by_id(key)
        if job is None:
            return None
        await self.cache_repo.set(_job_key(key), job.dict(), ttl=JOB_LIFETIME)
        return job.dict()

    async def update_job_with_cache_invalidation(
        self,
        job_id: UUID | str,
        status: JobStatus,
        progress: float | None = None,
        result: dict[str, Any] | None = None,
        error: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Job:
        """Report on a job that the caller drives, and forget what the cache holds of it and of its workspace.

        Arguments are those of :meth:`JobRepository.update_job_status`.

        Raises:
            NotFoundError: there is no such job.
            InvalidTransitionError: the job cannot become ``status``; the cache is left as it was.
        """
        job = await self.job_repo.update_job_status(job_id, status, progress, result, error, metadata)
        await self.cache_repo.delete(_job_key(job.id))
        await self._forget_statistics(job.workspace_id)
        return job

    async def get_workspace_job_stats(self, workspace_id: str, days: int = 30) -> dict[str, Any]:
        """Return :meth:`JobRepository.get_job_statistics` of a workspace, at most a minute old.

        However many callers miss at once, one of them asks the database.
        """
        return dict(
            await self.cache_repo.get_or_set(
                f"workspace:{workspace_id}:stats:{days}",
                lambda: self.job_repo.get_job_statistics(workspace_id, days),
                ttl=STATISTICS_LIFETIME,
            )
        )

    async def cleanup_old_data(self, days: int = 7) -> dict[str, int]:
        """Delete the jobs that ended more than ``days`` days ago, and every cached copy of jobs and statistics.

        Returns:
            ``jobs_deleted`` and ``cache_keys_removed``.

        Raises:
            ValueError: ``days`` is negative.
        """
        deleted = await self.job_repo.cleanup_old_jobs(days)
        removed = [await self.cache_repo.invalidate_pattern(pattern) for pattern in ("job:*", "workspace:*")]
        return {"jobs_deleted": deleted, "cache_keys_removed": sum(removed)}

    async def get_system_health(self) -> dict[str, Any]:
        """Say whether database and cache answer, for a monitor; a server that is away is told, not raised.

        Returns:
            ``healthy`` (both are); ``database`` with ``healthy`` and, if it is not, ``reason``; ``cache`` with
            ``healthy``, ``backend`` (``redis`` or ``memory``) and ``latency_seconds`` (``None`` where not measured).
        """
        database: dict[str, Any] = {"healthy": True}
        try:
            with translated():
                await self.job_repo.session.execute(text("SELECT 1"))
        except DatabaseUnavailableError as error:
            database = {"healthy": False, "reason": str(error)}
        cache = await self.cache_repo.health()
        return {
            "healthy": bool(database["healthy"] and cache.healthy),
            "database": database,
            "cache": {"healthy": cache.healthy, "backend": cache.backend, "latency_seconds": cache.latency_seconds},
        }

    async def _forget_statistics(self, workspace_id: str | None) -> None:
        if workspace_id is not None:
            # A workspace may be called "a*": as it stands it would be a pattern for others, too.
            await self.cache_repo.invalidate_pattern(f"workspace:{escape_glob(workspace_id)}:*")


def _job_key(job_id: UUID) -> str:
    return f"job:{job_id}"
