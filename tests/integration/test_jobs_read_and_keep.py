"""Reading jobs, jobs that their caller drives, and retention."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import InvalidTransitionError
from repositories.jobs import JobRepository
from repositories.schemas import Finish, JobFilters, PaginationParams
from repositories.states import JobStatus, JobType
from tests.factories import ERROR, expire_lease, held, job_in, queued_jobs, running_jobs


async def test_filters_hold_together_and_pages_are_newest_first(jobs: JobRepository) -> None:
    await queued_jobs(jobs, 3, workspace_id="a", metadata={"team": "x", "n": 1})
    (newest,) = await queued_jobs(jobs, workspace_id="a", metadata={"team": "x"})
    await queued_jobs(jobs, 2, workspace_id="b", metadata={"team": "x"})
    filters = JobFilters(status=[JobStatus.QUEUED], workspace_id="a", metadata={"team": "x"})

    page, total = await jobs.list_jobs_with_filters(filters, PaginationParams(page=1, size=2))

    assert total == 4
    assert page[0].id == newest.id
    assert len(page) == 2
    nothing, _ = await jobs.list_jobs_with_filters(JobFilters(created_after=datetime.now(UTC)), PaginationParams())
    assert nothing == []


async def test_text_in_an_error_finds_the_job_and_wildcards_are_only_text(jobs: JobRepository) -> None:
    broken = await job_in(jobs, JobStatus.FAILED)

    found, _ = await jobs.list_jobs_with_filters(JobFilters(error_contains="BROKE"), PaginationParams())
    none, _ = await jobs.list_jobs_with_filters(JobFilters(error_contains="b%e"), PaginationParams())

    assert [job.id for job in found] == [broken.id]
    assert none == []


async def test_queue_positions_follow_priority_and_then_age(jobs: JobRepository, statements: list[str]) -> None:
    (late,) = await queued_jobs(jobs, priority=9)
    first, second = await queued_jobs(jobs, 2, priority=5)
    (urgent,) = await queued_jobs(jobs, priority=0)
    (running,) = await running_jobs(jobs)
    statements.clear()

    positions = await jobs.queue_positions([late.id, first.id, second.id, urgent.id, running.id])

    assert positions == {urgent.id: 1, first.id: 2, second.id: 3, late.id: 4}
    assert len(statements) == 1
    assert await jobs.get_job_queue_position(running.id) is None


async def test_statistics_add_up(jobs: JobRepository) -> None:
    for status in (JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.QUEUED):
        await job_in(jobs, status)

    statistics = await jobs.get_job_statistics()

    assert statistics["total_jobs"] == 5
    assert statistics["status_counts"]["completed"] == 3
    assert statistics["type_counts"] == {"document_upload": 5}
    assert statistics["success_rate"] == 75.0
    assert statistics["average_processing_time_seconds"] > 0


async def test_a_caller_drives_its_own_job(jobs: JobRepository) -> None:
    job = await jobs.create_job(JobType.DOCUMENT_UPLOAD, metadata={"a": 1})

    running = await jobs.update_job_status(job.id, JobStatus.PROCESSING, progress=50.0, metadata={"b": 2})
    assert (running.status, running.worker_id, running.attempt) == (JobStatus.PROCESSING, "caller", 1)
    assert running.job_metadata == {"a": 1, "b": 2}

    back = await jobs.update_job_status(str(job.id), JobStatus.PROCESSING, progress=20.0)
    assert back.progress == 50.0  # never backwards

    done = await jobs.update_job_status(job.id, JobStatus.COMPLETED, result={"ok": True})
    assert (done.status, done.progress, done.result) == (JobStatus.COMPLETED, 100.0, {"ok": True})


async def test_a_caller_cannot_report_on_a_job_that_a_worker_holds(jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)

    with pytest.raises(InvalidTransitionError):
        await jobs.update_job_status(job.id, JobStatus.COMPLETED)


async def test_a_caller_that_falls_silent_loses_its_job(session: AsyncSession, jobs: JobRepository) -> None:
    job = await jobs.create_job(JobType.DOCUMENT_UPLOAD)
    await jobs.update_job_status(job.id, JobStatus.PROCESSING)
    await expire_lease(session, job.id)

    await jobs.rescue()

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.status, after.errors[-1]["code"]) == (JobStatus.FAILED, "caller_lost")


async def test_a_caller_driven_job_is_never_claimed_and_never_waits_in_the_queue(jobs: JobRepository) -> None:
    job = await jobs.create_job(JobType.DOCUMENT_UPLOAD)

    assert await jobs.claim([job.id], "worker-1", timedelta(seconds=5)) == []
    assert await jobs.waiting() == ([], None)


async def test_cancelling_says_who_and_why(jobs: JobRepository) -> None:
    (job,) = await queued_jobs(jobs)

    cancelled = await jobs.cancel_job(job.id, "wrong folder")

    assert (cancelled.status, cancelled.error) == (JobStatus.CANCELLED, "Job cancelled: wrong folder")
    with pytest.raises(InvalidTransitionError, match="is cancelled and cannot become cancelled"):
        await jobs.cancel_job(job.id)


async def test_cleanup_deletes_old_finished_jobs_and_nothing_else(session: AsyncSession, jobs: JobRepository) -> None:
    old, recent = await running_jobs(jobs, 2)
    await jobs.finish([Finish(job, JobStatus.FAILED, None, ERROR) for job in held(old, recent)])
    (waiting,) = await queued_jobs(jobs)
    long_ago = text("UPDATE jobs SET completed_at = completed_at - interval '8 days' WHERE id = :id")
    await session.execute(long_ago, {"id": old.id})

    assert await jobs.cleanup_old_jobs(7) == 1

    assert [job.id for job in await jobs.get_many([old.id, recent.id, waiting.id])] == [recent.id, waiting.id]


async def test_the_reconciler_reads_what_waits_page_by_page(jobs: JobRepository) -> None:
    created = await queued_jobs(jobs, 5)

    first, place = await jobs.waiting(limit=3)
    rest, end = await jobs.waiting(after=place, limit=3)

    assert [waiting.job_id for waiting in [*first, *rest]] == sorted(job.id for job in created)
    assert end is None
