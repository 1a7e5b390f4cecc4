"""Reading jobs: one, a page, where they stand in the queue, and what they add up to."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Text, case, cast, func, select
from sqlalchemy.orm import defer

from repositories.base import as_uuid
from repositories.errors import translated
from repositories.jobs.core import NOW, JobStatements, named
from repositories.models import Job
from repositories.schemas import JobFilters, JobStatistics, PaginationParams
from repositories.states import FINAL, JobStatus

_ACTIVE = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.PROCESSING)


class Reading(JobStatements):
    """Everything here only reads."""

    async def list_jobs_with_filters(self, filters: JobFilters, pagination: PaginationParams) -> tuple[list[Job], int]:
        """Return a page of jobs, newest first, and how many match in all."""
        statement = select(Job)
        equal = {Job.type: filters.type, Job.workspace_id: filters.workspace_id, Job.queue: filters.queue}
        equal[Job.worker_id] = filters.worker_id
        statement = statement.where(*(column == value for column, value in equal.items() if value is not None))
        if filters.status is not None:
            wanted = filters.status if isinstance(filters.status, list) else [filters.status]
            statement = statement.where(Job.status.in_(wanted))
        if filters.created_after is not None:
            statement = statement.where(Job.created_at >= filters.created_after)
        if filters.created_before is not None:
            statement = statement.where(Job.created_at < filters.created_before)
        if filters.metadata is not None:
            statement = statement.where(Job.job_metadata.contains(filters.metadata))
        if filters.error_contains is not None:
            statement = statement.where(cast(Job.errors, Text).icontains(filters.error_contains, autoescape=True))
        return await self._page(statement, pagination, Job.created_at.desc(), Job.id.desc())

    async def get_jobs_by_workspace(
        self, workspace_id: str, status: JobStatus | None = None, limit: int | None = None
    ) -> list[Job]:
        """Return a workspace's jobs, newest first."""
        statement = select(Job).where(Job.workspace_id == workspace_id).order_by(Job.id.desc())
        if status is not None:
            statement = statement.where(Job.status == status)
        with translated():
            return list(await self.session.scalars(statement.limit(limit)))

    async def get_active_jobs(self, job_type: str | None = None) -> list[Job]:
        """Return the jobs that are not final (pending, queued, processing), oldest first."""
        statement = select(Job).where(Job.status.in_(_ACTIVE)).order_by(Job.id)
        if job_type is not None:
            statement = statement.where(Job.type == job_type)
        with translated():
            return list(await self.session.scalars(statement))

    async def queue_positions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        """Return where queued jobs stand in their queue, from 1, in one statement; others are left out.

        This is the order on the record: priority, then age. What a worker takes next is Redis's order: the same,
        unless something was put back.
        """
        ranked = (
            select(
                Job.id,
                func.row_number()
                .over(partition_by=Job.queue, order_by=(Job.priority, Job.queued_at, Job.id))
                .label("rank"),
            )
            .where(Job.status == JobStatus.QUEUED, Job.scheduled_at.is_(None))
            .subquery()
        )
        with translated():
            rows = await self.session.execute(select(ranked.c.id, ranked.c.rank).where(ranked.c.id.in_(ids)))
            return {job_id: rank for job_id, rank in rows}  # noqa: C416 - dict() cannot take typed rows

    async def get_job_queue_position(self, job_id: UUID | str) -> int | None:
        """Return where the job stands in its queue, from 1; ``None`` if it does not wait there."""
        key = as_uuid(job_id)
        return None if key is None else (await self.queue_positions([key])).get(key)

    async def snapshot(self, ids: Sequence[UUID]) -> list[Job]:
        """Return these jobs without payload and result: what watching many of them needs."""
        with translated():
            rows = await self.session.scalars(
                select(Job)
                .where(named(ids))
                .options(defer(Job.payload, raiseload=True), defer(Job.result, raiseload=True))
                .execution_options(populate_existing=True)
            )
            found = {job.id: job for job in rows}
        return [found[job_id] for job_id in ids if job_id in found]

    async def get_job_statistics(self, workspace_id: str | None = None, days: int = 30) -> dict[str, Any]:
        """Return what the jobs created in the last ``days`` days add up to, as :class:`JobStatistics` fields."""
        finished = Job.status.in_(sorted(FINAL))
        seconds = func.extract("epoch", Job.completed_at - Job.started_at)
        statement = (
            select(
                Job.status,
                Job.type,
                func.count(),
                func.sum(case((finished, seconds))),
                func.count(case((finished, seconds))),
            )
            .where(Job.created_at >= NOW - timedelta(days=days))
            .group_by(Job.status, Job.type)
        )
        if workspace_id is not None:
            statement = statement.where(Job.workspace_id == workspace_id)
        by_status = dict.fromkeys(map(str, JobStatus), 0)
        by_type: dict[str, int] = {}
        total_seconds, timed = 0.0, 0
        with translated():
            for status, kind, count, spent, measured in await self.session.execute(statement):
                by_status[str(status)] += count
                by_type[kind] = by_type.get(kind, 0) + count
                total_seconds += float(spent or 0)
                timed += measured
        ended = sum(by_status[str(status)] for status in FINAL)
        return JobStatistics(
            period_days=days,
            workspace_id=workspace_id,
            total_jobs=sum(by_status.values()),
            status_counts=by_status,
            type_counts=by_type,
            average_processing_time_seconds=total_seconds / timed if timed else None,
            success_rate=100 * by_status["completed"] / ended if ended else None,
        ).model_dump()
