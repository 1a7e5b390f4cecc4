"""Starting jobs, and keeping the ones that run."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Interval, Text, Uuid, any_, bindparam, or_, select, update

from repositories.errors import translated
from repositories.jobs.admission import Admitting, unrestricted
from repositories.jobs.core import NOW, array_of, as_arrays, check_batch, held_rows, named, owned, standing, unindexed
from repositories.models import Job
from repositories.prepared import Prepared
from repositories.schemas import Held, Lease
from repositories.states import JobStatus, Verb, sources


class ClaimedJob(NamedTuple):
    """A job in the hands of the attempt that was just begun: what carrying it out needs, as it was then.

    Not an ORM row, and not all of one: a worker claims thousands a second.
    """

    id: UUID
    type: str
    attempt: int
    payload: dict[str, Any] | None
    failures: int
    max_attempts: int
    timeout_seconds: int
    queue: str
    progress: float
    items_total: int
    version: int
    queued_at: datetime
    started_at: datetime
    worker_id: str

    @property
    def held(self) -> Held:
        """The job as everything its attempt writes names it."""
        return Held(self.id, self.attempt)


_CLAIMED = tuple(getattr(Job, name) for name in ClaimedJob._fields if name != "worker_id")


@cache
def claim_statement(*, typed: bool, admitted: bool) -> Prepared:
    """Start queued jobs that are due; see :meth:`Claiming.claim`."""
    claimable = standing(sources(Verb.CLAIM, JobStatus.PROCESSING))
    due = (
        select(Job.id)
        .where(
            Job.id == any_(array_of("asked", Uuid)),
            claimable,
            or_(Job.scheduled_at.is_(None), Job.scheduled_at <= NOW),
            *([unindexed(Job.type) == any_(array_of("known", Text))] if typed else []),
            *([] if admitted else [unrestricted()]),
        )
        .order_by(Job.id)
        .with_for_update(skip_locked=True)  # whoever holds the lock is claiming or cancelling it
        .cte("due")
    )
    return Prepared(
        update(Job)
        .where(Job.id == due.c.id, claimable)
        .values(
            status=JobStatus.PROCESSING,
            attempt=Job.attempt + 1,
            worker_id=bindparam("claimer", type_=Text),
            lease_expires_at=NOW + bindparam("lease", type_=Interval),
            scheduled_at=None,
            isolated=False,  # whoever claims it alone says so
            started_at=NOW,
            version=Job.version + 1,
            updated_at=NOW,
        )
        .returning(*_CLAIMED)
    )


def claim_parameters(
    ids: Collection[UUID], worker_id: str, lease: timedelta, types: Collection[str] | None
) -> dict[str, Any]:
    """What :func:`claim_statement` is given.

    Raises:
        ValueError: more than ``MAX_BATCH`` ids.
    """
    check_batch(len(ids), "claim")
    parameters: dict[str, Any] = {"asked": list(ids), "claimer": worker_id, "lease": lease}
    if types is not None:
        parameters["known"] = sorted(types)
    return parameters


def claimed_jobs(rows: Sequence[Any], worker_id: str) -> list[ClaimedJob]:
    """Read what :func:`claim_statement` returned."""
    return [ClaimedJob._make((*row, worker_id)) for row in rows]


@cache
def _extend() -> Prepared:
    # Whoever holds one row for long must not cost the others their leases.
    mine = owned(held_rows(), [JobStatus.PROCESSING], skip_locked=True)
    return Prepared(
        update(Job)
        .where(Job.id == mine.c.id)
        .values(lease_expires_at=NOW + bindparam("lease", type_=Interval))
        .returning(Job.id, Job.cancel_requested_at.is_not(None))
    )


@cache
def _cancel_requested() -> Prepared:
    asked = Job.id == any_(array_of("asked", Uuid))
    return Prepared(select(Job.id).where(asked, Job.cancel_requested_at.is_not(None)))


class Claiming(Admitting):
    """Claim, and extend the lease."""

    async def claim(
        self,
        ids: Collection[UUID],
        worker_id: str,
        lease: timedelta,
        types: Collection[str] | None = None,
        *,
        admitted: bool = False,
    ) -> list[ClaimedJob]:
        """Start queued jobs that are due: one statement for one job or for ``MAX_BATCH``.

        Each claim increments ``attempt``, which is the fence for everything the claimer writes from then on. Jobs that
        were cancelled, finished or claimed meanwhile, or are scheduled for later, are left out.

        Args:
            ids: candidates, at most ``MAX_BATCH``.
            worker_id: who runs them.
            lease: how long they stay ours without another sign of life.
            types: only jobs of these types; the others are left for a worker that knows them.
            admitted: these jobs came from :meth:`admit` in this transaction. Otherwise jobs of queues that are paused
                or have a limit are left out.

        Returns:
            The jobs that are now ours.
        """
        parameters = claim_parameters(ids, worker_id, lease, types)
        statement = claim_statement(typed=types is not None, admitted=admitted)
        with translated():
            claimed = claimed_jobs(await statement.rows(self.session, parameters), worker_id)
            if self._tells:
                self._note(job.id for job in claimed)
            return claimed

    async def extend_leases(self, held: Sequence[Held], lease: timedelta) -> list[Lease]:
        """Keep running jobs ours: one statement for all of a worker's jobs.

        Returns:
            One entry for each job that is still ours; a job that is missing was lost, and its task must stop. A row
            that somebody else holds locked is not waited for: its entry is not ``extended``, and is to be asked for
            again at once.
        """
        check_batch(len(held), "extend the leases of")
        with translated():
            rows = await _extend().rows(self.session, as_arrays(held) | {"lease": lease})
            leases = [Lease(job_id, cancel_requested) for job_id, cancel_requested in rows]
            extended = {lease.job_id for lease in leases}
            if locked := {job.job_id: job.attempt for job in held if job.job_id not in extended}:
                ours = await self.session.execute(
                    select(Job.id, Job.attempt, Job.cancel_requested_at.is_not(None)).where(
                        named(list(locked)), standing([JobStatus.PROCESSING])
                    )
                )
                leases += [
                    Lease(job_id, asked, extended=False) for job_id, attempt, asked in ours if locked[job_id] == attempt
                ]
            return leases

    async def cancel_requested_among(self, ids: Collection[UUID]) -> list[UUID]:
        """Return those of ``ids`` whose cancellation was asked for: what a worker looks at between two heartbeats."""
        with translated():
            rows = await _cancel_requested().rows(self.session, {"asked": list(ids)})
            return [row[0] for row in rows]
