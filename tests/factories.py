"""Rows for tests: jobs in any state, made through the repository's own doors."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.jobs import ClaimedJob, JobRepository
from repositories.models import Job
from repositories.schemas import Finish, Held, JobError, NewJob
from repositories.states import JobStatus

LEASE = timedelta(seconds=60)
ERROR = JobError(code="broken", message="it broke")


def new_job(**fields: Any) -> NewJob:
    """A runnable job, unless ``fields`` say otherwise."""
    return NewJob(**({"type": "document_upload", "payload": {"version": 1}} | fields))


async def queued_jobs(jobs: JobRepository, count: int = 1, **fields: Any) -> list[Job]:
    return await jobs.create_many([new_job(**fields) for _ in range(count)])


async def running_jobs(jobs: JobRepository, count: int = 1, **fields: Any) -> list[ClaimedJob]:
    queued = await queued_jobs(jobs, count, **fields)
    return await jobs.claim([job.id for job in queued], "worker-1", LEASE)


def hold(job: Job | ClaimedJob) -> Held:
    return Held(job.id, job.attempt)


def held(*running: Job | ClaimedJob) -> list[Held]:
    return [hold(job) for job in running]


async def job_in(jobs: JobRepository, status: JobStatus) -> Job:
    """A job that reached ``status`` as jobs do."""
    if status is JobStatus.PENDING:
        return await jobs.create_job("document_upload")
    if status is JobStatus.QUEUED:
        (queued,) = await queued_jobs(jobs)
        return queued
    (running,) = await running_jobs(jobs)
    if status is not JobStatus.PROCESSING:
        error = ERROR if status is JobStatus.FAILED else None
        await jobs.finish([Finish(hold(running), status, None, error)])
    return await jobs.get_by_id_or_raise(running.id)


async def expire_lease(session: AsyncSession, *job_ids: UUID) -> None:
    """Let time pass for these jobs: their leases ran out a second ago."""
    statement = text(
        "UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 second' "
        "WHERE id = ANY(:ids) AND status = 'processing'"
    )
    await session.execute(statement, {"ids": list(job_ids)})
