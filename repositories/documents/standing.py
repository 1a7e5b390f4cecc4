"""What stands in a workspace by the record, and what is left of it to do."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    func,
    not_,
    or_,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import InvalidValueError, translated
from repositories.models import Job, WorkspaceDocument
from repositories.states import DocumentState, JobStatus, JobType

MAX_PAGE = 1_000
"""The most documents of one page."""

_STORED = WorkspaceDocument.state == DocumentState.STORED


# Files and items of the payload; and the items that are not done, among which are archives that came from a link. All
# that a completed job can still be asked for is its failed items.
_NEEDED = text(
    """
    SELECT DISTINCT digest
    FROM (
        SELECT part ->> 'sha256' AS digest
        FROM jobs, LATERAL (
            SELECT jsonb_path_query(jobs.payload, '$.files[*]')
            UNION ALL SELECT jsonb_path_query(jobs.payload, '$.items[*]')
        ) AS file (part)
        WHERE jobs.type = 'document_upload' AND jobs.status <> 'completed'
        UNION ALL
        SELECT job_items.spec ->> 'sha256'
        FROM jobs JOIN job_items ON job_items.job_id = jobs.id
        WHERE jobs.type = 'document_upload' AND (jobs.status <> 'completed' OR jobs.items_failed > 0)
            AND job_items.status IN ('pending', 'failed')
    ) AS named
    WHERE digest IS NOT NULL
    """
)


class Standing:
    """Read. What is only reserved, or is being removed, is no business of these calls, but for :meth:`of_job`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def standing(self, workspace_id: int, after_id: int = 0, limit: int = MAX_PAGE) -> list[WorkspaceDocument]:
        """Return a page of what stands in a workspace, in the order in which it was reserved.

        Args:
            workspace_id: where.
            after_id: the ``id`` of the last document of the page before; 0 for the first page.
            limit: documents, 1 to ``MAX_PAGE``.

        Raises:
            InvalidValueError: ``limit`` is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidValueError("limit", f"a page has 1 to {MAX_PAGE:,} documents, not {limit:,}")
        return await self._rows(
            WorkspaceDocument.workspace_id == workspace_id, WorkspaceDocument.id > after_id, _STORED, limit=limit
        )

    async def counts(self) -> dict[int, int]:
        """Return how many documents stand in each workspace, by its id; one that holds none is left out."""
        with translated():
            rows = await self._session.execute(
                select(WorkspaceDocument.workspace_id, func.count())
                .where(_STORED)
                .group_by(WorkspaceDocument.workspace_id)
            )
            return {row[0]: row[1] for row in rows}

    async def of_job(self, job_id: UUID) -> list[WorkspaceDocument]:
        """Return what a job's items stored or have reserved, also what is being removed of it, in the items' order."""
        return await self._rows(WorkspaceDocument.job_id == job_id, by_position=True)

    async def uploads_to_sweep(
        self, within: timedelta, clean_from: timedelta, clean_to: timedelta, limit: int = MAX_PAGE
    ) -> list[tuple[UUID, str]]:
        """Return ended uploads that may have left something in the engine: the job's id and its workspace's name.

        Those are first of all the ones with more than one attempt, and those that did not complete. One that completed
        at once may have lost the reply to a request, which the engine carries out after the job's end: it is returned
        for a part of that time only.

        Args:
            within: how long ago they may have ended.
            clean_from: how long ago those must have ended that completed at once.
            clean_to: how long ago they may have ended.
            limit: jobs: those that did not complete at once, the last ended first; then the others, the oldest first.
        """
        now, is_clean = func.statement_timestamp(), and_(Job.attempt <= 1, Job.status == JobStatus.COMPLETED)
        statement = (
            select(Job.id, Job.workspace_id)
            .where(
                Job.completed_at > now - within,
                Job.type == JobType.DOCUMENT_UPLOAD,
                or_(not_(is_clean), Job.completed_at.between(now - clean_to, now - clean_from)),
                Job.workspace_id.is_not(None),
            )
            # Of the clean ones those first that will not be looked at again.
            .order_by(is_clean, case((is_clean, Job.completed_at)), Job.completed_at.desc())
            .limit(limit)
        )
        with translated():
            return [(job_id, workspace or "") for job_id, workspace in await self._session.execute(statement)]

    async def bytes_still_needed(self) -> set[str]:
        """Return the digests of all stored bytes that a job on the record may still read.

        Those are the bytes of jobs that have not ended, and of ended ones what can be tried again: a failed or
        cancelled job, the failed items of a completed one. It reads every such job: ask once for many digests.
        """
        with translated():
            return set(await self._session.scalars(_NEEDED))

    async def _rows(
        self, *conditions: ColumnElement[bool], limit: int | None = None, by_position: bool = False
    ) -> list[WorkspaceDocument]:
        order = WorkspaceDocument.position if by_position else WorkspaceDocument.id
        statement = select(WorkspaceDocument).where(*conditions).order_by(order).limit(limit)
        with translated():
            return [*await self._session.scalars(statement.execution_options(populate_existing=True))]
