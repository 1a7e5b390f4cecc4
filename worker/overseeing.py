"""What operators and curious callers ask of a :class:`worker.client.JobClient`, besides its jobs.

Why is a job not running, when will it start or end, who works, which queues are there; pause and limit them.
"""

from collections.abc import Collection
from uuid import UUID

import structlog

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.queues import KEEP, Keep, QueueRepository, QueueSettings, QueueSummary
from repositories.schemas import MAX_BATCH
from repositories.transactions import run_in_transaction
from worker.eta import Eta, estimates
from worker.queue import JobQueue, QueueUnavailableError
from worker.registry import LiveWorker, Registry
from worker.why import Why, explain, gather

log = structlog.get_logger(__name__)


class Overseeing:
    """Each method is one question or one order; none changes a job."""

    def __init__(self, database: DatabaseManager, queue: JobQueue, registry: Registry | None) -> None:
        self._database = database
        self._queue = queue
        self._registry = registry

    async def eta(self, ids: Collection[UUID]) -> dict[UUID, Eta]:
        """Estimate from measured paces when waiting jobs start and running ones end: two statements for each thousand.

        A job is left out if it does neither, or if too little has ended lately to tell it from.
        """
        asked, found = list(ids), dict[UUID, Eta]()
        async with self._database.get_session() as session:
            jobs = JobRepository(session)
            for start in range(0, len(asked), MAX_BATCH):
                batch = asked[start : start + MAX_BATCH]
                waits, rests = await jobs.estimate_waits(batch), await jobs.estimate_rests(batch)
                found |= estimates(waits.values(), rests.values())
        return found

    async def why(self, job_id: UUID | str) -> Why:
        """Say why a job is not running, or what became of it. Any text is an id; one that is of no job says so.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
        """
        return explain(await gather(self._database, self._registry, self._queue.positions, job_id))

    async def workers(self) -> list[LiveWorker]:
        """Return the workers that live.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        return [] if self._registry is None else await self._registry.live()

    async def queues(self, names: Collection[str] | None = None) -> list[QueueSummary]:
        """Return the queues that hold live jobs, are paused or limited; with ``names`` only these."""
        async with self._database.get_session() as session:
            return await QueueRepository(session).list(names)

    async def pause_queue(self, name: str, reason: str | None = None, by: str = "unknown") -> None:
        """Let no job of the queue start from now on; running ones go on.

        Args:
            name: 1 to 64 letters, digits, ``.``, ``_`` and ``-``.
            reason: why, for people; at most 500 characters.
            by: who, likewise.

        Raises:
            pydantic.ValidationError: no queue can have this name, or a text is too long.
        """
        await run_in_transaction(self._database, lambda session: QueueRepository(session).pause(name, reason, by))

    async def resume_queue(self, name: str) -> bool:
        """Let the queue's jobs start again, and hand over at once those that waited; return whether it was paused.

        Raises:
            pydantic.ValidationError: no queue can have this name.
        """
        resumed = await run_in_transaction(self._database, lambda session: QueueRepository(session).resume(name))
        released = MAX_BATCH
        try:
            while released == MAX_BATCH:
                waiting = await run_in_transaction(
                    self._database, lambda session: JobRepository(session).release_parked(queues=[name])
                )
                await self._queue.hand_over(waiting)
                released = len(waiting)
        except QueueUnavailableError as error:
            log.warning(
                "queue.not_handed_over", queue=name, reason=str(error), next="the workers' stagers go on with it"
            )
        return resumed

    async def limit_queue(
        self, name: str, *, max_running: int | Keep | None = KEEP, max_per_minute: int | Keep | None = KEEP
    ) -> QueueSettings:
        """Limit a queue over all workers, as :meth:`repositories.queues.QueueRepository.set_limits` says.

        Raises:
            pydantic.ValidationError: no queue can have this name.
            ConflictError: a limit is out of its range.
        """
        return await run_in_transaction(
            self._database,
            lambda session: QueueRepository(session).set_limits(
                name, max_running=max_running, max_per_minute=max_per_minute
            ),
        )
