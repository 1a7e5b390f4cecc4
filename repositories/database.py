"""The engine, sessions and transactions of one process.

A :class:`DatabaseManager` owns an engine; whoever makes it closes it. Callers that want one per process (web
frameworks) use :func:`init_db` and :func:`close_db`, and take sessions from :func:`get_db_session` or
:func:`get_db_transaction`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from repositories.cache import reset_shared_memory_backend
from repositories.errors import connecting, translated
from repositories.settings import CacheSettings, DatabaseSettings

CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 60


class DatabaseManager:
    """An engine with its pool, and the sessions made from it.

    Args:
        url: ``postgresql+asyncpg://...``.
        pool_size: connections kept open (1 or more).
        max_overflow: connections opened beyond that under load (0 or more).
        name: shown in ``pg_stat_activity``.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, max_overflow: int = 20, name: str = "anythingllm-worker"
    ) -> None:
        self.engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            pool_timeout=30,
            hide_parameters=True,  # what people wrote into jobs does not belong into an error's text
            connect_args={
                "timeout": CONNECT_TIMEOUT_SECONDS,
                "server_settings": {
                    "application_name": name,
                    "jit": "off",  # it costs more than it saves on statements of milliseconds
                    "timezone": "UTC",
                    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
                },
            },
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._autocommit = async_sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False
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
        """A session whose statements commit one by one, each in one round trip: for work that is a single statement.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
        """
        with translated():
            async with self._autocommit() as session:
                with connecting():
                    await session.connection()
                yield session

    async def ping(self) -> None:
        """Return if PostgreSQL answers.

        Raises:
            DatabaseUnavailableError: it does not.
        """
        async with self.get_session() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close every connection."""
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


async def init_db(settings: DatabaseSettings | None = None, cache: CacheSettings | None = None) -> DatabaseManager:
    """Open the process-wide database manager, and the Redis client of the cache if ``settings`` enables one.

    Args:
        settings: where PostgreSQL is; read from the environment when not given.
        cache: where Redis is; likewise. One object may be both.

    Raises:
        RuntimeError: it is open already, or ``DATABASE_URL`` is not set.
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    if _Process.manager is not None:
        raise RuntimeError("init_db was already called: call close_db first")
    settings = settings or DatabaseSettings()
    if settings.database_url is None:
        raise RuntimeError("DATABASE_URL is not set")
    manager = DatabaseManager(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
    )
    try:
        await manager.ping()
    except BaseException:
        await manager.close()
        raise
    _Process.manager = manager
    cache = cache or CacheSettings()
    if cache.redis_enabled and cache.redis_url is not None:
        pool = BlockingConnectionPool.from_url(
            cache.redis_url.get_secret_value(), max_connections=cache.redis_pool_size, timeout=5
        )
        _Process.redis = Redis(connection_pool=pool)
    return manager


async def close_db() -> None:
    """Close what :func:`init_db` opened; without it, do nothing."""
    manager, redis = _Process.manager, _Process.redis
    _Process.manager = _Process.redis = None
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


async def get_db_transaction() -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction: committed at the end, rolled back on any exception (a FastAPI dependency)."""
    async with _manager().get_transaction() as session:
        yield session


def get_redis() -> "Redis | None":
    """Return the process-wide Redis client of the cache; ``None`` means that the cache is in memory."""
    return _Process.redis
