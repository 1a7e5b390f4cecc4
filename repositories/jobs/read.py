"""Reading jobs: one, a page by number or by cursor. Counts and places in the queue have modules of their own."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, cast, select
from sqlalchemy.orm import defer

from repositories.errors import translated
from repositories.filters import Field, field_of
from repositories.jobs.core import JobStatements, in_state, named
from repositories.models import Job
from repositories.pagination import NO_RELATIONSHIPS, CursorPage, Relationships, Sorted
from repositories.schemas import JobFilters, JobSort, PaginationParams
from repositories.states import JobStatus

LIVE = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.PROCESSING)
_MAX_ACTIVE = 10_000  # jobs that one call of get_active_jobs holds in memory


class _FinishedAt(Field):
    """When jobs ended, in lists of ended jobs: all have it, so no rule for the others keeps an index from serving."""

    @property
    def nullable(self) -> bool:
        return False


class Reading(JobStatements):
    """Everything here only reads."""

    async def list_jobs_with_filters(
        self,
        filters: JobFilters,
        pagination: PaginationParams,
        load_relationships: Relationships = NO_RELATIONSHIPS,
        sort: JobSort = JobSort.NEWEST,
    ) -> tuple[list[Job], int]:
        """Return a page of jobs, newest first unless ``sort`` says otherwise, and how many match in all.

        The total is counted anew for each page; :meth:`list_jobs_after` needs none and costs the same on every page.

        Args:
            filters: which jobs.
            pagination: which page of them.
            load_relationships: ``True`` loads each job's ``items`` with one more statement for the page.
            sort: their order.
        """
        statement = _matching(self._select(load_relationships), filters, sort)
        return await self._page(statement, pagination, *(column.clause() for column in _order(sort)))

    async def list_jobs_after(
        self,
        filters: JobFilters,
        cursor: str | None = None,
        size: int = 20,
        *,
        load_relationships: Relationships = NO_RELATIONSHIPS,
        sort: JobSort = JobSort.NEWEST,
    ) -> CursorPage[Job]:
        """Return the jobs that match and stand after ``cursor``, in one statement.

        Jobs that are written meanwhile move none of the others to another page.

        Args:
            filters: which jobs; the same for every page.
            cursor: ``next_cursor`` of the page before; ``None`` to begin.
            size: 1 to 1,000 jobs.
            load_relationships: as in :meth:`list_jobs_with_filters`.
            sort: their order; the same for every page.

        Raises:
            InvalidCursorError: ``cursor`` is none of this order's.
            ValueError: ``size`` is out of range.
        """
        return await self._after(_matching(self._select(load_relationships), filters, sort), _order(sort), cursor, size)

    async def get_job_with_results(self, job_id: UUID | str) -> Job | None:
        """Return the job with its ``items`` loaded; ``None`` if there is none."""
        return await self.get_by_id(job_id, load_relationships=["items"])

    async def get_jobs_by_workspace(
        self, workspace_id: str, status: JobStatus | None = None, limit: int | None = None
    ) -> list[Job]:
        """Return a workspace's jobs, newest first; all of them without ``limit``."""
        filters = JobFilters(workspace_id=workspace_id, status=status)
        statement = _matching(select(Job), filters, JobSort.NEWEST)
        with translated():
            return list(await self.session.scalars(_sorted(statement, JobSort.NEWEST).limit(limit)))

    async def get_active_jobs(self, job_type: str | None = None, limit: int = 1_000) -> list[Job]:
        """Return the jobs that are not final (pending, queued, processing), oldest first.

        Args:
            job_type: only these.
            limit: at most so many, 1 to 10,000; :meth:`list_jobs_after` walks through all of them, :meth:`live_jobs`
                counts them.

        Raises:
            ValueError: ``limit`` is out of range.
        """
        if not 1 <= limit <= _MAX_ACTIVE:
            raise ValueError(f"limit must be 1 to {_MAX_ACTIVE}, not {limit}: list_jobs_after reads more, page by page")
        statement = _matching(select(Job), JobFilters(status=list(LIVE), type=job_type), JobSort.OLDEST)
        with translated():
            return list(await self.session.scalars(_sorted(statement, JobSort.OLDEST).limit(limit)))

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


def _matching(statement: Select[tuple[Job]], filters: JobFilters, sort: JobSort) -> Select[tuple[Job]]:
    conditions: list[ColumnElement[bool]] = [
        column.in_(wanted) if isinstance(wanted, list) else column == wanted
        for column, wanted in (
            (Job.type, filters.type),
            (Job.workspace_id, filters.workspace_id),
            (Job.queue, filters.queue),
            (Job.worker_id, filters.worker_id),
        )
        if wanted is not None
    ]
    if filters.status is not None:
        conditions.append(in_state(*(filters.status if isinstance(filters.status, list) else [filters.status])))
    if filters.created_after is not None:
        conditions.append(Job.created_at >= filters.created_after)
    if filters.created_before is not None:
        conditions.append(Job.created_at < filters.created_before)
    if filters.finished_after is not None:
        conditions.append(Job.completed_at >= filters.finished_after)
    if filters.finished_before is not None:
        conditions.append(Job.completed_at < filters.finished_before)
    if filters.metadata is not None:
        conditions.append(Job.job_metadata.contains(filters.metadata))
    if filters.error_contains is not None:
        conditions.append(cast(Job.errors, Text).icontains(filters.error_contains, autoescape=True))
    if sort in {JobSort.LAST_FINISHED, JobSort.FIRST_FINISHED}:
        conditions.append(Job.completed_at.is_not(None))
    return statement.where(*conditions)


def _order(sort: JobSort) -> list[Sorted]:
    finished = sort in {JobSort.LAST_FINISHED, JobSort.FIRST_FINISHED}
    by = _FinishedAt(**vars(field_of(Job, "completed_at"))) if finished else field_of(Job, "created_at")
    descending = sort in {JobSort.NEWEST, JobSort.LAST_FINISHED}
    return [Sorted(by, descending), Sorted(field_of(Job, "id"), descending)]


def _sorted(statement: Select[tuple[Job]], sort: JobSort) -> Select[tuple[Job]]:
    return statement.order_by(*(column.clause() for column in _order(sort)))
