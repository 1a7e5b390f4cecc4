"""Retention: deleting jobs that ended long ago, in batches, and saying beforehand which those are.

A batch is one short transaction of the caller's. It skips rows that somebody else has locked and takes no lock on the
table, so workers go on; the room that is left on the pages is taken by the next rows.
"""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, or_, select

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements, in_state
from repositories.jobs.figures import Expired
from repositories.models import Job
from repositories.states import FINAL, JobStatus

Retention = timedelta | Mapping[JobStatus, timedelta]
"""How long jobs are kept after they ended: the same for all, or for each final state; a state left out is kept."""

_MAX_BATCH = 10_000
_EXPIRED = (Job.id, Job.type, Job.status, Job.workspace_id, Job.completed_at)


class Retiring(JobStatements):
    """Clean-up and its dry run."""

    async def cleanup(self, older_than: Retention, limit: int = 1_000) -> int:
        """Delete at most ``limit`` jobs that ended longer ago than ``older_than``, oldest first, with their items.

        Args:
            older_than: one age for all final states, or one for each; a state that is left out is kept.
            limit: 1 to 10,000.

        Returns:
            How many were deleted; less than ``limit`` means that none is left.

        Raises:
            ValueError: an age is negative, a state is not final, or ``limit`` is out of range.
        """
        old = (
            select(Job.id)
            .where(_expired(older_than, limit))
            .order_by(Job.completed_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("old")
        )
        with translated():
            gone = await self.session.scalars(
                delete(Job)
                .where(Job.id.in_(select(old.c.id)))
                .returning(Job.id)
                .execution_options(synchronize_session=False)
            )
            deleted = gone.all()
            self._note(deleted)
            return len(deleted)

    async def list_expired(self, older_than: Retention, limit: int = 1_000) -> list[Expired]:
        """Return what :meth:`cleanup` would delete now, in that order: its dry run.

        Raises:
            ValueError: as for :meth:`cleanup`.
        """
        statement = select(*_EXPIRED).where(_expired(older_than, limit)).order_by(Job.completed_at).limit(limit)
        with translated():
            return [
                Expired(job_id, kind, status, workspace_id, completed_at)
                for job_id, kind, status, workspace_id, completed_at in await self.session.execute(statement)
                if completed_at is not None  # the condition says so; this tells the type checker
            ]

    async def cleanup_old_jobs(self, older_than_days: int) -> int:
        """Delete all jobs that ended more than ``older_than_days`` (0 or more) days ago; return how many.

        Raises:
            ValueError: ``older_than_days`` is negative.
        """
        if older_than_days < 0:
            raise ValueError(f"older_than_days must be 0 or more, not {older_than_days}")
        total, batch = 0, 1_000
        while True:
            gone = await self.cleanup(timedelta(days=older_than_days), batch)
            total += gone
            if gone < batch:
                return total


def _expired(older_than: Retention, limit: int) -> ColumnElement[bool]:
    ages = dict.fromkeys(sorted(FINAL), older_than) if isinstance(older_than, timedelta) else dict(older_than)
    if not 1 <= limit <= _MAX_BATCH:
        raise ValueError(f"limit must be 1 to {_MAX_BATCH}, not {limit}")
    if not ages:
        raise ValueError("older_than names no state: nothing would ever be deleted")
    for status, age in ages.items():
        if status not in FINAL:
            raise ValueError(f"a job that is {status} is never deleted by age: expected final states")
        if age < timedelta(0):
            raise ValueError(f"an age must be 0 or more, not {age} ({status})")
    each = [and_(in_state(status), Job.completed_at < ASKED_AT - age) for status, age in ages.items()]
    # The first condition follows from the others; it is what the index on the time can be asked.
    return and_(Job.completed_at < ASKED_AT - min(ages.values()), or_(*each))
