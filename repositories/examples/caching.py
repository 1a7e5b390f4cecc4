"""Patterns over the cache, and what a monitor and a nightly clean-up do.

Each function is one pattern. It takes what was opened, does real work, and returns what came of it.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from repositories.cache import CacheRepository
from repositories.examples.servers import Facts, Opened
from repositories.examples.service import RepositoryService
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.states import JobStatus, JobType


async def service_layer(opened: Opened) -> Facts:
    """A service keeps the cache in step, so that its callers need not know of it."""
    async with opened.database.get_transaction() as session:
        service = RepositoryService(JobRepository(session), opened.cache)
        job = await service.create_and_cache_job(JobType.DOCUMENT_UPLOAD, "contracts", {"project": "test"})
        before = await service.get_workspace_job_stats("contracts")
        await service.update_job_with_cache_invalidation(job.id, JobStatus.COMPLETED, result={"pages": 12})
        after = await service.get_workspace_job_stats("contracts")
        seen = await service.get_job_with_cache(job.id)
    return {
        "completed before": before["status_counts"]["completed"],
        "completed after": after["status_counts"]["completed"],
        "result": seen["result"] if seen else None,
    }


async def cache_aside(opened: Opened) -> Facts:
    """Ask the cache; ask the database only for what is not there, and keep it."""
    async with opened.database.get_transaction() as session:
        service = RepositoryService(JobRepository(session), opened.cache)
        job = await service.job_repo.create_job(JobType.DOCUMENT_UPLOAD)
        cached_before = await opened.cache.exists(f"job:{job.id}")
        first = await service.get_job_with_cache(job.id)
        cached_after = await opened.cache.exists(f"job:{job.id}")
        second = await service.get_job_with_cache(job.id)
        # The same in one call; of a hundred callers who miss at once, one asks the database.
        count = await opened.cache.get_or_set("jobs:count", service.job_repo.count, ttl=60)
        return {
            "cached before the first read": cached_before,
            "cached after it": cached_after,
            "both reads alike": first == second,
            "jobs": count,
        }


async def update_job_with_cache(
    job_id: UUID | str, updates: Mapping[str, Any], job_repo: JobRepository, cache_repo: CacheRepository
) -> Job:
    """Write a job to the database, and what came of it to the cache."""
    job = await job_repo.update(job_id, updates)
    await cache_repo.set(f"job:{job.id}", job.dict(), ttl=3600)
    return job


async def write_through(opened: Opened) -> Facts:
    """Write both, so that the next read finds the new value in the cache."""
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        job = await jobs.create_job(JobType.DOCUMENT_UPLOAD, metadata={"project": "old"})
        await update_job_with_cache(job.id, {"metadata": {"project": "new"}}, jobs, opened.cache)
        in_database = await jobs.get_by_id_or_raise(job.id)
    in_cache = await opened.cache.get(f"job:{job.id}")
    return {"in the database": in_database.job_metadata, "in the cache": in_cache["metadata"]}


async def invalidate_workspace_cache(workspace_id: str, cache_repo: CacheRepository) -> int:
    """Forget everything that is kept of a workspace; return how much that was."""
    return await cache_repo.invalidate_pattern(f"workspace:{workspace_id}:*")


async def cache_invalidation(opened: Opened) -> Facts:
    """Forget by pattern what a change made outdated, and nothing else."""
    await opened.cache.set_many({"workspace:a:stats": 1, "workspace:a:jobs": 2, "workspace:b:stats": 3}, ttl=60)
    return {
        "forgotten": await invalidate_workspace_cache("a", opened.cache),
        "left": await opened.cache.get_keys("workspace:[ab]:*"),
    }


async def health_monitoring(opened: Opened) -> Facts:
    """Ask both servers how they are, in a form for a monitor."""
    async with opened.database.get_transaction() as session:
        health = await RepositoryService(JobRepository(session), opened.cache).get_system_health()
    statistics = await opened.cache.get_cache_stats()
    return {
        "healthy": health["healthy"],
        "database": health["database"]["healthy"],
        "cache": health["cache"]["backend"],
        "cached keys": statistics["total_keys"],
        "hits": statistics["hits"],
        "misses": statistics["misses"],
    }


async def cleanup(opened: Opened) -> Facts:
    """Say first what would go, then delete it: what ended long ago, and no cached copy is left behind."""
    async with opened.database.get_transaction() as session:
        service = RepositoryService(JobRepository(session), opened.cache)
        old = await service.create_and_cache_job(JobType.DOCUMENT_UPLOAD)
        new = await service.create_and_cache_job(JobType.DOCUMENT_UPLOAD)
        for job in (old, new):
            await service.update_job_with_cache_invalidation(job.id, JobStatus.COMPLETED)
            await service.get_job_with_cache(job.id)
        # Nobody waits eight days for an example: this job ended then.
        ended = text("UPDATE jobs SET completed_at = completed_at - interval '8 days' WHERE id = :id")
        await session.execute(ended, {"id": old.id})
        would_go = await service.job_repo.list_expired(timedelta(days=7))
        gone = await service.cleanup_old_data(days=7)
        left = await service.job_repo.get_many([old.id, new.id])
    return {
        "would go": len(would_go),
        "deleted": gone["jobs_deleted"],
        "newer one kept": [job.id for job in left] == [new.id],
        "cached copy left": await opened.cache.exists(f"job:{old.id}"),
    }
