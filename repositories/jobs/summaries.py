"""The jobs of each workspace, added up."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, case, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements, queued_and_due
from repositories.jobs.figures import WorkspaceSummary
from repositories.models import Job
from repositories.schemas import MAX_BATCH
from repositories.states import JobStatus


class Summarising(JobStatements):
    """One row a workspace."""

    async def workspace_summaries(
        self, workspace_ids: Sequence[str] | None = None, days: int = 30, limit: int = 100
    ) -> list[WorkspaceSummary]:
        """Add up the jobs created in the last ``days`` days, in one statement; the busiest workspaces come first.

        Args:
            workspace_ids: only these, at most 1,000; by default every workspace that has jobs.
            days: 1 to 3,660.
            limit: at most so many workspaces, 1 to 1,000.

        Returns:
            A summary of each workspace that has jobs. Jobs of no workspace are left out.

        Raises:
            ValueError: a bound is exceeded.
        """
        if not 1 <= limit <= MAX_BATCH or len(workspace_ids or ()) > MAX_BATCH:
            raise ValueError(f"limit must be 1 to {MAX_BATCH}, and workspace_ids at most as many")
        if not 1 <= days <= 3_660:  # noqa: PLR2004 - ten years
            raise ValueError(f"days must be 1 to 3660, not {days}")
        statement = (
            select(
                Job.workspace_id,
                func.count().label("jobs"),
                *(func.count(case((Job.status == status, 1))).label(status.value) for status in JobStatus),
                func.sum(Job.items_done).label("items_done"),
                func.sum(Job.items_failed).label("items_failed"),
                func.sum(Job.items_skipped).label("items_skipped"),
                func.min(Job.created_at).label("first_created_at"),
                func.max(Job.created_at).label("last_created_at"),
                func.max(Job.completed_at).label("last_finished_at"),
                func.min(case((queued_and_due(), Job.queued_at))).label("oldest_queued_at"),
            )
            .where(*_which(workspace_ids, days))
            .group_by(Job.workspace_id)
            .order_by(func.count().desc(), Job.workspace_id)
            .limit(limit)
        )
        with translated():
            rows = (await self.session.execute(statement)).mappings().all()
        return [
            WorkspaceSummary.model_validate(
                {**row, "status_counts": {status: row[status.value] for status in JobStatus}}
            )
            for row in rows
        ]


def _which(workspace_ids: Sequence[str] | None, days: int) -> list[ColumnElement[Any]]:
    which: list[ColumnElement[Any]] = [Job.created_at >= ASKED_AT - timedelta(days=days)]
    if workspace_ids is None:
        return [*which, Job.workspace_id.is_not(None)]
    return [*which, Job.workspace_id == any_(literal(list(workspace_ids), ARRAY(Text)))]
