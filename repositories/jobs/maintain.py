"""What keeps the record moving when something died or its time has come: rescue and staging.

Staging leaves out what could not start anyway (its queue is paused, or nobody here knows its type): that is parked, and
comes back through ``admission.py`` once it can.

Each is bounded by ``limit`` and safe to run in every worker at once: rows another one is looking at are skipped.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Integer, Text, and_, any_, bindparam, case, func, literal, or_, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement

from repositories.errors import translated
from repositories.jobs.admission import PARKED, Admitting, Waiting, not_paused
from repositories.jobs.core import ASKED_AT, NOW, moving, named, queued_and_due, standing, with_error
from repositories.models import CALLER, SUSPECT_FROM, Job
from repositories.prepared import Prepared
from repositories.schemas import Outcome
from repositories.states import JobStatus

__all__ = ["Maintaining", "Place", "Waiting"]

_WAITING = (Job.id, Job.type, Job.priority, Job.queue)


_PLACE = ("queue_before", "priority_before", "queued_before", "id_before")


@cache
def _waiting(*, begins: bool) -> Prepared:
    place = (Job.queue, Job.priority, Job.queued_at, Job.id)
    statement = select(*_WAITING, Job.queued_at).where(queued_and_due())
    if not begins:
        before = [bindparam(name, type_=part.type) for name, part in zip(_PLACE, place, strict=True)]
        statement = statement.where(tuple_(*place) > tuple_(*before))
    return Prepared(statement.order_by(*place).limit(bindparam("most", type_=Integer)))


class Place(NamedTuple):
    """Where a queued job stands among all of them."""

    queue: str
    priority: int
    queued_at: datetime
    job_id: UUID


class Maintaining(Admitting):
    """Rescue, stage, read what waits."""

    async def rescue(self, limit: int = 1_000, lease: timedelta = timedelta(0)) -> Outcome:
        """Take jobs whose lease ran out from workers that are gone.

        A job goes back to the queue; it is cancelled if that was asked for, and fails with ``caller_lost`` if its
        caller drove it. A lease that was lost while the job ran alone is its crash: at ``max_crashes`` of them it fails
        with ``worker_lost``. One that was lost beside others is nobody's, and makes all of them suspect
        (:mod:`repositories.jobs.isolation`). Finished items stay.

        Args:
            limit: at most so many jobs.
            lease: nothing is rescued until PostgreSQL has been up for so long: workers that live extend their leases
                first.

        Returns:
            ``released`` holds the jobs that are queued again; those that are to run alone stand in no queue.
        """
        lost = (
            select(Job.id)
            .where(
                Job.status == literal(JobStatus.PROCESSING, literal_execute=True),
                Job.lease_expires_at < NOW,
                func.pg_postmaster_start_time() < NOW - lease,
            )
            .order_by(Job.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("lost")
        )
        cancelled = Job.cancel_requested_at.is_not(None)
        hopeless = and_(Job.isolated, Job.crashes + 1 >= Job.max_crashes)
        suspicion = case((Job.isolated, Job.suspicion), else_=Job.suspicion + 1)
        target = case(
            (Job.worker_id == CALLER, JobStatus.FAILED),
            (cancelled, JobStatus.CANCELLED),
            (hopeless, JobStatus.FAILED),
            else_=JobStatus.QUEUED,
        )
        final: ColumnElement[bool] = target != JobStatus.QUEUED
        code = case((Job.worker_id == CALLER, "caller_lost"), else_="worker_lost")
        beside = case((Job.worker_id == CALLER, ""), (Job.isolated, ", where it ran alone"), else_="")
        message = func.concat(
            "attempt ", Job.attempt, " ended without a word: its lease ran out (", Job.worker_id, beside, ")"
        )
        with translated():
            outcome = await self._apply(
                moving(
                    update(Job)
                    .where(Job.id == lost.c.id, standing([JobStatus.PROCESSING]), Job.lease_expires_at < NOW)
                    .values(
                        status=target,
                        crashes=case((or_(Job.isolated, Job.worker_id == CALLER), Job.crashes + 1), else_=Job.crashes),
                        suspicion=suspicion,
                        isolated=False,
                        errors=with_error(code, message),
                        completed_at=case((final, NOW)),
                        queued_at=case((final, Job.queued_at), else_=NOW),
                        lease_expires_at=None,
                        scheduled_at=case((and_(target == JobStatus.QUEUED, suspicion >= SUSPECT_FROM), PARKED)),
                        version=Job.version + 1,
                        updated_at=NOW,
                    )
                )
            )
            outcome.released += [job_id for job_id, status in outcome.moved.items() if status is JobStatus.QUEUED]
            return outcome

    async def last_workers(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """Return which worker ran each of these jobs last; one that never ran is left out."""
        with translated():
            rows = await self.session.execute(
                select(Job.id, Job.worker_id).where(named(ids), Job.worker_id.is_not(None))
            )
            return {job.id: job.worker_id or "" for job in rows}

    async def take_due(self, limit: int = 1_000, types: Collection[str] | None = None) -> list[Waiting]:
        """Return scheduled jobs whose time has come, and parked ones that may run: both are not scheduled any more.

        The caller hands them over after its commit. What is due in a paused queue, or of a type that the caller does
        not know, is parked instead.

        Args:
            limit: at most so many of each, 1 to ``MAX_BATCH``.
            types: job types that the caller can run; ``None`` is all.
        """
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
        known = true() if types is None else Job.type == any_(literal(sorted(types), ARRAY(Text)))
        with translated():
            rows = await self.session.execute(
                update(Job)
                .where(Job.id == due.c.id)
                .values(scheduled_at=case((and_(known, not_paused()), None), else_=PARKED))
                .returning(*_WAITING, Job.scheduled_at.is_(None))
                .execution_options(synchronize_session=False)
            )
            taken = rows.all()
            self._note(row[0] for row in taken)
            staged = [Waiting(*row[:-1]) for row in taken if row[-1]]
        return staged + await self.release_parked(types, limit=limit)

    async def waiting(self, after: Place | None = None, limit: int = 1_000) -> tuple[list[Waiting], Place | None]:
        """Return queued jobs that are due, in the order of their queues: what Redis should hold. For the reconciler.

        Args:
            after: where the last call stopped; ``None`` begins with the first queue.
            limit: at most so many.

        Returns:
            The jobs, and where to go on; ``None`` if there are no more.
        """
        begin = {} if after is None else dict(zip(_PLACE, after, strict=True))
        with translated():
            rows = await _waiting(begins=after is None).rows(self.session, {"most": limit} | begin)
        jobs = [Waiting(*row[:-1]) for row in rows]
        if len(rows) < limit:
            return jobs, None
        return jobs, Place(jobs[-1].queue, jobs[-1].priority, rows[-1][-1], jobs[-1].job_id)

    async def count_waiting(self) -> int:
        """Return how many jobs are queued and due: so many messages Redis should hold."""
        with translated():
            return await self.session.scalar(select(func.count()).where(queued_and_due())) or 0

    async def waiting_among(self, ids: Collection[UUID]) -> list[Waiting]:
        """Return those of ``ids`` that are queued and due: what may be handed to ARQ now."""
        with translated():
            rows = await self.session.execute(
                select(*_WAITING).where(named(ids), standing([JobStatus.QUEUED]), Job.scheduled_at.is_(None))
            )
            return [Waiting(*row) for row in rows]

    async def live_among(self, ids: Collection[UUID]) -> set[UUID]:
        """Return those of ``ids`` that are queued or processing: their ARQ message has a purpose."""
        with translated():
            return set(
                await self.session.scalars(
                    select(Job.id).where(named(ids), standing([JobStatus.QUEUED, JobStatus.PROCESSING]))
                )
            )
