"""The process-wide manager, and what a transaction promises."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from repositories.cache import CacheRepository
from repositories.database import DatabaseManager, close_db, get_db_session, get_db_transaction, get_redis, init_db
from repositories.errors import DatabaseUnavailableError, SchemaOutdatedError
from repositories.jobs import JobRepository
from worker.settings import Settings


async def _count(database: DatabaseManager) -> int:
    async with database.get_session() as session:
        return await JobRepository(session).count()


async def test_a_process_opens_its_servers_once_and_closes_them(settings: Settings) -> None:
    await init_db(settings, settings)
    try:
        with pytest.raises(RuntimeError, match="already called"):
            await init_db(settings, settings)
        async with asynccontextmanager(get_db_session)() as session:
            await JobRepository(session).create_job("document_upload")
        async with asynccontextmanager(get_db_transaction)() as session:
            assert await JobRepository(session).count() == 1
        cache = CacheRepository(get_redis())
        assert await cache.set("job:1", {"a": 1})
        assert cache.get_backend_type() == "redis"
    finally:
        await close_db()
    with pytest.raises(RuntimeError, match="await init_db"):
        await anext(get_db_session())


async def test_without_a_cache_in_redis_there_is_no_client(settings: Settings) -> None:
    await init_db(settings, settings.model_copy(update={"redis_enabled": False}))
    try:
        assert get_redis() is None
    finally:
        await close_db()


async def test_a_server_that_does_not_answer_is_told_without_its_password(settings: Settings) -> None:
    away = Settings.model_validate({"database_url": "postgresql://me:hunter2@127.0.0.1:1/db"})

    with pytest.raises(DatabaseUnavailableError, match="is it running") as caught:
        await init_db(away, away)

    assert "hunter2" not in str(caught.value)
    await close_db()


async def test_a_transaction_that_is_cancelled_is_rolled_back(database: DatabaseManager) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with database.get_transaction() as session:
            await JobRepository(session).create_job("document_upload")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await _count(database) == 0


async def test_an_error_of_the_caller_passes_through_as_it_is(database: DatabaseManager) -> None:
    async def work() -> None:
        async with database.get_transaction() as session:
            await JobRepository(session).create_job("document_upload")
            raise FileNotFoundError("the caller's own")

    with pytest.raises(FileNotFoundError, match="the caller's own"):
        await work()

    assert await _count(database) == 0


async def test_a_database_without_its_tables_is_told(empty_database_url: str) -> None:
    async with DatabaseManager(empty_database_url) as database:
        with pytest.raises(SchemaOutdatedError, match="worker db upgrade"):
            await _count(database)
