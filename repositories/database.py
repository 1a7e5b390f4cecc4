"""Sessions and transactions of one process, on the primary and on its read replica.

A :class:`DatabaseManager` owns the engines (:mod:`repositories.engine`, :mod:`repositories.replica`); whoever makes it
closes it. What decides or writes takes :meth:`DatabaseManager.get_session` or ``get_transaction``; lists and statistics
take ``get_read_session``. Callers that want one per process (web
frameworks) use :func:`init_db` and :func:`close_db`, and take sessions from :func:`get_db_session` or
:func:`get_db_transaction`.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from repositories.cache import reset_shared_memory_backend
from repositories.engine import is_pooled, make_engine
from repositories.errors import connecting, translated
from repositories.hot_status import HotStatus
from repositories.lane import Lane
from repositories.replica import CONNECT_TIMEOUT_SECONDS, RETRY_SECONDS, Replica, read_only
from repositories.settings import CacheSettings, DatabaseSettings


class DatabaseManager:
    """The primary's engine with its pool, the replica's if there is one, and the sessions made from them.

    Args:
        url: ``postgresql+asyncpg://...``, with ``pgbouncer=true`` in its query if it leads to PgBouncer.
        pool_size: connections kept open (1 or more), to each of the two.
        max_overflow: connections opened beyond that under load (0 or more), likewise.
        name: shown in ``pg_stat_activity``.
        replica_url: a streaming replica of the same server, for :meth:`get_read_session`; ``None`` if there is none.
        replica_retry_seconds: how long a replica that did not answer is left alone.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        max_overflow: int = 20,
        name: str = "anythingllm-worker",
        replica_url: str | None = None,
        replica_retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.engine = make_engine(url, pool_size=pool_size, max_overflow=max_overflow, name=name)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._autocommit = async_sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False
        )
        self._readers = read_only(self.engine)
        self._replica: Replica | None = None
        if replica_url is not None:
            standby = make_engine(
                replica_url,
                pool_size=pool_size,
                max_overflow=max_overflow,
                name=name,
                connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
                ping_after_seconds=0,  # while it does not answer, the primary does: that must be known before a read
            )
            self._replica = Replica(standby, replica_retry_seconds)

    @classmethod
    def of(cls, settings: DatabaseSettings, name: str = "anythingllm-worker") -> Self:
        """A manager of the servers that ``settings`` name; nothing is opened yet.

        Args:
            settings: where PostgreSQL and its replica are.
            name: shown in ``pg_stat_activity``.

        Raises:
            RuntimeError: ``DATABASE_URL`` is not set.
        """
        if settings.database_url is None:
            raise RuntimeError("DATABASE_URL is not set")
        replica = settings.database_replica_url
        return cls(
            settings.database_url.get_secret_value(),
            pool_size=settings.database_pool_size,
            max_overflow=settings.database_max_overflow,
            name=name,
            replica_url=None if replica is None else replica.get_secret_value(),
        )

    @asynccontextmanager
    async def get_session(self) -> AsyncIterator[AsyncSession]:
        """A session whose caller commits; what is not committed is rolled back at the end.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
            ConflictError: a constraint was violated.
        """
        with translated():
            async with self._sessions() as session:
                with connecting():
                    await session.connection()
                yield session

    @asynccontextmanager
    async def get_transaction(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed at the end, rolled back on any exception, cancellation included.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
            ConflictError: a constraint was violated.
        """
        with translated():
            async with self._sessions() as session, session.begin():
                with connecting():
                    await session.connection()
                yield session

    @asynccontextmanager
    async def get_autocommit(self) -> AsyncIterator[AsyncSession]:
        """A session whose statements commit one by one: for work that is a single statement.

        It saves the round trips of BEGIN and COMMIT. Behind PgBouncer, where a statement outside a transaction would
        have no time limit, it is one transaction.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
        """
        if is_pooled(self.engine):
            async with self.get_transaction() as session:
                yield session
            return
        with translated():
            async with self._autocommit() as session:
                with connecting():
                    await session.connection()
                yield session

    @asynccontextmanager
    async def get_read_session(self) -> AsyncIterator[AsyncSession]:
        """A session for lists and statistics: on the replica while it answers, else on the primary. It only reads.

        What was committed a moment ago may not be there yet: the replica follows with some lag. Read what decides, and
        what the caller has just written, in :meth:`get_session`.

        Raises:
            DatabaseUnavailableError: the primary does not answer either, or the replica was lost in the middle.
            ReadOnlyError: something was to be written.
            TransactionAbortedError: the replica ended a long statement because replay could not wait for it.
        """
        with translated():
            async with AsyncExitStack() as stack:
                session = None if self._replica is None else await self._replica.enter_session(stack)
                if session is None:
                    session = await stack.enter_async_context(self._readers())
                    with connecting():
                        await session.connection()
                yield session

    def lane(self) -> Lane:
        """A connection of one's own on the primary, for a loop that sends the same statements all day."""
        return Lane(self.engine)

    async def ping(self) -> None:
        """Return if PostgreSQL answers.

        Raises:
            DatabaseUnavailableError: it does not.
        """
        async with self.get_session() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close every connection."""
        try:
            if self._replica is not None:
                await self._replica.close()
        finally:
            await self.engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Process:
    """The one manager and Redis client of a process that uses :func:`init_db`."""

    manager: DatabaseManager | None = None
    redis: "Redis | None" = None
    hot: HotStatus | None = None


async def init_db(settings: DatabaseSettings | None = None, cache: CacheSettings | None = None) -> DatabaseManager:
    """Open the process-wide database manager, and the Redis client of the cache if ``settings`` enables one.

    Args:
        settings: where PostgreSQL is; read from the environment when not given.
        cache: where Redis is; without it ``settings``, if that one object is both, else the environment.

    Raises:
        RuntimeError: it is open already, or ``DATABASE_URL`` is not set.
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    if _Process.manager is not None:
        raise RuntimeError("init_db was already called: call close_db first")
    settings = settings or DatabaseSettings()
    manager = DatabaseManager.of(settings)
    try:
        await manager.ping()
    except BaseException:
        await manager.close()
        raise
    _Process.manager = manager
    both: object = settings  # mypy holds that no class can be both, though a caller's may
    cache = cache or (both if isinstance(both, CacheSettings) else CacheSettings())
    if cache.redis_enabled and cache.redis_url is not None:
        pool = BlockingConnectionPool.from_url(
            cache.redis_url.get_secret_value(), max_connections=cache.redis_pool_size, timeout=5
        )
        _Process.redis = Redis(connection_pool=pool)
        _Process.hot = HotStatus(_Process.redis)
    return manager


async def close_db() -> None:
    """Close what :func:`init_db` opened; without it, do nothing."""
    manager, redis, hot = _Process.manager, _Process.redis, _Process.hot
    _Process.manager = _Process.redis = _Process.hot = None
    if hot is not None:
        await hot.settled()
    # First the cache's memory and its watch over Redis: it would reconnect a client that is closed.
    reset_shared_memory_backend()
    if redis is not None:
        await redis.aclose(close_connection_pool=True)
    if manager is not None:
        await manager.close()


def _manager() -> DatabaseManager:
    if _Process.manager is None:
        raise RuntimeError("there is no database yet: await init_db(settings) first")
    return _Process.manager


async def get_db_session() -> AsyncIterator[AsyncSession]:
    """Yield a session and commit it at the end (a FastAPI dependency)."""
    async with _manager().get_session() as session:
        yield session
        await session.commit()


async def get_db_read_session() -> AsyncIterator[AsyncSession]:
    """Yield a session that only reads, on the replica if there is one (a FastAPI dependency)."""
    async with _manager().get_read_session() as session:
        yield session


async def get_db_transaction() -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction: committed at the end, rolled back on any exception (a FastAPI dependency)."""
    async with _manager().get_transaction() as session:
        yield session


def get_redis() -> "Redis | None":
    """Return the process-wide Redis client of the cache; ``None`` means that the cache is in memory."""
    return _Process.redis


def get_hot_status() -> HotStatus | None:
    """Return the process-wide hot statuses; ``None`` means that the cache is in memory, where there are none."""
    return _Process.hot
