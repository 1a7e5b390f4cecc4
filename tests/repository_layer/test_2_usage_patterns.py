"""Section "Usage Patterns" of the page: dependency injection, transactions, caching."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from repositories import CacheRepository, JobRepository, JobType, get_cache_repository, get_job_repository
from repositories.database import close_db, get_db_transaction, init_db
from repositories.schemas import JobCreate
from worker.settings import Settings


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The small app of the page; its servers are opened and closed with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await init_db(settings, settings)
        yield
        await close_db()

    app = FastAPI(lifespan=lifespan)

    @app.post("/jobs")
    async def create_job(  # type: ignore[no-untyped-def]  # as the page writes it, without a return type
        job_data: JobCreate,
        job_repo: JobRepository = Depends(get_job_repository),
        cache_repo: CacheRepository = Depends(get_cache_repository),
    ):
        # Create job
        job = await job_repo.create_job(
            job_type=job_data.type,
            workspace_id=job_data.workspace_id,
        )

        # Cache job data
        await cache_repo.set(f"job:{job.id}", job.dict(), ttl=3600)

        return job

    @app.post("/pairs")
    async def complex_operation(
        fail: bool = False,
        session: AsyncSession = Depends(get_db_transaction),
    ) -> list[str]:
        job_repo = JobRepository(session)

        # All operations in this function will be in a single transaction
        job1 = await job_repo.create_job(JobType.DOCUMENT_UPLOAD)
        job2 = await job_repo.create_job(JobType.QUESTION_PROCESSING)
        if fail:
            raise RuntimeError("after both")

        # Transaction commits automatically on success
        # Rolls back automatically on exception
        return [str(job1.id), str(job2.id)]

    @app.get("/jobs/{job_id}/cached")
    async def cached(job_id: str, cache_repo: CacheRepository = Depends(get_cache_repository)) -> Any:
        return await cache_repo.get(f"job:{job_id}")

    @app.get("/count")
    async def count(job_repo: JobRepository = Depends(get_job_repository)) -> int:
        return await job_repo.count()

    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_dependency_injection(http: httpx.AsyncClient) -> None:
    made = await http.post("/jobs", json={"type": "document_upload", "workspace_id": "workspace_123"})

    assert made.status_code == 200
    job = made.json()
    assert (job["type"], job["workspace_id"], job["status"]) == ("document_upload", "workspace_123", "pending")
    found = (await http.get(f"/jobs/{job['id']}/cached")).json()
    assert (found["id"], found["metadata"]) == (job["id"], {})


async def test_transaction_management(http: httpx.AsyncClient) -> None:
    assert (await http.post("/pairs", params={"fail": True})).status_code == 500
    assert (await http.get("/count")).json() == 0

    assert len((await http.post("/pairs")).json()) == 2
    assert (await http.get("/count")).json() == 2


async def test_cache_aside_pattern(job_repo: JobRepository, cache_repo: CacheRepository) -> None:
    async def get_job_with_cache(job_id: str, job_repo: JobRepository, cache_repo: CacheRepository) -> Any:
        # Try cache first
        cached_job = await cache_repo.get(f"job:{job_id}")
        if cached_job:
            return cached_job

        # Fall back to database
        job = await job_repo.get_by_id(job_id)
        if job:
            # Cache for future requests
            await cache_repo.set(f"job:{job_id}", job.dict(), ttl=3600)

        return job

    made = await job_repo.create_job(JobType.DOCUMENT_UPLOAD, metadata={"project": "test"})

    first = await get_job_with_cache(str(made.id), job_repo, cache_repo)
    second = await get_job_with_cache(str(made.id), job_repo, cache_repo)

    assert first.dict() == second  # ids, times and states come back as they were
    assert await get_job_with_cache("nobody", job_repo, cache_repo) is None


async def test_write_through_pattern(job_repo: JobRepository, cache_repo: CacheRepository) -> None:
    async def update_job_with_cache(
        job_id: str, updates: Any, job_repo: JobRepository, cache_repo: CacheRepository
    ) -> Any:
        # Update database
        job = await job_repo.update(job_id, updates)

        # Update cache
        await cache_repo.set(f"job:{job_id}", job.dict(), ttl=3600)

        return job

    made = await job_repo.create_job(JobType.DOCUMENT_UPLOAD)

    await update_job_with_cache(str(made.id), {"metadata": {"project": "new"}}, job_repo, cache_repo)

    assert (await cache_repo.get(f"job:{made.id}"))["metadata"] == {"project": "new"}
    assert (await job_repo.get_by_id_or_raise(made.id)).job_metadata == {"project": "new"}


async def test_cache_invalidation(cache_repo: CacheRepository) -> None:
    async def invalidate_workspace_cache(workspace_id: str, cache_repo: CacheRepository) -> int:
        # Invalidate all workspace-related cache entries
        pattern = f"workspace:{workspace_id}:*"
        invalidated_count = await cache_repo.invalidate_pattern(pattern)
        return invalidated_count

    await cache_repo.set_many({"workspace:a:1": 1, "workspace:a:2": 2, "workspace:b:1": 3})

    assert await invalidate_workspace_cache("a", cache_repo) == 2
    assert await cache_repo.exists("workspace:b:1")
