"""A read replica: where lists and statistics are read while it answers.

What a replica shows is a little old (its replication lag, mostly milliseconds), so nothing that decides reads there:
only what people look at. When it does not answer, readers are sent to the primary and the replica is left alone for a
while; one of them then tries again. Both are said once.
"""

import time
from contextlib import AsyncExitStack

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from repositories.errors import DatabaseUnavailableError, connecting, translated

CONNECT_TIMEOUT_SECONDS = 2
"""Short: readers wait so long at a host that swallows packets, and the primary is there."""

RETRY_SECONDS = 30.0
"""How long a replica that did not answer is left alone."""

_log = structlog.get_logger(__name__)


def read_only(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions whose every transaction is READ ONLY: a write is refused, on a primary as on a replica."""
    return async_sessionmaker(engine.execution_options(postgresql_readonly=True), expire_on_commit=False)


class Replica:
    """A replica and whether it answers.

    Args:
        engine: the replica's; closed by :meth:`close`.
        retry_seconds: how long it is left alone when it did not answer.
    """

    def __init__(self, engine: AsyncEngine, retry_seconds: float = RETRY_SECONDS) -> None:
        self.engine = engine
        self._sessions = read_only(engine)
        self._retry_seconds = retry_seconds
        self._lost_at: float | None = None
        self._next_try = 0.0

    async def enter_session(self, stack: AsyncExitStack) -> AsyncSession | None:
        """Open a read-only session that ``stack`` closes; ``None`` if the replica does not answer."""
        if self._lost_at is not None and not self._may_try():
            return None
        try:
            with translated(), connecting():
                async with AsyncExitStack() as opened:
                    session = await opened.enter_async_context(self._sessions())
                    await session.connection()
                    stack.push_async_exit(opened.pop_all())
        except DatabaseUnavailableError as error:
            self._lose(error.reason)
            return None
        self._find()
        return session

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    def _may_try(self) -> bool:
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + self._retry_seconds  # one reader tries, the others go on
        return True

    def _lose(self, reason: str) -> None:
        now = time.monotonic()
        self._next_try = now + self._retry_seconds
        if self._lost_at is None:
            self._lost_at = now
            _log.warning("replica.lost", reason=reason, retry_seconds=self._retry_seconds)

    def _find(self) -> None:
        if self._lost_at is not None:
            _log.info("replica.returned", outage_seconds=round(time.monotonic() - self._lost_at, 1))
            self._lost_at = None
