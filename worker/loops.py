"""What every worker does besides running jobs: rescue, stage and reconcile.

These are loops of the worker and not queued jobs, because as queued jobs they would wait behind the backlog that they
are there to clear. Each step is bounded and safe to run in every worker at once. A step that meets an outage is logged
once and tried again at its next turn; nothing ends a loop but :meth:`Loops.stop`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from itertools import count as count_from
from typing import NamedTuple
from uuid import UUID

import structlog

from repositories.database import DatabaseManager
from repositories.errors import DatabaseStateError, TransactionAbortedError
from repositories.hot_status import HotStatus
from repositories.jobs import JobRepository, Place, Waiting
from repositories.schemas import Outcome
from worker.ending import end_all
from worker.queue import JobQueue, QueueUnavailableError

log = structlog.get_logger(__name__)

_BATCH = 1_000
_PAGES = 3  # of a thousand jobs each, at every look
_ON_THEIR_WAY = 1_000
"""Jobs that wait on the record and stand in no queue may be in the hands of workers that are just claiming them."""


class Loop(NamedTuple):
    """One duty: its name in the log, how long after a step the next one begins, and the step."""

    name: str
    every: timedelta
    step: Callable[[], Awaitable[None]]


class Loops:
    """Runs duties until it is stopped."""

    def __init__(self, *loops: Loop) -> None:
        self._loops = loops
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Start every loop; the first step of each runs at once."""
        self._tasks = [
            asyncio.create_task(_run(loop, self._stopping), name=f"loop-{loop.name}") for loop in self._loops
        ]

    async def stop(self) -> None:
        """Stop every loop, and wait until the last has ended."""
        self._stopping.set()
        await end_all(self._tasks)


async def _run(loop: Loop, stopping: asyncio.Event) -> None:
    failing = False
    while not stopping.is_set():  # a library may swallow a cancellation
        try:
            await loop.step()
            if failing:
                log.info("loop.recovered", loop=loop.name)
            failing = False
        except (DatabaseStateError, QueueUnavailableError) as error:
            if not failing:
                log.warning("loop.waiting", loop=loop.name, reason=str(error))
            failing = True
        except Exception as error:  # a fault of ours in one duty must not end it for the life of the worker
            log.exception("loop.error", loop=loop.name, exc_info=error)
        # What waits for a server goes on soon after it is back.
        await asyncio.sleep(min(loop.every.total_seconds(), 1.0) if failing else loop.every.total_seconds())


class Upkeep:
    """The steps.

    Args:
        database, queue: what is kept in step.
        lease: after an outage of PostgreSQL nothing is rescued for so long: workers that live extend theirs first.
        types: job types that this worker knows; others' scheduled jobs are left to workers that know them.
        hot: where the status of what is moved is written through.
    """

    def __init__(
        self,
        database: DatabaseManager,
        queue: JobQueue,
        lease: timedelta,
        types: Collection[str] | None = None,
        hot: HotStatus | None = None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._lease = lease
        self._types = types
        self._hot = hot
        self._marked: set[UUID] = set()
        self._after: Place | None = None
        self._cursor = 0
        self._members: dict[str, int] = {}
        self._away = False
        self._rescue_from = 0.0

    async def rescue(self) -> None:
        """Put jobs of dead workers back, and hand them over at once."""
        try:
            outcome, waiting, workers = await self._rescue()
        except TransactionAbortedError:
            raise  # another transaction was in the way: that keeps no worker from extending its leases
        except DatabaseStateError:
            self._away = True
            raise
        for job_id, status in outcome.moved.items():
            log.warning("job.rescued", job_id=str(job_id), status=str(status), lost_worker=workers.get(job_id))
        await self._queue.forget([job_id for job_id, status in outcome.moved.items() if status.is_final])
        await self._queue.hand_over(waiting)

    async def _rescue(self) -> tuple[Outcome, list[Waiting], dict[UUID, str]]:
        async with self._database.get_transaction() as session:
            if self._away:  # it is back: those who live get a lease's time to say so
                self._away, self._rescue_from = False, time.monotonic() + self._lease.total_seconds()
            if time.monotonic() < self._rescue_from:
                return Outcome(), [], {}
            jobs = JobRepository(session, self._hot)
            outcome = await jobs.rescue(_BATCH, self._lease)
            if not outcome.moved:
                return outcome, [], {}
            return outcome, await jobs.waiting_among(outcome.released), await jobs.last_workers(outcome.moved)

    async def stage(self) -> None:
        """Hand over scheduled jobs whose time has come, and parked ones that may run by now."""
        async with self._database.get_transaction() as session:
            due = await JobRepository(session, self._hot).take_due(_BATCH, self._types)
        # If this fails, the reconciler finds them queued and not in Redis.
        await self._queue.hand_over(due)

    async def reconcile(self) -> None:
        """Hand over what is queued and not in Redis; take out of Redis what is neither queued nor running.

        Looks at a part of each at a time, and goes on with the next one at the next step; but at everything at once if
        Redis is not the one that it was, or has lost its data.
        """
        run_id, known, new = await self._queue.begin_check()
        if new:  # never asked before, or emptied: the latter shows in how much stands there
            async with self._database.get_session() as session:
                known = await JobRepository(session).count_waiting() <= await self._queue.total() + _ON_THEIR_WAY
        handed_over = await self._hand_over_missing(_PAGES if known else None)
        await self._queue.end_check(run_id)
        removed = await self._forget_ended()
        for name in await self._queue.names():
            removed += await self._remove_ended(name)
        if handed_over or removed:
            log.info("queue.reconciled", handed_over=handed_over, removed=removed)

    async def _hand_over_missing(self, pages: int | None) -> int:
        """Look at so many pages of what waits; ``None``: at all of it."""
        count = 0
        after = self._after if pages is not None else None
        for _ in count_from(1) if pages is None else range(pages):
            async with self._database.get_session() as session:
                waiting, after = await JobRepository(session).waiting(after, _BATCH)
            stranded = await self._queue.stranded(waiting)
            # A worker that died between its mark and its claim: the mark would keep everybody away for days.
            lost = stranded.missing + [job for job in stranded.marked if job.job_id in self._marked]
            marked = {job.job_id for job in stranded.marked} - self._marked
            self._marked = (self._marked - {job.job_id for job in waiting}) | marked
            if lost:  # some may have been claimed between the two looks
                async with self._database.get_session() as session:
                    lost = await JobRepository(session).waiting_among([job.job_id for job in lost])
            await self._queue.hand_over(lost)
            count += len(lost)
            if after is None:
                break
        self._after = after
        return count

    async def _forget_ended(self) -> int:
        """Drop what Redis keeps of jobs that stand in no queue any more, because nobody could tell it that they ended.

        A part of Redis's keys at a time: each step goes on where the last one stopped.
        """
        self._cursor, ids = await self._queue.bodies(self._cursor)
        ended = await self._ended_among(ids)
        await self._queue.forget(ended)
        return len(ended)

    async def _remove_ended(self, name: str) -> int:
        self._members[name], ids = await self._queue.ids(name, self._members.get(name, 0))
        ended = await self._ended_among(ids)
        await self._queue.remove(ended)
        return len(ended)

    async def _ended_among(self, ids: Collection[UUID]) -> set[UUID]:
        if not ids:
            return set()
        async with self._database.get_session() as session:
            return set(ids) - await JobRepository(session).live_among(ids)
