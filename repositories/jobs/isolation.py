"""Jobs that may have killed their workers: kept apart, and run one at a time in a process of their own.

Only a lease that was lost while the job ran alone counts as its crash. One that was lost beside other jobs makes each
of them suspect a little; from :data:`repositories.models.SUSPECT_FROM` on a job is kept out of Redis, and
:meth:`Isolating.claim_alone` is the only way to start it. Any end but another lost lease clears it.
"""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, literal, select, update

from repositories.errors import translated
from repositories.jobs.admission import not_paused
from repositories.jobs.claim import ClaimedJob, Claiming
from repositories.jobs.core import in_state, named, standing
from repositories.models import SUSPECT_FROM, Job
from repositories.states import JobStatus

_LOOKED_AT = 500  # suspects are few


def _suspects(types: Collection[str], queues: Collection[str]) -> ColumnElement[bool]:
    return and_(
        in_state(JobStatus.QUEUED),
        Job.suspicion >= literal(SUSPECT_FROM, literal_execute=True),  # spelled as ix_jobs_suspects has it
        Job.type.in_(types),
        Job.queue.in_(queues),
        not_paused(),
    )


class Isolating(Claiming):
    """Find and start jobs that are to run alone."""

    async def has_suspects(self, types: Collection[str], queues: Collection[str]) -> bool:
        """Whether a job of these types and queues waits to be run alone."""
        with translated():
            found = await self.session.scalar(select(Job.id).where(_suspects(types, queues)).limit(1))
            return found is not None

    async def claim_alone(
        self, worker_id: str, lease: timedelta, types: Collection[str], queues: Collection[str]
    ) -> ClaimedJob | None:
        """Start one job that is to run alone; ``None`` if there is none that may start now.

        Args:
            worker_id: who runs it, and nothing beside it.
            lease: as for :meth:`claim`.
            types: job types that the caller can run.
            queues: whose jobs it runs.
        """
        with translated():
            for picked in await self._first_of_each_queue(types, queues):
                await self._set(picked, scheduled_at=None)
                if not (await self.admit([picked], types)).start:
                    await self.park([picked])
                    continue
                claimed = await self.claim([picked], worker_id, lease, types, admitted=True)
                await self._set(picked, isolated=True)
                return claimed[0] if claimed else None
        return None

    async def _first_of_each_queue(self, types: Collection[str], queues: Collection[str]) -> list[UUID]:
        """Lock the suspects that stand first; a queue that is full keeps none of another queue back."""
        rows = await self.session.execute(
            select(Job.queue, Job.id)
            .where(_suspects(types, queues))
            .order_by(Job.priority, Job.queued_at, Job.id)
            .limit(_LOOKED_AT)
            .with_for_update(skip_locked=True)
        )
        first: dict[str, UUID] = {}
        for queue, job_id in rows:
            first.setdefault(queue, job_id)
        return list(first.values())

    async def claimed_before(self, ids: Collection[UUID] | None, worker_id: str) -> list[ClaimedJob]:
        """Return those of ``ids`` that a claim of this worker started although its answer was lost.

        Args:
            ids: what was to be claimed; the caller runs none of them. ``None``: it runs nothing at all.
            worker_id: the caller.
        """
        columns = [getattr(Job, name) for name in ClaimedJob._fields]
        running = in_state(JobStatus.PROCESSING) if ids is None else and_(named(ids), standing([JobStatus.PROCESSING]))
        with translated():
            rows = await self.session.execute(
                select(*columns).where(
                    running,
                    Job.worker_id == worker_id,
                )
            )
            return [ClaimedJob._make(row) for row in rows]

    async def _set(self, job_id: UUID, **values: object) -> None:
        await self.session.execute(
            update(Job).where(Job.id == job_id).values(**values).execution_options(synchronize_session=False)
        )
