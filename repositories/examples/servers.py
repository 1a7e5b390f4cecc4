"""The ground the patterns run on: a database and a cache namespace of their own, and the app that opened both.

On servers that somebody uses, the patterns must touch nothing: clean-up deletes old jobs, whoever wrote them. So they
get a new database, dropped at the end, and a namespace that no one else has.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import uuid4

from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from repositories.cache import CacheRepository
from repositories.database import DatabaseManager, get_redis
from repositories.dependencies import get_cache_repository
from repositories.errors import RepositoryError
from repositories.examples.app import ExampleSettings, create_app
from repositories.migrations import upgrade

Facts = dict[str, Any]
"""What a pattern found, by a few words; plain JSON."""


class ExamplesError(RepositoryError):
    """The patterns cannot run on these servers; the message says what to change."""


class Opened(NamedTuple):
    """What a pattern uses.

    Attributes:
        app: the running app.
        database: the one engine of the process, which the app opened.
        cache: a namespace of its own; the app uses the same.
    """

    app: FastAPI
    database: DatabaseManager
    cache: CacheRepository


@asynccontextmanager
async def opened(settings: ExampleSettings) -> AsyncIterator[Opened]:
    """Make a migrated database and start the app on it; remove everything at the end.

    Raises:
        ExamplesError: the database may not be made, or Redis does not answer.
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    async with _own_database(settings) as own:
        app = create_app(own)
        async with app.router.lifespan_context(app):
            database: DatabaseManager = app.state.database
            await upgrade(database.engine)
            cache = CacheRepository(get_redis(), namespace=f"examples-{uuid4().hex[:8]}")
            if not await cache.health_check():
                raise ExamplesError("Redis does not answer: is it running, and is REDIS_URL right?")
            app.dependency_overrides[get_cache_repository] = lambda: cache
            try:
                yield Opened(app, database, cache)
            finally:
                await cache.clear()


@asynccontextmanager
async def _own_database(settings: ExampleSettings) -> AsyncIterator[ExampleSettings]:
    if settings.migration_url is None:
        raise ExamplesError(
            "the examples need a server to make a database on: set DATABASE_URL, "
            "or DATABASE_DIRECT_URL where that one leads to PgBouncer"
        )
    url = make_url(settings.migration_url.get_secret_value())
    name = f"examples_{uuid4().hex[:12]}"
    async with DatabaseManager(url.render_as_string(hide_password=False), pool_size=1) as given:
        await given.ping()
        try:
            await _administer(given.engine, f"CREATE DATABASE {name}")
        except ProgrammingError as error:
            raise ExamplesError(
                f"{url.username} may not create a database for the examples: set DATABASE_URL to a user who may, "
                "or unset it and use the embedded server"
            ) from error
        own_url = url.set(database=name).render_as_string(hide_password=False)
        try:
            # Neither a replica nor PgBouncer needs to know of a database this young.
            ways_there = {"database_replica_url": None, "database_direct_url": None, "database_pgbouncer": False}
            yield settings.model_copy(update={"database_url": SecretStr(own_url)} | ways_there)
        finally:
            await _administer(given.engine, f"DROP DATABASE {name} WITH (FORCE)")


async def _administer(engine: AsyncEngine, statement: str) -> None:
    async with engine.connect() as connection:  # CREATE DATABASE runs in no transaction
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text(statement))
