"""Starting jobs, and keeping the ones that run."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import or_, select, update

from repositories.errors import translated
from repositories.jobs.core import NOW, JobStatements, check_batch, held_rows, named, owned
from repositories.models import Job
from repositories.schemas import Held, Lease
from repositories.states import JobStatus, Verb, sources


class Claiming(JobStatements):
    """Claim, and extend the lease."""

    async def claim(self, ids: Collection[UUID], worker_id: str, lease: timedelta) -> list[Job]:
        """Start queued jobs that are due: one statement for one job or for ``MAX_BATCH``.

        Each claim increments ``attempt``, which is the fence for everything the claimer writes from then on. Jobs that
        were cancelled, finished or claimed meanwhile, or are scheduled for later, are left out.

        Args:
            ids: candidates, at most ``MAX_BATCH``.
            worker_id: who runs them.
            lease: how long they stay ours without another sign of life.

        Returns:
            The jobs that are now ours.
        """
        check_batch(len(ids), "claim")
        due = (
            select(Job.id)
            .where(
                named(ids),
                Job.status.in_(sources(Verb.CLAIM, JobStatus.PROCESSING)),
                or_(Job.scheduled_at.is_(None), Job.scheduled_at <= NOW),
            )
            .order_by(Job.id)
            .with_for_update(skip_locked=True)  # whoever holds the lock is claiming or cancelling it
            .cte("due")
        )
        with translated():
            jobs = await self.session.scalars(
                update(Job)
                .where(Job.id == due.c.id, Job.status.in_(sources(Verb.CLAIM, JobStatus.PROCESSING)))
                .values(
                    status=JobStatus.PROCESSING,
                    attempt=Job.attempt + 1,
                    worker_id=worker_id,
                    lease_expires_at=NOW + lease,
                    scheduled_at=None,
                    started_at=NOW,
                    version=Job.version + 1,
                    updated_at=NOW,
                )
                .returning(Job)
                .execution_options(synchronize_session=False, populate_existing=True)
            )
            claimed = list(jobs)
            self._note(job.id for job in claimed)
            return claimed

    async def extend_leases(self, held: Sequence[Held], lease: timedelta) -> list[Lease]:
        """Keep running jobs ours: one statement for all of a worker's jobs.

        Returns:
            One entry for each job that is still ours; a job that is missing was lost, and its task must stop.
        """
        check_batch(len(held), "extend the leases of")
        mine = owned(held_rows(held), [JobStatus.PROCESSING])
        with translated():
            rows = await self.session.execute(
                update(Job)
                .where(Job.id == mine.c.id)
                .values(lease_expires_at=NOW + lease)
                .returning(Job.id, Job.cancel_requested_at.is_not(None))
                .execution_options(synchronize_session=False)
            )
            return [Lease(job_id, cancel_requested) for job_id, cancel_requested in rows]
