"""What a test leaves in its database, no other test finds."""

import asyncio
from collections.abc import Callable, Coroutine

import asyncpg
import pytest
from sqlalchemy import make_url, text

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.models import Base
from repositories.workspaces import WorkspaceRepository
from tests.databases import MAX_GROWTH_BYTES, Databases
from tests.factories import running_jobs


async def leave_rows(url: str) -> None:
    async with DatabaseManager(url) as database, database.get_transaction() as session:
        await running_jobs(JobRepository(session), 3)
        await WorkspaceRepository(session, "local").register("Handbook", "handbook")


async def connect(url: str) -> asyncpg.Connection:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(plain)


def carrying_out(statement: str) -> Callable[[str], Coroutine[None, None, None]]:
    async def leave(url: str) -> None:
        connection = await connect(url)
        try:
            await connection.execute(statement.format(database=make_url(url).database))
        finally:
            await connection.close()

    return leave


async def leave_nothing(_: str) -> None:
    pass


def test_a_database_is_lent_again_without_a_row_and_numbers_from_one(databases: Databases) -> None:
    async def first_number_in_an_empty_database(url: str) -> int:
        async with DatabaseManager(url) as database, database.get_transaction() as session:
            rows = [await session.scalar(text(f"SELECT count(*) FROM {name}")) for name in Base.metadata.tables]  # noqa: S608 - names of the models
            assert len(rows) > 5
            assert set(rows) == {0}
            return (await WorkspaceRepository(session, "local").register("Another", "another")).id

    first = databases.lend()
    asyncio.run(leave_rows(databases.url(first.name)))
    databases.take_back(first)
    second = databases.lend()
    try:
        assert second == first
        assert asyncio.run(first_number_in_an_empty_database(databases.url(second.name))) == 1
    finally:
        databases.take_back(second)


@pytest.mark.parametrize(
    ("leave", "kept"),
    [
        pytest.param(leave_nothing, True, id="nothing"),
        pytest.param(leave_rows, True, id="rows"),
        *(
            pytest.param(carrying_out(statement), False, id=statement)
            for statement in (
                "CREATE TABLE left_over (id int)",
                "CREATE FUNCTION left_over() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "ALTER TABLE jobs ADD COLUMN left_over int",
                "ALTER TABLE jobs DISABLE TRIGGER ALL",
                "ALTER TABLE passages ADD CONSTRAINT short CHECK (text < 'm')",
                "ALTER DATABASE {database} SET enable_sort = off",
                "DROP INDEX ix_jobs_created",
                "DROP TABLE passages",
                "UPDATE alembic_version SET version_num = '0001'",
                "INSERT INTO workspaces (engine, name, slug) VALUES ('e', 'n', 's'); ANALYZE workspaces",
                "VACUUM alembic_version",
            )
        ),
    ],
)
def test_a_database_is_kept_only_if_rows_are_all_that_changed(
    databases: Databases, leave: Callable[[str], Coroutine[None, None, None]], kept: bool
) -> None:
    lent = databases.lend()
    asyncio.run(leave(databases.url(lent.name)))
    databases.take_back(lent)

    following = databases.lend()
    databases.take_back(following)
    assert (following.name == lent.name) is kept


def test_a_database_that_grew_is_dropped(databases: Databases) -> None:
    words = MAX_GROWTH_BYTES // 32  # a digest has 32 characters
    digests = f"SELECT 'e', 'n', 's', jsonb_agg(md5(n::text)) FROM generate_series(1, {words}) AS n"  # noqa: S608 - a number
    fill = f"INSERT INTO workspaces (engine, name, slug, settings) {digests}"
    lent = databases.lend()
    asyncio.run(carrying_out(fill)(databases.url(lent.name)))
    databases.take_back(lent)

    following = databases.lend()
    databases.take_back(following)
    assert following.name != lent.name


def test_a_database_that_somebody_holds_is_dropped_and_the_connection_with_it(databases: Databases) -> None:
    lent = databases.lend()

    async def hold() -> None:
        connection = await connect(databases.url(lent.name))
        await connection.execute("SELECT pg_advisory_lock(1)")
        await asyncio.to_thread(databases.take_back, lent)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.execute("SELECT 1")
        connection.terminate()
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await connect(databases.url(lent.name))

    asyncio.run(hold())
    following = databases.lend()
    databases.take_back(following)
    assert following.name != lent.name
