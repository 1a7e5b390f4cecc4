"""Section "Components" of the repository layer's page: what it shows runs as it is written there."""

from sqlalchemy.ext.asyncio import AsyncSession

from repositories import CacheRepository, JobFilters, JobRepository, JobStatus, JobType, PaginationParams
from repositories.base import BaseRepository
from repositories.models import Workspace
from repositories.schemas import JobCreate, JobUpdate


async def test_a_repository_of_ones_own_is_a_subclass(session: AsyncSession) -> None:
    class MyRepository(BaseRepository[Workspace, JobCreate, JobUpdate]):
        def __init__(self, session: AsyncSession) -> None:
            super().__init__(Workspace, session)

    repository = MyRepository(session)

    made = await repository.create({"engine": "local", "name": "handbook", "slug": "handbook"})
    assert (await repository.get_by_id_or_raise(made.id)).name == "handbook"


async def test_job_repository(job_repo: JobRepository) -> None:
    # Create job
    job = await job_repo.create_job(
        job_type=JobType.DOCUMENT_UPLOAD,
        workspace_id="workspace_123",
        metadata={"project": "test"},
    )
    assert job.dict()["metadata"] == {"project": "test"}

    # Update job status
    await job_repo.update_job_status(
        job_id=job.id,
        status=JobStatus.PROCESSING,
        progress=50.0,
    )

    # List jobs with filters
    jobs, total = await job_repo.list_jobs_with_filters(
        filters=JobFilters(status=JobStatus.COMPLETED),
        pagination=PaginationParams(page=1, size=20),
    )
    assert (jobs, total) == ([], 0)
    running, total = await job_repo.list_jobs_with_filters(
        filters=JobFilters(status=JobStatus.PROCESSING), pagination=PaginationParams(page=1, size=20)
    )
    assert ([found.progress for found in running], total) == ([50.0], 1)


async def test_cache_repository(cache_repo: CacheRepository) -> None:
    # Basic operations
    await cache_repo.set("key", "value", ttl=3600)
    value = await cache_repo.get("key")
    assert value == "value"
    assert await cache_repo.delete("key")

    # Bulk operations
    await cache_repo.set_many({"key1": "value1", "key2": "value2"})
    values = await cache_repo.get_many(["key1", "key2"])
    assert values == {"key1": "value1", "key2": "value2"}

    # Pattern operations
    await cache_repo.set_many({"user:1": 1, "session:1": 1})
    assert await cache_repo.invalidate_pattern("user:*") == 1
    keys = await cache_repo.get_keys("session:*")
    assert keys == ["session:1"]

    # Utility operations
    assert await cache_repo.increment("counter", 5) == 5
    await cache_repo.set("key", "value")
    assert await cache_repo.expire("key", 300)
