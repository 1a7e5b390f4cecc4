"""Keeping this worker's jobs ours, from a thread of its own.

The keeper has its own event loop and its own connection, so a main loop that is busy parsing loses no lease. It stops
renewing when the main loop has not moved for :data:`STALLED_SECONDS`: then the jobs are better off elsewhere.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from typing import NamedTuple

import structlog

from repositories.database import DatabaseManager
from repositories.errors import DatabaseUnavailableError
from repositories.jobs import JobRepository
from repositories.schemas import MAX_BATCH, Held

STALLED_SECONDS = 60.0
_JOIN_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Watcher(NamedTuple):
    """What to call, on the main loop, when a job is lost or its cancellation is asked for. Both may be called again."""

    lost: Callable[[], None]
    cancel_requested: Callable[[], None]


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
        self._held: dict[Held, Watcher] = {}
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._main: asyncio.AbstractEventLoop | None = None
        self._pulse = time.monotonic()
        self._pulse_task: asyncio.Task[None] | None = None

    @contextmanager
    def holding(self, held: Held, watcher: Watcher) -> Iterator[None]:
        """Keep a job's lease while the block runs."""
        with self._guard:
            self._held[held] = watcher
        try:
            yield
        finally:
            with self._guard:
                self._held.pop(held, None)

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
            while not await asyncio.to_thread(self._stopping.wait, self._every.total_seconds()):
                with self._guard:
                    held = dict(self._held)
                stalled = time.monotonic() - self._pulse > STALLED_SECONDS
                if not held or stalled:
                    if stalled:
                        log.error("lease.stalled", jobs=len(held), stalled_seconds=STALLED_SECONDS)
                    continue
                try:
                    await self._extend(database, held)
                except DatabaseUnavailableError as error:
                    log.warning("lease.not_extended", jobs=len(held), reason=error.reason)
                except Exception as error:  # a thread that ended would lose every job of this worker, again and again
                    log.exception("lease.error", jobs=len(held), exc_info=error)

    async def _extend(self, database: DatabaseManager, held: dict[Held, Watcher]) -> None:
        everything = list(held)
        for start in range(0, len(everything), MAX_BATCH):
            batch = everything[start : start + MAX_BATCH]
            async with database.get_transaction() as session:
                leases = {
                    lease.job_id: lease for lease in await JobRepository(session).extend_leases(batch, self._lease)
                }
            for job in batch:
                lease = leases.get(job.job_id)
                if lease is None:
                    self._tell(held[job].lost)
                elif lease.cancel_requested:
                    self._tell(held[job].cancel_requested)

    def _tell(self, call: Callable[[], None]) -> None:
        if self._main is not None and not self._main.is_closed():
            self._main.call_soon_threadsafe(call)
