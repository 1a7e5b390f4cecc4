"""What a lost lease counts: nothing for a job that ran beside others, a crash for one that ran alone."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.errors import DatabaseUnavailableError
from repositories.jobs import ClaimedJob, DirectJobs, JobRepository
from repositories.models import SUSPECT_FROM, Job
from repositories.schemas import Finish, JobError, NewJob
from repositories.states import JobStatus
from tests.workshop import Workshop, working
from tests.workshop import jobs as jobs_of
from worker.client import JobClient
from worker.isolation import run_alone
from worker.run import Runtime

LEASE = timedelta(seconds=30)
TYPES, QUEUES = ("x",), ("default",)


async def _job(jobs: JobRepository, **fields: Any) -> UUID:
    (job,) = await jobs.create_many([NewJob(type="x", payload={}, **fields)])
    return job.id


async def _lose(jobs: JobRepository, job_id: UUID) -> Job:
    """Have the job's lease run out, and be rescued."""
    await jobs.session.execute(
        text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 second' WHERE id = :id"),
        {"id": job_id},
    )
    await jobs.rescue()
    jobs.session.expire_all()
    return await jobs.get_by_id_or_raise(job_id)


async def _lose_beside_others(jobs: JobRepository, job_id: UUID) -> Job:
    await jobs.claim([job_id], "worker", LEASE)
    return await _lose(jobs, job_id)


async def _suspect(jobs: JobRepository, **fields: Any) -> UUID:
    job_id = await _job(jobs, **fields)
    for _ in range(SUSPECT_FROM):
        await _lose_beside_others(jobs, job_id)
    return job_id


async def test_a_lease_lost_beside_others_is_no_crash(jobs: JobRepository) -> None:
    job_id = await _job(jobs)

    job = await _lose_beside_others(jobs, job_id)

    assert (job.status, job.crashes, job.suspicion, job.is_parked) == (JobStatus.QUEUED, 0, 1, False)
    assert [one.id for one in await jobs.claim([job_id], "worker", LEASE)] == [job_id]


async def test_a_suspect_waits_to_be_run_alone(jobs: JobRepository) -> None:
    job_id = await _suspect(jobs)

    job = await jobs.get_by_id_or_raise(job_id)
    assert (job.crashes, job.is_suspect, job.is_parked) == (0, True, True)
    assert await jobs.claim([job_id], "worker", LEASE) == []
    assert await jobs.release_parked() == []
    assert await jobs.waiting_among([job_id]) == []
    assert await jobs.has_suspects(TYPES, QUEUES)
    assert not await jobs.has_suspects(("y",), QUEUES)
    assert not await jobs.has_suspects(TYPES, ("other",))


async def test_only_leases_lost_alone_are_counted_and_end_the_job(jobs: JobRepository) -> None:
    job_id = await _suspect(jobs)

    for crash in range(1, 6):
        claimed = await jobs.claim_alone("alone", LEASE, TYPES, QUEUES)
        assert claimed is not None
        job = await _lose(jobs, job_id)
        assert job.crashes == crash

    assert (job.status, job.errors[-1]["code"]) == (JobStatus.FAILED, "worker_lost")
    assert "where it ran alone" in job.errors[-1]["message"]
    assert job.attempt == SUSPECT_FROM + 5


@pytest.mark.parametrize("error", [None, JobError(code="odd", message="it went wrong")])
async def test_any_other_end_clears_a_suspect(jobs: JobRepository, error: JobError | None) -> None:
    job_id = await _suspect(jobs)
    claimed = await jobs.claim_alone("alone", LEASE, TYPES, QUEUES)
    assert claimed is not None

    await jobs.put_back([claimed.held], error=error)
    jobs.session.expire_all()

    job = await jobs.get_by_id_or_raise(job_id)
    assert (job.is_suspect, job.isolated, job.is_parked) == (False, False, False)


async def test_a_person_who_asks_again_clears_a_suspect(jobs: JobRepository) -> None:
    job_id = await _suspect(jobs)
    await jobs.cancel([job_id])

    await jobs.retry([job_id])

    assert [one.id for one in await jobs.claim([job_id], "worker", LEASE)] == [job_id]


async def test_suspects_start_in_the_order_of_their_queue_and_within_its_limits(
    client: JobClient, database: DatabaseManager
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        last, first = await _suspect(jobs, priority=9), await _suspect(jobs, priority=0)
    await client.limit_queue("default", max_running=1)

    async def claim() -> UUID | None:
        async with database.get_transaction() as session:
            claimed = await JobRepository(session).claim_alone("alone", LEASE, TYPES, QUEUES)
            return claimed.id if claimed else None

    assert await claim() == first
    assert await claim() is None
    await client.limit_queue("default", max_running=None)
    assert await claim() == last
    assert await claim() is None


async def test_a_full_queue_keeps_back_only_its_own_suspects(client: JobClient, database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        waits = await _suspect(jobs, queue="full", priority=0)
        await jobs.claim([await _job(jobs, queue="full")], "another", LEASE)
        free = await _suspect(jobs, queue="free", priority=9)
    await client.limit_queue("full", max_running=1)

    async with database.get_transaction() as session:
        claimed = await JobRepository(session).claim_alone("alone", LEASE, TYPES, ("full", "free"))

    assert claimed is not None
    assert claimed.id == free
    assert (await client.status(waits)).status is JobStatus.QUEUED


async def test_suspects_are_run_one_after_another(client: JobClient, shop: Runtime, workshop: Workshop) -> None:
    ids = await client.enqueue_many(jobs_of("held", 3))
    async with shop.database.get_transaction() as session:
        for job_id in ids:
            for _ in range(SUSPECT_FROM):
                await _lose_beside_others(JobRepository(session), job_id)
    workshop.gate.set()

    assert await run_alone(shop) == 3

    assert (workshop.most, sorted(workshop.ran)) == (1, sorted(ids))
    assert {job.status for job in await client.wait(ids, 5)} == {JobStatus.COMPLETED}


async def test_a_suspect_is_put_back_when_its_process_has_to_stop(
    client: JobClient, shop: Runtime, workshop: Workshop
) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("held"))
    async with shop.database.get_transaction() as session:
        for _ in range(SUSPECT_FROM):
            await _lose_beside_others(JobRepository(session), job_id)

    running = asyncio.create_task(run_alone(shop))
    await asyncio.wait_for(workshop.entered.wait(), 10)
    running.cancel()
    await asyncio.wait({running})

    job = await client.status(job_id)
    assert (job.status, job.crashes, job.failures) == (JobStatus.QUEUED, 0, 0)


async def test_a_claim_whose_answer_was_lost_is_no_lost_lease(
    client: JobClient, shop: Runtime, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, lost = DirectJobs.claim, 0

    async def claimed_in_silence(
        self: DirectJobs, ids: Collection[UUID], worker_id: str, lease: timedelta, types: Collection[str]
    ) -> list[ClaimedJob]:
        nonlocal lost
        claimed = await claim(self, ids, worker_id, lease, types)
        if claimed and lost < 5:
            lost += 1
            raise DatabaseUnavailableError("ConnectionDoesNotExistError", "08003")  # after the commit
        return claimed

    monkeypatch.setattr(DirectJobs, "claim", claimed_in_silence)
    ids = await client.enqueue_many(jobs_of("noop", 50))

    async with working(shop):
        ended = await client.wait(ids, timeout_seconds=20)

    assert lost > 0
    assert {(job.status, job.attempt, job.crashes, job.suspicion) for job in ended} == {(JobStatus.COMPLETED, 1, 0, 0)}
    assert sorted(workshop.ran) == sorted(ids)


async def test_a_job_that_a_person_asks_for_again_runs_beside_others_again(jobs: JobRepository) -> None:
    job_id = await _suspect(jobs, max_attempts=1)
    claimed = await jobs.claim_alone("alone", LEASE, TYPES, QUEUES)
    assert claimed is not None
    await jobs.finish([Finish(claimed.held, JobStatus.FAILED, None, JobError(code="odd", message="it went wrong"))])
    await jobs.retry([job_id])

    job = await _lose_beside_others(jobs, job_id)

    assert (job.status, job.crashes, job.suspicion) == (JobStatus.QUEUED, 0, 1)


async def test_a_lone_claim_whose_answer_was_lost_is_found_again(
    client: JobClient, shop: Runtime, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await client.enqueue_many(jobs_of("noop", 2))
    async with shop.database.get_transaction() as session:
        for job_id in ids:
            for _ in range(SUSPECT_FROM):
                await _lose_beside_others(JobRepository(session), job_id)
    transaction, lost = shop.database.get_transaction, 0

    @asynccontextmanager
    async def answer_lost() -> AsyncIterator[AsyncSession]:
        nonlocal lost
        async with transaction() as session:
            yield session
        if lost == 0:
            lost += 1
            raise DatabaseUnavailableError("ConnectionDoesNotExistError", "08003")  # after the commit

    monkeypatch.setattr(shop.database, "get_transaction", answer_lost)

    assert await run_alone(shop) == 2

    assert sorted(workshop.ran) == sorted(ids)
    assert {(job.status, job.crashes) for job in await client.wait(ids, 5)} == {(JobStatus.COMPLETED, 0)}
