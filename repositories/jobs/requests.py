"""What people ask of jobs that exist: stop it, run it again."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, or_, select, update

from repositories.base import as_uuid
from repositories.errors import NotFoundError, translated
from repositories.jobs.core import NOW, JobStatements, check_batch, moving, named, standing, with_error
from repositories.models import CALLER, Job, JobItem
from repositories.recordable import LONGEST_MESSAGE, cleaned
from repositories.schemas import Outcome
from repositories.states import ItemStatus, JobStatus, Verb, sources


class Asking(JobStatements):
    """Cancel and retry."""

    async def cancel(self, ids: Collection[UUID], reason: str | None = None) -> Outcome:
        """Cancel jobs. One that a worker runs is only marked: it stops at its next item and keeps what is done.

        Args:
            ids: at most ``MAX_BATCH``.
            reason: kept on the job, for people; at most 4,000 characters of it.

        Returns:
            ``moved`` holds ``cancelled`` for jobs that had not started and ``processing`` for those that were marked.
        """
        check_batch(len(ids), "cancel")
        allowed = sources(Verb.CANCEL, JobStatus.CANCELLED)
        found = select(Job.id).where(named(ids), standing(allowed)).order_by(Job.id).with_for_update().cte("found")
        marked = and_(Job.status == JobStatus.PROCESSING, Job.worker_id != CALLER)
        reason = None if reason is None else cleaned(reason, LONGEST_MESSAGE)
        text = f"Job cancelled: {reason}" if reason else "Job cancelled"
        with translated():
            outcome = await self._apply(
                moving(
                    update(Job)
                    .where(Job.id == found.c.id, standing(allowed))
                    .values(
                        status=case((marked, Job.status), else_=JobStatus.CANCELLED),
                        completed_at=case((marked, None), else_=NOW),
                        lease_expires_at=case((marked, Job.lease_expires_at), else_=None),
                        scheduled_at=None,
                        parents_left=0,
                        cancel_requested_at=NOW,
                        cancel_reason=reason,
                        errors=case((marked, Job.errors), else_=with_error("cancelled", text)),
                        version=Job.version + 1,
                        updated_at=NOW,
                    )
                )
            )
            return await self._refuse(outcome, dict.fromkeys(ids, (JobStatus.CANCELLED, None)))

    async def cancel_job(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Cancel one job and return it: ``cancelled``, or still ``processing`` with the request set.

        Raises:
            NotFoundError: there is no such job.
            InvalidTransitionError: it is final already.
        """
        key = as_uuid(job_id)
        if key is None:
            raise NotFoundError("job", job_id)
        outcome = await self.cancel([key], reason)
        for error in outcome.refused.values():
            raise error
        return await self.get_by_id_or_raise(key)

    async def retry(self, ids: Collection[UUID]) -> Outcome:
        """Queue failed or cancelled jobs again: finished items are kept, failed ones tried again, tries start anew.

        A job whose parents have not ended (because they are retried, too) is ``pending`` until they have.
        """
        check_batch(len(ids), "retry")
        allowed = sources(Verb.RETRY, JobStatus.QUEUED)
        found = (
            select(Job.id)
            .where(named(ids), standing(allowed), Job.payload.is_not(None))
            .order_by(Job.id)
            .with_for_update()
            .cte("found")
        )
        kept = Job.items_done + Job.items_skipped
        values: dict[str, Any] = {
            "status": JobStatus.QUEUED,
            "failures": 0,
            "crashes": 0,
            "suspicion": 0,
            "isolated": False,
            "away_since": None,
            "away_reason": None,
            "items_failed": 0,
            "progress": case((Job.items_total > 0, 100.0 * kept / Job.items_total), else_=0.0),
            "cancel_requested_at": None,
            "cancel_reason": None,
            "scheduled_at": None,
            "completed_at": None,
            "result": None,
            "queued_at": NOW,
            "version": Job.version + 1,
            "updated_at": NOW,
        }
        with translated():
            rows = await self.session.execute(
                update(Job)
                .where(Job.id == found.c.id, standing(allowed))
                .values(values)
                .returning(Job.id, Job.has_dependents, Job.depends_on)
                .execution_options(synchronize_session=False)
            )
            moved = rows.all()
            outcome = Outcome(moved=dict.fromkeys((row.id for row in moved), JobStatus.QUEUED))
            self._note(outcome.moved)
            outcome.released = list(outcome.moved)
            if parents := [row.id for row in moved if row.has_dependents]:
                await self._wait_again(parents)
            if children := [row.id for row in moved if row.depends_on]:
                for job_id in await self._wait_for_live_parents(children):
                    outcome.moved[job_id] = JobStatus.PENDING
                    outcome.released.remove(job_id)
            if outcome.moved:
                await self.session.execute(
                    update(JobItem)
                    .where(
                        JobItem.job_id.in_(outcome.moved),
                        or_(
                            JobItem.status == ItemStatus.FAILED,
                            and_(JobItem.status == ItemStatus.PENDING, JobItem.crashes > 0),
                        ),
                    )
                    .values(
                        status=ItemStatus.PENDING,
                        error_code=None,
                        error=None,
                        result=None,
                        timings={},
                        finished_at=None,
                        crashes=0,
                    )
                    .execution_options(synchronize_session=False)
                )
            return await self._refuse(outcome, dict.fromkeys(ids, (JobStatus.QUEUED, None)))
