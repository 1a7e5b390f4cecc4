"""Parts of transactions that fail alone, transactions that are run again, and errors without secrets."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.base import BaseRepository
from repositories.database import DatabaseManager, close_db, get_db_transaction, init_db
from repositories.errors import ConflictError, InvalidValueError, TransactionAbortedError, TransactionFailedError
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import JobUpdate, NewJob
from repositories.settings import CacheSettings, DatabaseSettings
from repositories.transactions import run_in_transaction, savepoint
from tests.factories import new_job, queued_jobs


class Adding(BaseRepository[Job, NewJob, JobUpdate]):
    """A repository that adds jobs one by one, without the state machine."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Job, session)


async def count_jobs(database: DatabaseManager) -> int:
    async with database.get_session() as session:
        return await JobRepository(session).count()


async def test_a_savepoint_that_fails_leaves_the_rest_of_the_transaction(database: DatabaseManager) -> None:
    async def part(session: AsyncSession) -> None:
        async with savepoint(session):
            await jobs.create(new_job(idempotency_key="inner"))
            await jobs.create(new_job(idempotency_key="taken", payload={"version": 1, "other": True}))

    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        await jobs.create(new_job(idempotency_key="taken"))
        with pytest.raises(ConflictError):
            await part(session)
        await jobs.create(new_job(idempotency_key="after"))

    async with database.get_session() as session:
        rows, total = await JobRepository(session).list(order_by="idempotency_key")
    assert [row.idempotency_key for row in rows] == ["after", "taken"]
    assert total == 2


async def test_a_savepoint_that_succeeds_is_undone_with_its_transaction(database: DatabaseManager) -> None:
    async def change_my_mind() -> None:
        async with database.get_transaction() as session:
            async with savepoint(session):
                await queued_jobs(JobRepository(session), 2)
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_my_mind()

    assert await count_jobs(database) == 0


async def test_repositories_on_one_session_share_its_transaction(database: DatabaseManager) -> None:
    async with database.get_session() as session:
        (job,) = await queued_jobs(JobRepository(session))
        assert await JobRepository(session).exists(job.id)
        assert await count_jobs(database) == 0, "nothing commits by itself"
        await session.rollback()
    assert await count_jobs(database) == 0


async def test_after_a_failed_statement_the_next_says_to_roll_back(database: DatabaseManager) -> None:
    async with database.get_session() as session:
        jobs = JobRepository(session)
        (job,) = await queued_jobs(jobs)
        await session.commit()
        session.expunge_all()
        for failing in (
            session.execute(text("SELECT 1 / 0")),
            Adding(session).create({"id": job.id, "type": "x", "status": "pending"}),
        ):
            with pytest.raises((DBAPIError, ConflictError)):
                await failing
            with pytest.raises(TransactionFailedError, match="savepoint"):
                await jobs.get_by_id(job.id)
            await session.rollback()
        assert await jobs.exists(job.id)


async def test_a_transaction_that_is_cancelled_is_rolled_back(database: DatabaseManager, database_url: str) -> None:
    await init_db(DatabaseSettings(database_url=SecretStr(database_url)), CacheSettings(redis_enabled=False))
    written = asyncio.Event()

    async def request() -> None:
        async with asynccontextmanager(get_db_transaction)() as session:  # as a web framework enters it
            await queued_jobs(JobRepository(session), 3)
            written.set()
            await asyncio.Event().wait()

    try:
        task = asyncio.create_task(request())
        await asyncio.wait_for(written.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await count_jobs(database) == 0
        async with asynccontextmanager(get_db_transaction)() as session:  # the connection is usable again
            await queued_jobs(JobRepository(session), 1)
        assert await count_jobs(database) == 1
    finally:
        await close_db()


async def touch(session: AsyncSession, job: Job) -> None:
    await session.execute(update(Job).where(Job.id == job.id).values(priority=Job.priority + 1))


async def test_a_real_deadlock_is_run_again_until_both_have_written(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        first, second = await queued_jobs(JobRepository(session), 2, priority=0)
    both_hold_one = asyncio.Barrier(2)
    runs: list[str] = []

    async def crossing(name: str, one: Job, other: Job) -> str:
        async def work(session: AsyncSession) -> str:
            runs.append(name)
            await touch(session, one)
            if runs.count(name) == 1:
                await both_hold_one.wait()
            await touch(session, other)
            return name

        return await run_in_transaction(database, work)

    answers = await asyncio.gather(crossing("a", first, second), crossing("b", second, first))

    assert list(answers) == ["a", "b"]
    assert sorted(runs) in (["a", "a", "b"], ["a", "b", "b"]), "one of them was given up and repeated"
    async with database.get_session() as session:
        after = await JobRepository(session).get_many([first.id, second.id])
    assert [job.priority for job in after] == [2, 2], "what the lost try wrote was undone"


async def test_a_serialization_failure_is_run_again(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session), priority=0)
    tries = 0

    async def work(session: AsyncSession) -> int:
        nonlocal tries
        tries += 1
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        seen = (await JobRepository(session).get_by_id_or_raise(job.id)).priority
        if tries == 1:  # somebody else writes between our reading and our writing
            async with database.get_transaction() as other:
                await touch(other, job)
        await touch(session, job)
        return seen

    assert await run_in_transaction(database, work) == 1
    assert tries == 2


async def test_after_the_last_try_the_error_says_what_happened(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session), priority=0)
    tries = 0

    async def always_late(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await JobRepository(session).get_by_id_or_raise(job.id)
        async with database.get_transaction() as other:
            await touch(other, job)
        await touch(session, job)

    with pytest.raises(TransactionAbortedError) as caught:
        await run_in_transaction(database, always_late, tries=3, first_wait_seconds=0.001)

    assert (tries, caught.value.sqlstate) == (3, "40001")
    assert "UPDATE" not in str(caught.value)


async def test_no_other_error_is_run_again(database: DatabaseManager) -> None:
    tries = 0

    async def work(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await JobRepository(session).create(new_job(idempotency_key="taken"))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await run_in_transaction(database, work)
    assert tries == 1
    assert await count_jobs(database) == 0


async def test_work_that_is_cancelled_is_neither_kept_nor_run_again(database: DatabaseManager) -> None:
    written = asyncio.Event()
    tries = 0

    async def work(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await queued_jobs(JobRepository(session))
        written.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_in_transaction(database, work))
    await asyncio.wait_for(written.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tries == 1
    assert await count_jobs(database) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"tries": 0},
        {"tries": 21},
        {"first_wait_seconds": 0.0},
        {"first_wait_seconds": 3.0},
        {"longest_wait_seconds": 61.0},
    ],
)
async def test_tries_and_waits_out_of_range_are_refused_before_anything_runs(
    database: DatabaseManager, wrong: dict[str, float]
) -> None:
    async def work(_session: AsyncSession) -> None:
        pytest.fail("it ran")

    with pytest.raises(InvalidValueError):
        await run_in_transaction(database, work, **wrong)  # type: ignore[arg-type]  # one is an int
