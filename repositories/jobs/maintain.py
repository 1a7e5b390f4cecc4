"""What keeps the record moving when something died or its time has come: rescue and staging.

Each is bounded by ``limit`` and safe to run in every worker at once: rows another one is looking at are skipped.
"""

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import case, func, literal, select, update
from sqlalchemy.sql import ColumnElement

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, NOW, JobStatements, named, with_error
from repositories.models import CALLER, Job
from repositories.schemas import Outcome
from repositories.states import JobStatus


class Waiting(NamedTuple):
    """A queued job as the queue needs it: which function runs it, and where in the order it stands."""

    job_id: UUID
    type: str
    priority: int


_WAITING = (Job.id, Job.type, Job.priority)


class Maintaining(JobStatements):
    """Rescue, stage, read what waits."""

    async def rescue(self, limit: int = 1_000) -> Outcome:
        """Take jobs whose lease ran out from workers that are gone.

        A job goes back to the queue; it fails with ``worker_lost`` once it lost ``max_crashes`` workers; it is
        cancelled if that was asked for; and it fails with ``caller_lost`` if its caller drove it. Finished items stay.

        Returns:
            ``released`` holds the jobs that are queued again.
        """
        lost = (
            select(Job.id)
            .where(Job.status == literal(JobStatus.PROCESSING, literal_execute=True), Job.lease_expires_at < NOW)
            .order_by(Job.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("lost")
        )
        cancelled = Job.cancel_requested_at.is_not(None)
        hopeless = Job.crashes + 1 >= Job.max_crashes
        target = case(
            (Job.worker_id == CALLER, JobStatus.FAILED),
            (cancelled, JobStatus.CANCELLED),
            (hopeless, JobStatus.FAILED),
            else_=JobStatus.QUEUED,
        )
        final: ColumnElement[bool] = target != JobStatus.QUEUED
        code = case((Job.worker_id == CALLER, "caller_lost"), else_="worker_lost")
        message = func.concat("attempt ", Job.attempt, " ended without a word: its lease ran out (", Job.worker_id, ")")
        with translated():
            outcome = await self._apply(
                update(Job)
                .where(Job.id == lost.c.id, Job.status == JobStatus.PROCESSING, Job.lease_expires_at < NOW)
                .values(
                    status=target,
                    crashes=Job.crashes + 1,
                    errors=with_error(code, message),
                    completed_at=case((final, NOW)),
                    queued_at=case((final, Job.queued_at), else_=NOW),
                    lease_expires_at=None,
                    scheduled_at=None,
                    version=Job.version + 1,
                    updated_at=NOW,
                )
            )
            outcome.released += [job_id for job_id, status in outcome.moved.items() if status is JobStatus.QUEUED]
            return outcome

    async def take_due(self, limit: int = 1_000) -> list[Waiting]:
        """Return scheduled jobs whose time has come, and clear it: the caller hands them over after its commit."""
        due = (
            select(Job.id)
            .where(
                Job.status == literal(JobStatus.QUEUED, literal_execute=True),
                Job.scheduled_at.is_not(None),
                Job.scheduled_at <= ASKED_AT,
            )
            .order_by(Job.scheduled_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        with translated():
            rows = await self.session.execute(
                update(Job)
                .where(Job.id == due.c.id)
                .values(scheduled_at=None)
                .returning(*_WAITING)
                .execution_options(synchronize_session=False)
            )
            taken = [Waiting(*row) for row in rows]
            self._note(job.job_id for job in taken)
            return taken

    async def waiting(self, after: UUID | None = None, limit: int = 1_000) -> list[Waiting]:
        """Return queued jobs that are due, in id order, after ``after``: what Redis should hold. For the reconciler."""
        statement = select(*_WAITING).where(
            Job.status == literal(JobStatus.QUEUED, literal_execute=True), Job.scheduled_at.is_(None)
        )
        if after is not None:
            statement = statement.where(Job.id > after)
        with translated():
            return [Waiting(*row) for row in await self.session.execute(statement.order_by(Job.id).limit(limit))]

    async def waiting_among(self, ids: Collection[UUID]) -> list[Waiting]:
        """Return those of ``ids`` that are queued and due: what may be handed to ARQ now."""
        with translated():
            rows = await self.session.execute(
                select(*_WAITING).where(named(ids), Job.status == JobStatus.QUEUED, Job.scheduled_at.is_(None))
            )
            return [Waiting(*row) for row in rows]

    async def live_among(self, ids: Collection[UUID]) -> set[UUID]:
        """Return those of ``ids`` that are queued or processing: their ARQ message has a purpose."""
        with translated():
            return set(
                await self.session.scalars(
                    select(Job.id).where(named(ids), Job.status.in_([JobStatus.QUEUED, JobStatus.PROCESSING]))
                )
            )
