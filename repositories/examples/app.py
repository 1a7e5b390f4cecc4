"""A small HTTP API over jobs: dependencies injected, one engine a process, errors as status codes.

``create_app()`` is all that a server needs: ``uvicorn --factory repositories.examples:create_app``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, status
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.cache import CacheRepository
from repositories.database import close_db, get_db_transaction, init_db
from repositories.dependencies import get_cache_repository, get_job_repository
from repositories.errors import (
    ConflictError,
    DatabaseUnavailableError,
    InvalidTransitionError,
    InvalidValueError,
    NotFoundError,
    RepositoryError,
)
from repositories.examples.service import RepositoryService
from repositories.jobs import JobRepository
from repositories.schemas import (
    Job,
    JobCreate,
    JobFilters,
    JobResponse,
    JobUpdate,
    PaginatedJobs,
    PaginationParams,
    ShortText,
)
from repositories.settings import CacheSettings, DatabaseSettings
from repositories.states import JobStatus


class ExampleSettings(DatabaseSettings, CacheSettings):
    """Where PostgreSQL and Redis are: ``DATABASE_URL``, ``REDIS_URL`` and their kin."""


_STATUS: dict[type[RepositoryError], int] = {
    NotFoundError: status.HTTP_404_NOT_FOUND,
    ConflictError: status.HTTP_409_CONFLICT,
    InvalidTransitionError: status.HTTP_409_CONFLICT,
    InvalidValueError: status.HTTP_422_UNPROCESSABLE_CONTENT,
    DatabaseUnavailableError: status.HTTP_503_SERVICE_UNAVAILABLE,
}

Jobs = Annotated[JobRepository, Depends(get_job_repository)]
Cache = Annotated[CacheRepository, Depends(get_cache_repository)]


def get_service(job_repo: Jobs, cache_repo: Cache) -> RepositoryService:
    """The service of one request, made of the two dependencies; FastAPI makes each of them once a request."""
    return RepositoryService(job_repo, cache_repo)


Service = Annotated[RepositoryService, Depends(get_service)]
# In the scope of the function, so that a success is only told once it is committed.
Transaction = Annotated[AsyncSession, Depends(get_db_transaction, scope="function")]


router = APIRouter()


def create_app(settings: ExampleSettings | None = None) -> FastAPI:
    """Make the app; its servers are opened when it starts and closed when it ends.

    Args:
        settings: where the servers are; read from the environment at the start of the app when not given.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.database = await init_db(settings or ExampleSettings())
        try:
            yield
        finally:
            await close_db()

    app = FastAPI(title="Jobs", lifespan=lifespan)
    app.add_exception_handler(RepositoryError, _refuse)
    app.include_router(router)
    return app


@router.post("/jobs", status_code=status.HTTP_201_CREATED)
async def create_job(job_data: JobCreate, service: Service) -> Job:
    """Write a job that the caller drives, and cache it."""
    return Job.model_validate(
        await service.create_and_cache_job(job_data.type, job_data.workspace_id, job_data.metadata)
    )


@router.post("/pairs", status_code=status.HTTP_201_CREATED)
async def create_pair(first: JobCreate, second: JobCreate, session: Transaction) -> list[Job]:
    """Write two jobs in one transaction: both, or none."""
    job_repo = JobRepository(session)
    return [
        Job.model_validate(await job_repo.create_job(new.type, new.workspace_id, new.metadata))
        for new in (first, second)
    ]


@router.get("/jobs")
async def list_jobs(
    job_repo: Jobs, page: Annotated[PaginationParams, Depends()], workspace_id: ShortText | None = None
) -> PaginatedJobs:
    """List jobs, newest first."""
    jobs, total = await job_repo.list_jobs_with_filters(JobFilters(workspace_id=workspace_id), page)
    items = [Job.model_validate(job) for job in jobs]
    return PaginatedJobs(items=items, total=total, page=page.page, size=page.size)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, service: Service) -> JobResponse:
    """Return a job, from the cache if it is there."""
    found = await service.get_job_with_cache(job_id)
    if found is None:
        raise NotFoundError("job", job_id)
    return JobResponse(job=Job.model_validate(found), links={"self": f"/jobs/{job_id}"})


@router.patch("/jobs/{job_id}")
async def report(job_id: str, update: JobUpdate, service: Service) -> Job:
    """Report on a job; without a status it goes on."""
    moved = await service.update_job_with_cache_invalidation(
        job_id, update.status or JobStatus.PROCESSING, update.progress, update.result, update.error, update.metadata
    )
    return Job.model_validate(moved)


@router.get("/workspaces/{workspace_id}/stats")
async def workspace_statistics(workspace_id: ShortText, service: Service) -> dict[str, Any]:
    """Return what a workspace's jobs add up to."""
    return await service.get_workspace_job_stats(workspace_id)


@router.get("/health")
async def health(service: Service) -> dict[str, Any]:
    """Say whether the servers answer."""
    return await service.get_system_health()


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    """An error of the repositories says what happened without SQL or passwords, so its text may be shown."""
    code = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), status.HTTP_400_BAD_REQUEST)
    return JSONResponse({"detail": str(error)}, code)
