"""Idempotency keys: writing a job twice is one job, and another job under the same key is refused."""

import asyncio
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name

from repositories.database import DatabaseManager
from repositories.errors import ConflictError
from repositories.jobs import JobRepository
from repositories.schemas import Finish, NewJob
from repositories.states import JobStatus
from tests.factories import LEASE, held, new_job, queued_jobs, running_jobs
from worker.client import JobClient
from worker.files import FileSource


async def test_the_same_key_and_payload_is_the_same_job(jobs: JobRepository) -> None:
    (first,) = await queued_jobs(jobs, idempotency_key="order-17", payload={"version": 1, "n": [1, 2.5, None]})

    (again,) = await queued_jobs(jobs, idempotency_key="order-17", payload={"version": 1, "n": [1, 2.5, None]})
    once_more = await jobs.create_job(
        "document_upload", payload={"n": [1, 2.5, None], "version": 1}, idempotency_key="order-17"
    )

    assert first.id == again.id == once_more.id
    assert await jobs.count() == 1


async def test_a_key_stays_taken_when_its_job_moved_on(jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs, idempotency_key="order-17")
    await jobs.finish([Finish(held(job)[0], JobStatus.COMPLETED)])

    (again,) = await queued_jobs(jobs, idempotency_key="order-17")

    assert (again.id, again.status) == (job.id, JobStatus.COMPLETED)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"payload": {"version": 2}}, "payload"),
        ({"type": "question_processing"}, "type"),
        ({"workspace_id": "elsewhere"}, "workspace_id"),
        ({"payload": None}, "payload"),
    ],
)
async def test_another_job_under_the_same_key_is_refused_and_nothing_is_written(
    jobs: JobRepository, other: dict[str, object], word: str
) -> None:
    (job,) = await queued_jobs(jobs, idempotency_key="order-17")
    clash = new_job(**({"idempotency_key": "order-17"} | other))

    with pytest.raises(ConflictError, match="order-17") as caught:
        await jobs.create_many([new_job(), new_job(idempotency_key="order-18"), clash])

    assert (caught.value.constraint, caught.value.value) == ("uq_jobs_idempotency_key", "order-17")
    assert word in str(caught.value)
    assert str(job.id) in str(caught.value)
    assert await jobs.count() == 1  # the caller's transaction goes on, without any of the three


async def test_a_key_twice_in_one_call_is_one_job(jobs: JobRepository) -> None:
    first, second, other = await jobs.create_many(
        [new_job(idempotency_key="a"), new_job(idempotency_key="a"), new_job(idempotency_key="b")]
    )

    assert first.id == second.id != other.id
    with pytest.raises(ConflictError, match="another payload"):
        await jobs.create_many([new_job(idempotency_key="c"), new_job(idempotency_key="c", payload={"version": 3})])


async def test_a_child_of_a_job_that_was_written_before_waits_for_that_one(jobs: JobRepository) -> None:
    (before,) = await running_jobs(jobs, idempotency_key="parent")
    again = new_job(idempotency_key="parent")

    parent, child = await jobs.create_many([again, new_job(depends_on=[again.id])])

    assert (parent.id, child.depends_on, child.status) == (before.id, [before.id], JobStatus.PENDING)
    assert (await jobs.finish([Finish(held(before)[0], JobStatus.COMPLETED)])).released == [child.id]


async def test_of_many_creators_at_once_all_get_the_one_job(database: DatabaseManager) -> None:
    async def create(_: int) -> UUID:
        async with database.get_transaction() as session:
            job = await JobRepository(session).create_job(
                "document_upload", payload={"version": 1}, idempotency_key="order-17"
            )
            return job.id

    ids = await asyncio.gather(*map(create, range(16)))

    async with database.get_session() as session:
        assert await JobRepository(session).count() == 1
    assert len(set(ids)) == 1


async def test_of_two_creators_the_second_waits_for_the_first_to_commit(database: DatabaseManager) -> None:
    """The race itself: the second has read nothing yet, the first has not committed."""
    async with database.get_session() as session:
        (first,) = await queued_jobs(JobRepository(session), idempotency_key="order-17")

        async def second() -> tuple[UUID, JobStatus]:
            async with database.get_transaction() as own:
                (job,) = await queued_jobs(JobRepository(own), idempotency_key="order-17")
                return job.id, job.status

        waiting = asyncio.create_task(second())
        await _until_one_waits(database)
        await session.commit()

    assert await waiting == (first.id, JobStatus.QUEUED)


async def test_a_creator_that_rolls_back_leaves_the_key_to_the_one_that_waited(database: DatabaseManager) -> None:
    async with database.get_session() as session:
        await queued_jobs(JobRepository(session), idempotency_key="order-17")

        async def second() -> object:
            async with database.get_transaction() as own:
                (job,) = await queued_jobs(JobRepository(own), idempotency_key="order-17", payload={"version": 2})
                return job.payload

        waiting = asyncio.create_task(second())
        await _until_one_waits(database)
        await session.rollback()

    assert await waiting == {"version": 2}


@pytest.mark.slow
async def test_batches_with_the_same_keys_in_another_order_never_deadlock(database: DatabaseManager) -> None:
    all_at_once = asyncio.Barrier(6)

    def batch(number: int) -> list[NewJob]:
        keys = [f"key-{place}" for place in range(2_000)]
        return [new_job(idempotency_key=key) for key in (keys if number % 2 else reversed(keys))]

    async def create(number: int) -> dict[str | None, UUID]:
        new = batch(number)
        async with database.get_transaction() as session:
            await all_at_once.wait()
            written = await JobRepository(session).create_many(new)
            return {job.idempotency_key: job.id for job in written}

    first, *others = await asyncio.gather(*map(create, range(6)))

    assert len(first) == 2_000
    assert all(other == first for other in others)


async def test_a_repeated_request_returns_the_job_and_does_not_queue_it_again(
    client: JobClient, database: DatabaseManager, redis: ArqRedis
) -> None:
    files = [FileSource("a.txt", b"some text")]
    first = await client.upload_documents("handbook", files, idempotency_key="upload-1")
    async with database.get_transaction() as session:
        await JobRepository(session).claim([first.id], "worker-1", LEASE)
    await redis.zrem(default_queue_name, str(first.id))  # as a worker does that took it

    again = await client.upload_documents("handbook", files, idempotency_key="upload-1")

    assert (again.id, again.status) == (first.id, JobStatus.PROCESSING)
    assert await redis.zrange(default_queue_name, 0, -1) == []


async def _until_one_waits(database: DatabaseManager) -> None:
    """Return when some transaction of this database waits for another one to end."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    async with asyncio.timeout(10), database.engine.connect() as connection:
        while not (await connection.exec_driver_sql(query)).scalar_one():
            await connection.rollback()
