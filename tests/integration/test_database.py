"""The process-wide manager, and what a transaction promises."""

import asyncio
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from repositories import get_read_repository
from repositories.cache import CacheRepository
from repositories.database import (
    DatabaseManager,
    close_db,
    get_db_read_session,
    get_db_session,
    get_db_transaction,
    get_redis,
    init_db,
)
from repositories.engine import make_engine, through_pgbouncer
from repositories.errors import DatabaseUnavailableError, InvalidValueError, ReadOnlyError, SchemaOutdatedError
from repositories.jobs import JobRepository
from repositories.migrations import upgrade
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
        async with asynccontextmanager(get_db_read_session)() as session:
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


async def test_a_read_session_reads_on_the_primary_where_there_is_no_replica_and_never_writes(
    database: DatabaseManager,
) -> None:
    async with database.get_read_session() as session:
        assert await JobRepository(session).count() == 0
        with pytest.raises(ReadOnlyError, match="get_transaction"):
            await JobRepository(session).create_job("document_upload")
    async with database.get_transaction() as session:  # the connection it had takes writes again
        await JobRepository(session).create_job("document_upload")

    assert await _count(database) == 1


async def test_an_endpoint_lists_through_the_read_repository_and_cannot_write_through_it(settings: Settings) -> None:
    app = FastAPI()

    @app.get("/jobs")
    async def number_of_jobs(jobs: Annotated[JobRepository, Depends(get_read_repository)]) -> int:
        return await jobs.count()

    @app.post("/jobs")
    async def write(jobs: Annotated[JobRepository, Depends(get_read_repository)]) -> None:
        await jobs.create_job("document_upload")

    await init_db(settings, settings)
    try:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            assert (await client.get("/jobs")).json() == 0
            with pytest.raises(ReadOnlyError):
                await client.post("/jobs")
            assert (await client.get("/jobs")).json() == 0
    finally:
        await close_db()


async def test_a_replica_that_does_not_answer_is_said_once_and_then_left_alone(database_url: str) -> None:
    asked = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        away = make_url(database_url).set(port=server.sockets[0].getsockname()[1]).render_as_string(hide_password=False)
        async with DatabaseManager(database_url, replica_url=away, replica_retry_seconds=3_600) as database:
            with capture_logs() as logs:
                for _ in range(3):
                    before = asked
                    async with database.get_read_session() as session:
                        assert await JobRepository(session).count() == 0

    assert 0 < before == asked
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("replica.lost", "warning")]


async def test_migrations_refuse_to_go_through_pgbouncer(database_url: str) -> None:
    marked = through_pgbouncer(make_url(database_url)).render_as_string(hide_password=False)
    async with DatabaseManager(marked) as database:
        with pytest.raises(InvalidValueError, match="DATABASE_DIRECT_URL: migrations cannot"):
            await upgrade(database.engine)


async def _serving(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def test_a_connection_that_was_lost_while_it_lay_idle_is_replaced_unnoticed(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1, max_overflow=0, name="idle", ping_after_seconds=0)
    other = make_engine(database_url, pool_size=1, max_overflow=0, name="other")
    try:
        lost = await _serving(engine)
        async with other.connect() as connection:
            ended = text("SELECT pg_terminate_backend(:pid, 5000)")
            assert (await connection.execute(ended, {"pid": lost})).scalar_one()

        assert await _serving(engine) != lost
    finally:
        await engine.dispose()
        await other.dispose()


async def test_a_connection_that_was_used_a_moment_ago_is_lent_without_a_question(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(database_url, pool_size=1, max_overflow=0, name="busy", ping_after_seconds=3600)
    asked: list[object] = []
    monkeypatch.setattr(engine.sync_engine.dialect, "do_ping", asked.append)
    try:
        assert await _serving(engine) == await _serving(engine)
        assert not asked
    finally:
        await engine.dispose()
