"""Locks: one holder at a time over all processes, and a lease that ends with its holder."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import structlog
from sqlalchemy import make_url, text

from repositories.database import DatabaseManager
from repositories.errors import DatabaseUnavailableError, InvalidValueError
from repositories.locks import LockLostError, Locks
from tests.chaos.harness.proxy import Proxy
from tests.waiting import until


@pytest.fixture
def locks(database: DatabaseManager) -> Locks:
    return Locks(database)


@pytest.fixture
async def others(database_url: str) -> AsyncIterator[Locks]:
    """The same locks, as another process has them."""
    async with DatabaseManager(database_url) as manager:
        yield Locks(manager)


async def _rows(database: DatabaseManager) -> int:
    async with database.get_session() as session:
        return int(await session.scalar(text("SELECT count(*) FROM locks")) or 0)


async def _write(database: DatabaseManager, statement: str) -> None:
    async with database.get_transaction() as session:
        await session.execute(text(statement))


async def test_of_many_at_once_one_works_at_a_time_and_all_have_their_turn(
    locks: Locks, others: Locks, database: DatabaseManager
) -> None:
    inside, most, turns = 0, 0, 0

    async def work(mine: Locks) -> None:
        nonlocal inside, most, turns
        async with mine.hold("first embedding of shop"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            async with database.get_session() as session:  # a round trip in which another would get in
                await session.execute(text("SELECT pg_sleep(0.01)"))
            inside -= 1
            turns += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(work(mine) for mine in (locks, others) * 5))

    assert (most, turns) == (1, 10)
    assert await _rows(database) == 0


async def test_locks_of_different_names_do_not_wait_for_each_other(locks: Locks, others: Locks) -> None:
    async with asyncio.timeout(10), locks.hold("one"), others.hold("two"):
        pass


async def test_a_dead_holder_costs_no_more_than_its_lease(locks: Locks, database: DatabaseManager) -> None:
    await _write(
        database,
        "INSERT INTO locks VALUES ('shop', gen_random_uuid(), clock_timestamp() + interval '1.5 seconds')",
    )
    began = time.monotonic()

    async with asyncio.timeout(10), locks.hold("shop"):
        waited = time.monotonic() - began

    assert 1.0 < waited < 1.5 + 1.0


async def test_a_lock_that_is_held_for_longer_than_its_lease_is_renewed(
    locks: Locks, others: Locks, database: DatabaseManager
) -> None:
    async with locks.hold("shop", seconds=1):
        waiting = asyncio.create_task(_hold_once(others, "shop"))
        async with database.get_session() as session:
            await session.execute(text("SELECT pg_sleep(2.5)"))
        assert not waiting.done()
    await asyncio.wait_for(waiting, 10)


async def _hold_once(locks: Locks, name: str) -> None:
    async with locks.hold(name):
        pass


async def test_work_under_a_lock_that_somebody_else_has_now_is_stopped(locks: Locks, database: DatabaseManager) -> None:
    stopped = False

    async def work() -> None:
        nonlocal stopped
        async with locks.hold("shop", seconds=1):
            await _write(database, "UPDATE locks SET holder = gen_random_uuid(), expires_at = 'infinity'")
            try:
                await asyncio.Event().wait()
            finally:
                stopped = True

    with pytest.raises(LockLostError, match="'shop' was lost"):
        await asyncio.wait_for(work(), 20)
    assert stopped
    assert await _rows(database) == 1, "the row of the other holder stays"


async def test_a_task_that_lost_a_lock_can_go_on_afterwards(locks: Locks, database: DatabaseManager) -> None:
    """The cancellation is used up: the task is not cancelled a second time where it waits next."""

    async def work() -> None:
        async with locks.hold("shop", seconds=1):
            await _write(database, "DELETE FROM locks")
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        with pytest.raises(LockLostError):
            await work()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await _hold_once(locks, "shop")


async def test_a_lock_that_ran_out_unnoticed_is_kept_if_nobody_took_it(locks: Locks, database: DatabaseManager) -> None:
    async with asyncio.timeout(20), locks.hold("shop", seconds=1):
        await _write(database, "UPDATE locks SET expires_at = clock_timestamp() - interval '1 hour'")

        async def renewed() -> bool:
            async with database.get_session() as session:
                return bool(await session.scalar(text("SELECT expires_at > clock_timestamp() FROM locks")))

        await until(renewed)


async def test_a_timeout_and_an_error_of_the_block_are_the_blocks_own(locks: Locks, database: DatabaseManager) -> None:
    with pytest.raises(TimeoutError):
        async with locks.hold("shop"):
            raise TimeoutError
    with pytest.raises(ZeroDivisionError):
        async with locks.hold("shop"):
            _ = 1 // 0
    assert await _rows(database) == 0


async def test_a_cancelled_holder_gives_the_lock_back_and_one_that_waits_leaves_it_alone(
    locks: Locks, others: Locks, database: DatabaseManager
) -> None:
    taken = asyncio.Event()

    async def work() -> None:
        async with locks.hold("shop"):
            taken.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(work())
    await asyncio.wait_for(taken.wait(), 10)
    waiting = asyncio.create_task(_hold_once(others, "shop"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.5)
    assert await _rows(database) == 1
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert await _rows(database) == 0


async def test_a_lock_costs_two_statements(locks: Locks, statements: list[str]) -> None:
    statements.clear()
    await _hold_once(locks, "shop")
    assert len(statements) == 2, statements


async def test_without_postgresql_a_lock_is_not_taken() -> None:
    async with DatabaseManager("postgresql+asyncpg://nobody@127.0.0.1:1/none") as nowhere:
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(_hold_once(Locks(nowhere), "shop"), 10)


@pytest.mark.parametrize("fault", ["refused", "silent"])
async def test_when_postgresql_goes_away_the_work_is_stopped_when_the_lease_runs_out(
    database_url: str, fault: str
) -> None:
    url, proxy = make_url(database_url), Proxy()
    assert url.port is not None
    proxy.open(url.port)
    stopped_after = 0.0

    def lose() -> None:
        if fault == "silent":
            proxy.hold()
        else:
            proxy.refuse()
            proxy.cut()

    async def work(locks: Locks) -> None:
        nonlocal stopped_after
        async with locks.hold("shop", seconds=2):
            lose()
            began = time.monotonic()
            try:
                await asyncio.Event().wait()
            finally:
                stopped_after = time.monotonic() - began

    async with DatabaseManager(url.set(port=proxy.port).render_as_string(hide_password=False)) as manager:
        with structlog.testing.capture_logs() as logged, pytest.raises(LockLostError):
            await asyncio.wait_for(work(Locks(manager)), 20)  # the server is away to the end
        await proxy.close()

    assert 1.0 < stopped_after < 2.0 + 0.5
    if fault == "refused":  # a server that says nothing may be waited for until the end
        assert {line["event"] for line in logged} == {"lock.not_renewed"}
        assert all(line["lock"] == "shop" and line["reason"] for line in logged)


@pytest.mark.parametrize(("name", "seconds"), [("", 30), ("x" * 256, 30), ("shop", 0.5), ("shop", 3_601)])
async def test_what_is_out_of_range_is_refused(locks: Locks, name: str, seconds: float) -> None:
    with pytest.raises(InvalidValueError):
        async with locks.hold(name, seconds):
            pass
