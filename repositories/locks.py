"""Locks between processes: one at a time does what is named, whichever machine it runs on.

A lock is a lease, a row that says who holds the name and until when. Its holder renews it; where the holder died, or
lost PostgreSQL, it runs out and the next one takes it over, so a dead holder costs at most a lease. Every step is one
statement, so it works through PgBouncer, which keeps no session's advisory locks.

A lease is a promise about time, not a fence: a process that stood still beyond its lease may do a little more before it
learns that. What must never land late is fenced by a job's attempt as well.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import structlog
from sqlalchemy import delete, update
from sqlalchemy.dialects.postgresql import insert

from repositories.database import DatabaseManager
from repositories.errors import InvalidValueError, RepositoryError
from repositories.jobs.core import NOW
from repositories.lock_models import LONGEST_LOCK_NAME, Lock

LEASE_SECONDS = 30.0
"""How far a lease reaches where the caller does not say."""

_MOST_SECONDS = 3_600
_RENEWALS_A_LEASE = 3
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.05, 0.5  # between two looks at a lock that somebody else holds
_RELEASE_SECONDS = 5.0  # how long a release may take before it is left to the lease

_log = structlog.get_logger(__name__)


class LockLostError(RepositoryError):
    """A lock could not be kept: its lease ran out, or it is somebody else's now; what it guarded was stopped.

    Attributes:
        name: the lock's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"the lock {self.name!r} was lost while it was held, and the work under it stopped: begin that work again"
        )


class Locks:
    """The locks of one database.

    Args:
        database: a lock that is held takes a connection of its pool for a moment, three times a lease.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    @asynccontextmanager
    async def hold(self, name: str, seconds: float = LEASE_SECONDS) -> AsyncIterator[None]:
        """Hold a lock while the block runs; wait for it first, as long as it takes.

        Waiting has no order: whoever looks first after it is free has it. A task that holds a lock must not take it
        again. If the lock is lost, the block is cancelled where it waits.

        Args:
            name: 1 to 255 characters, the same for all who must not work at the same time.
            seconds: how far a lease reaches, 1 to 3,600: what a dead holder costs the others, and how long PostgreSQL
                may be away before a live one is stopped.

        Raises:
            LockLostError: the lease could not be renewed in time, or the row is somebody else's.
            DatabaseUnavailableError: PostgreSQL does not answer, so the lock was not taken.
            InvalidValueError: ``name`` or ``seconds`` is out of range.
        """
        if not 0 < len(name) <= LONGEST_LOCK_NAME:
            raise InvalidValueError("name", f"a lock's name has 1 to {LONGEST_LOCK_NAME} characters, not {len(name)}")
        if not 1 <= seconds <= _MOST_SECONDS:
            raise InvalidValueError("seconds", f"a lease is 1 to {_MOST_SECONDS:,} seconds, not {seconds:g}")
        lease = _Lease(self._database, name, seconds)
        bound = asyncio.timeout(None)
        try:
            until = await lease.take()
            async with bound:
                bound.reschedule(until)
                async with lease.kept(bound):
                    yield
        except TimeoutError as error:
            if not bound.expired():
                raise  # the block's own
            raise LockLostError(name) from (lease.fault or error)
        finally:
            if not bound.expired():  # a lock that was lost is nobody's or another's
                await lease.release()


class _Lease:
    """One holder's hold on one lock. Times are the event loop's; the row's are the database's and never earlier."""

    def __init__(self, database: DatabaseManager, name: str, seconds: float) -> None:
        self._database, self._name, self._seconds = database, name, seconds
        self._holder = uuid4()
        self._loop = asyncio.get_running_loop()
        self.fault: BaseException | None = None

    async def take(self) -> float:
        """Wait for the lock and take it; return until when it is held if it is not renewed."""
        pause = _FIRST_LOOK_SECONDS
        while (until := await self._try()) is None:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LAST_LOOK_SECONDS)
        return until

    @asynccontextmanager
    async def kept(self, bound: asyncio.Timeout) -> AsyncIterator[None]:
        """Renew the lease while the block runs, and move ``bound`` with it; bring it forward if the lock is lost."""
        keeper = asyncio.create_task(self._keep(bound), name=f"lock {self._name}")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})
            self.fault = None if keeper.cancelled() else keeper.exception()

    async def _keep(self, bound: asyncio.Timeout) -> None:
        pause = self._seconds / _RENEWALS_A_LEASE
        while not bound.expired():
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(pause):  # a server that hangs is away
                    until = await self._renew()
            except (RepositoryError, TimeoutError) as error:
                reason = str(error) or "no answer in time"
                _log.warning("lock.not_renewed", lock=self._name, reason=reason)
                continue  # when the bound is reached without a renewal, the block ends
            if not bound.expired():
                bound.reschedule(self._loop.time() if until is None else until)
            if until is None:
                return

    async def release(self) -> None:
        """Give the lock back, if it is held; where that cannot be done now, the lease runs out by itself."""
        mine = delete(Lock).where(Lock.name == self._name, Lock.holder == self._holder)
        try:
            async with asyncio.timeout(_RELEASE_SECONDS), self._database.get_autocommit() as session:
                await session.execute(mine.execution_options(synchronize_session=False))
        except (RepositoryError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            _log.warning("lock.not_released", lock=self._name, reason=reason, seconds=self._seconds)

    async def _try(self) -> float | None:
        """Take the lock if it is free or its lease ran out."""
        until = self._loop.time() + self._seconds
        lease = {"holder": self._holder, "expires_at": NOW + timedelta(seconds=self._seconds)}
        statement = (
            insert(Lock)
            .values(name=self._name, **lease)
            .on_conflict_do_update(index_elements=[Lock.name], set_=lease, where=Lock.expires_at <= NOW)
            .returning(Lock.name)
        )
        async with self._database.get_autocommit() as session:
            return None if await session.scalar(statement) is None else until

    async def _renew(self) -> float | None:
        """Extend the lease. One that ran out is extended too, if nobody has taken it over: nobody held it meanwhile."""
        until = self._loop.time() + self._seconds
        statement = (
            update(Lock)
            .where(Lock.name == self._name, Lock.holder == self._holder)
            .values(expires_at=NOW + timedelta(seconds=self._seconds))
            .returning(Lock.name)
            .execution_options(synchronize_session=False)
        )
        async with self._database.get_autocommit() as session:
            return None if await session.scalar(statement) is None else until
