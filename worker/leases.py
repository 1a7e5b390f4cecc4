"""Keeping this worker's jobs ours, and hearing that one is to be cancelled, from a thread of its own.

The keeper has its own event loop and its own connection, so a main loop that is busy parsing loses no lease. It stops
renewing when the main loop has not moved for :data:`STALLED_SECONDS`: then the jobs are better off elsewhere.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from typing import Protocol

import structlog

from repositories.database import DatabaseManager
from repositories.errors import DatabaseStateError
from repositories.jobs import JobRepository
from repositories.schemas import MAX_BATCH, Held

STALLED_SECONDS = 60.0
_JOIN_SECONDS = 10.0
_LOOK_SECONDS = 0.5  # how often cancel requests are looked for, and how soon a failed extension is tried again

_LOCKED_SECONDS = 0.02  # how soon a lease is asked for again whose row somebody had locked

log = structlog.get_logger(__name__)


class Leased(Protocol):
    """A job whose lease is kept. Its two methods are called on the main loop, and may be called again."""

    @property
    def held(self) -> Held:
        """The job and the attempt that owns it."""

    def stop_as_lost(self) -> None:
        """It is somebody else's now."""

    def request_cancel(self) -> None:
        """Its cancellation was asked for."""


class LeaseKeeper:
    """Extends the leases of every job in :meth:`holding`, all of them in one statement.

    Args:
        database_url: ``postgresql+asyncpg://...``; the keeper opens one connection of its own.
        lease: how far each extension reaches.
        every: time between two extensions; well below ``lease``.
    """

    def __init__(self, database_url: str, lease: timedelta, every: timedelta) -> None:
        self._url = database_url
        self._lease = lease
        self._every = every
        self._held: dict[Held, Leased] = {}
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._main: asyncio.AbstractEventLoop | None = None
        self._failing = False
        self._pulse = time.monotonic()
        self._pulse_task: asyncio.Task[None] | None = None

    def hold(self, jobs: Iterable[Leased]) -> None:
        """Keep these jobs' leases until they are released."""
        with self._guard:
            self._held.update((job.held, job) for job in jobs)

    def release(self, jobs: Iterable[Held]) -> None:
        """Let go of jobs whose end is on the record, or which are nobody's to keep."""
        with self._guard:
            for held in jobs:
                self._held.pop(held, None)

    def count(self) -> int:
        """How many jobs' leases are kept now."""
        with self._guard:
            return len(self._held)

    @contextmanager
    def holding(self, job: Leased) -> Iterator[None]:
        """Keep a job's lease while the block runs."""
        self.hold([job])
        try:
            yield
        finally:
            self.release([job.held])

    async def start(self) -> None:
        """Start the thread; call from the main loop."""
        self._main = asyncio.get_running_loop()
        self._pulse_task = asyncio.create_task(self._beat(), name="lease-pulse")
        context = copy_context()  # so that the thread's log lines name the worker, too
        self._thread = threading.Thread(
            target=lambda: context.run(asyncio.run, self._run()), name="leases", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        """Stop the thread and close its connection."""
        self._stopping.set()
        if self._pulse_task is not None:
            self._pulse_task.cancel()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _JOIN_SECONDS)

    async def _beat(self) -> None:
        while True:
            self._pulse = time.monotonic()
            await asyncio.sleep(1)

    async def _run(self) -> None:
        async with DatabaseManager(
            self._url, pool_size=1, max_overflow=0, name="anythingllm-worker leases"
        ) as database:
            due = time.monotonic() + self._every.total_seconds()
            pause = min(_LOOK_SECONDS, self._every.total_seconds())
            while not await asyncio.to_thread(self._stopping.wait, pause):
                with self._guard:
                    held = dict(self._held)
                if time.monotonic() < due:
                    if held:
                        await self._attempt(self._look(database, held), len(held))
                    continue
                stalled = time.monotonic() - self._pulse > STALLED_SECONDS
                if stalled:
                    log.error("lease.stalled", jobs=len(held), stalled_seconds=STALLED_SECONDS)
                elif held and not await self._attempt(self._extend(database, held), len(held)):
                    continue  # tried again at the next look
                due = time.monotonic() + self._every.total_seconds()

    async def _attempt(self, step: Coroutine[None, None, None], jobs: int) -> bool:
        """Whether the step could be done; nothing that goes wrong ends the thread, or every job would be lost."""
        try:
            async with asyncio.timeout(self._lease.total_seconds() / 2):  # a server that hangs is away
                await step
        except (DatabaseStateError, TimeoutError) as error:
            if not self._failing:
                log.warning("lease.not_extended", jobs=jobs, reason=str(error) or "no answer in time")
            self._failing = True
            return False
        except Exception as error:  # a fault of ours
            log.exception("lease.error", jobs=jobs, exc_info=error)
            return False
        if self._failing:
            log.info("lease.recovered", jobs=jobs)
        self._failing = False
        return True

    async def _look(self, database: DatabaseManager, held: dict[Held, Leased]) -> None:
        """Tell the jobs whose cancellation was asked for since the last extension."""
        jobs = {job.held.job_id: job for job in held.values()}
        async with database.get_autocommit() as session:
            for job_id in await JobRepository(session).cancel_requested_among(jobs):
                self._tell(jobs[job_id].request_cancel)

    async def _extend(self, database: DatabaseManager, held: dict[Held, Leased]) -> None:
        """Extend every lease; where a row is locked for a moment, by the job's own progress mostly, until it is not."""
        left = list(held)
        while left:
            locked: list[Held] = []
            for start in range(0, len(left), MAX_BATCH):
                locked += await self._extend_some(database, held, left[start : start + MAX_BATCH])
            with self._guard:
                left = [job for job in locked if job in self._held]  # the others have ended meanwhile
            if left:
                await asyncio.sleep(_LOCKED_SECONDS)

    async def _extend_some(self, database: DatabaseManager, held: dict[Held, Leased], some: list[Held]) -> list[Held]:
        """Extend these leases, and return those of rows that were locked."""
        async with database.get_autocommit() as session:
            leases = {lease.job_id: lease for lease in await JobRepository(session).extend_leases(some, self._lease)}
        for job in some:
            lease = leases.get(job.job_id)
            if lease is None:
                self._tell(held[job].stop_as_lost)
            elif lease.cancel_requested:
                self._tell(held[job].request_cancel)
        return [job for job in some if job.job_id in leases and not leases[job.job_id].extended]

    def _tell(self, call: Callable[[], None]) -> None:
        if self._main is not None and not self._main.is_closed():
            self._main.call_soon_threadsafe(call)
