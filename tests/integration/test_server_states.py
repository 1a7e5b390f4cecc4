"""What PostgreSQL refuses for a reason of its own state is written later: no end of a job becomes a failure."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.errors import DatabaseRefusedError
from repositories.models import JobItem
from repositories.schemas import ItemOutcome
from repositories.states import ItemStatus, JobStatus
from tests.waiting import until
from tests.workshop import Workshop, doing, jobs, working
from worker.client import JobClient
from worker.run import Runtime

OF_ITS_OWN_STATE = ["25006", "55P03", "57014", "40001", "40P01", "53100", "53300", "58030", "57P01", "42501", "P0001"]

# A sequence is not rolled back: the third try is told from the first two.
REFUSE_TWICE = """
    CREATE SEQUENCE refusals;
    CREATE FUNCTION refuse_twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('refusals') <= 2 THEN RAISE 'not now' USING ERRCODE = '{code}'; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER refuse_twice BEFORE UPDATE ON {table}
        FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse_twice();
"""


async def _refuse_twice(database: DatabaseManager, code: str, table: str, condition: str) -> None:
    async with database.get_transaction() as session:
        connection = await (await session.connection()).get_raw_connection()
        assert isinstance(connection.driver_connection, asyncpg.Connection)
        await connection.driver_connection.execute(REFUSE_TWICE.format(code=code, table=table, condition=condition))


@pytest.mark.own_database
@pytest.mark.parametrize("code", OF_ITS_OWN_STATE)
async def test_an_end_that_is_refused_for_a_while_is_recorded_as_it_was(
    client: JobClient, shop: Runtime, workshop: Workshop, database: DatabaseManager, code: str
) -> None:
    await _refuse_twice(database, code, "jobs", "new.status IN ('completed', 'failed')")
    ids = await client.enqueue_many([*jobs("noop", 3), *jobs("hopeless")])

    async with working(shop):
        ended = await client.wait(ids, timeout_seconds=20)

    assert [job.status for job in ended] == [JobStatus.COMPLETED] * 3 + [JobStatus.FAILED]
    assert [job.attempt for job in ended] == [1] * 4
    assert [error["code"] for error in ended[3].errors] == ["hopeless"]
    assert Counter(workshop.ran) == Counter(ids[:3])


@pytest.mark.own_database
@pytest.mark.parametrize("code", OF_ITS_OWN_STATE)
async def test_an_item_that_is_refused_for_a_while_is_done_once(
    client: JobClient, shop: Runtime, database: DatabaseManager, code: str
) -> None:
    await _refuse_twice(database, code, "job_items", "new.status = 'done'")
    asked: list[int] = []

    async def handle(item: JobItem) -> ItemOutcome:
        asked.append(item.position)
        return ItemOutcome(position=item.position, status=ItemStatus.DONE)

    (job_id,) = await client.enqueue_many(jobs("items"))
    shop.tasks = {"items": doing(9, handle)}
    async with working(shop):
        (ended,) = await client.wait([job_id], timeout_seconds=20)

    assert (ended.status, ended.attempt, ended.items_done) == (JobStatus.COMPLETED, 1, 9)
    assert sorted(asked) == list(range(9))


async def test_nothing_is_begun_while_outcomes_cannot_be_recorded(
    client: JobClient, shop: Runtime, database: DatabaseManager
) -> None:
    begun: list[int] = []

    async def handle(item: JobItem) -> ItemOutcome:
        begun.append(item.position)
        await asyncio.sleep(0.001)
        return ItemOutcome(position=item.position, status=ItemStatus.DONE)

    shop.tasks = {"items": doing(500, handle)}
    (job_id,) = await client.enqueue_many(jobs("items"))
    async with working(shop):
        await until(lambda: _true(len(begun) > 0))
        async with read_only(database):
            await until(lambda: _settled(begun))
            assert len(begun) < 500
        (ended,) = await client.wait([job_id], timeout_seconds=20)

    assert (ended.status, ended.attempt, ended.items_done) == (JobStatus.COMPLETED, 1, 500)
    assert Counter(begun).most_common(1)[0][1] == 1


async def _true(value: bool) -> bool:
    return value


async def _settled(begun: list[int]) -> bool:
    before = len(begun)
    await asyncio.sleep(0.2)
    return len(begun) == before


@asynccontextmanager
async def read_only(database: DatabaseManager) -> AsyncIterator[None]:
    """Every session of the server only reads while the block runs, as during a failover."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    control = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
    try:
        await control.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await control.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await control.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await control.execute("SELECT pg_reload_conf()")
        await control.close()


@pytest.mark.slow
async def test_flips_to_read_only_fail_no_job_and_repeat_no_work(
    client: JobClient, shop: Runtime, workshop: Workshop, database: DatabaseManager
) -> None:
    seed = random.randrange(10_000)  # noqa: S311 - said when it fails
    chance, flips = random.Random(seed), 0  # noqa: S311
    ids = await client.enqueue_many(jobs("short", 2_000))

    async def flip() -> None:
        nonlocal flips
        while True:
            async with read_only(database):
                flips += 1
                await asyncio.sleep(chance.uniform(0.005, 0.080))
            await asyncio.sleep(chance.uniform(0.02, 0.15))

    shop.settings.worker_concurrency = 50
    async with working(shop):
        flipping = asyncio.create_task(flip())
        ended = await client.wait(ids, timeout_seconds=50)
        flipping.cancel()
        await asyncio.wait({flipping})

    effects = Counter(workshop.ran)
    failed = sum(job.status is not JobStatus.COMPLETED for job in ended)
    twice = sum(count > 1 for count in effects.values())
    said = f"seed {seed}, {flips} flips: {failed} of {len(ids)} failed, {twice} done twice"
    assert (failed, twice, len(effects)) == (0, 0, len(ids)), said
    assert flips >= 5


async def test_a_right_that_is_missing_is_said_without_the_statement(database: DatabaseManager) -> None:
    async def delete() -> None:
        async with database.get_transaction() as session:
            await session.execute(text("SET ROLE pg_monitor"))
            await session.execute(text("DELETE FROM jobs"))

    with pytest.raises(DatabaseRefusedError, match="42501") as caught:
        await delete()

    assert "DELETE" not in str(caught.value)


@pytest.mark.own_database
async def test_a_lock_timeout_of_the_role_breaks_no_worker(
    client: JobClient, shop: Runtime, workshop: Workshop, database: DatabaseManager
) -> None:
    async with database.get_transaction() as session:
        name = await session.scalar(text("SELECT quote_ident(current_database())"))
        await session.execute(text(f"ALTER DATABASE {name} SET lock_timeout = '20ms'"))
    await database.engine.dispose()  # new sessions have it
    ids = await client.enqueue_many(jobs("held", 5))
    async with working(shop):
        await until(lambda: _true(workshop.running == 5))
        async with database.get_transaction() as holding:
            await holding.execute(text("SELECT id FROM jobs FOR UPDATE"))
            workshop.gate.set()
            await until(lambda: _true(len(workshop.ran) == 5))
            await asyncio.sleep(0.3)  # ends meet the lock; whether they do is not seen from outside
        ended = await client.wait(ids, timeout_seconds=20)

    assert {(job.status, job.attempt) for job in ended} == {(JobStatus.COMPLETED, 1)}


@pytest.mark.own_database
@pytest.mark.parametrize("code", ["22P05", "22003", "22021", "22032", "54000", "23514"])
async def test_a_value_that_can_never_be_stored_fails_its_own_job_alone(
    client: JobClient, shop: Runtime, database: DatabaseManager, code: str
) -> None:
    refuse = REFUSE_TWICE.replace("IF nextval('refusals') <= 2 THEN", "IF nextval('refusals') > 0 THEN")
    async with database.get_transaction() as session:
        connection = await (await session.connection()).get_raw_connection()
        assert isinstance(connection.driver_connection, asyncpg.Connection)
        condition = "new.result ? 'unrecordable'"
        await connection.driver_connection.execute(refuse.format(code=code, table="jobs", condition=condition))
    ids = await client.enqueue_many([*jobs("noop", 5), *jobs("unrecordable"), *jobs("noop", 5)])

    async with working(shop):
        ended = await client.wait(ids, timeout_seconds=20)

    bad = ended.pop(5)
    assert (bad.status, bad.errors[-1]["code"]) == (JobStatus.FAILED, "result_not_recordable")
    assert {(job.status, job.attempt) for job in ended} == {(JobStatus.COMPLETED, 1)}
