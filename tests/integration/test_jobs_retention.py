"""Which jobs clean-up deletes, in what portions, and what it leaves alone."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.jobs.retention import Retention
from repositories.models import JobItem
from repositories.schemas import Finish, NewItem
from repositories.states import JobStatus
from tests.factories import held, job_in, queued_jobs, running_jobs

WEEK = timedelta(days=7)


async def _age(session: AsyncSession, job_id: UUID, days: int) -> None:
    older = "UPDATE jobs SET completed_at = completed_at - :days * interval '1 day' WHERE id = :id"
    await session.execute(text(older), {"id": job_id, "days": days})


async def _one_of_each(session: AsyncSession, jobs: JobRepository, days: int) -> dict[JobStatus, UUID]:
    ids = {status: (await job_in(jobs, status)).id for status in JobStatus}
    for job_id in ids.values():
        await _age(session, job_id, days)
    return ids


async def test_each_state_is_kept_for_its_own_time(session: AsyncSession, jobs: JobRepository) -> None:
    old = await _one_of_each(session, jobs, days=10)
    older = await _one_of_each(session, jobs, days=40)
    retention = {JobStatus.COMPLETED: WEEK, JobStatus.FAILED: timedelta(days=30)}

    assert await jobs.cleanup(retention) == 3

    gone = {older[JobStatus.COMPLETED], older[JobStatus.FAILED], old[JobStatus.COMPLETED]}
    every = [*old.values(), *older.values()]
    assert {job.id for job in await jobs.get_many(every)} == set(every) - gone


@pytest.mark.parametrize("retention", [WEEK, {JobStatus.FAILED: timedelta(days=20), JobStatus.CANCELLED: WEEK}])
async def test_the_dry_run_tells_exactly_what_would_go_and_deletes_nothing(
    session: AsyncSession, jobs: JobRepository, retention: Retention, statements: list[str]
) -> None:
    for days in (30, 10, 1):
        await _one_of_each(session, jobs, days)
    before = await jobs.count()
    statements.clear()

    told = await jobs.list_expired(retention)

    assert len(statements) == 1
    assert await jobs.count() == before
    assert [job.completed_at for job in told] == sorted(job.completed_at for job in told)
    every = {job.id for job in await jobs.get_active_jobs()} | {job.job_id for job in told}
    assert await jobs.cleanup(retention) == len(told)
    assert await jobs.get_many([job.job_id for job in told]) == []
    assert await jobs.list_expired(retention) == []
    assert await jobs.count() == before - len(told)
    assert len(every) == 9 + len(told)


async def test_a_batch_is_bounded_and_takes_the_oldest_with_their_items(
    session: AsyncSession, jobs: JobRepository
) -> None:
    running = await running_jobs(jobs, 5)
    for job in held(*running):
        await ItemRepository(session).expand(job, [NewItem(position=0, key="a", spec={})])
    await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in held(*running)])
    for days, old in enumerate(running, start=10):
        await _age(session, old.id, days)

    assert await jobs.cleanup(WEEK, limit=2) == 2

    left = [job.id for job in running[:3]]
    assert {job.id for job in await jobs.get_many([job.id for job in running])} == set(left)
    assert set(await session.scalars(select(JobItem.job_id))) == set(left)


async def test_a_locked_job_is_left_for_later_and_nobody_waits(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        ids = [(await job_in(JobRepository(session), JobStatus.FAILED)).id for _ in range(3)]
        for job_id in ids:
            await _age(session, job_id, 10)
    async with database.get_transaction() as person, database.get_transaction() as session:
        await JobRepository(person).retry([ids[0]])

        async with asyncio.timeout(10):
            assert await JobRepository(session).cleanup(WEEK) == 2

    async with database.get_session() as session:
        (kept,) = await JobRepository(session).get_many(ids)
    assert (kept.id, kept.status) == (ids[0], JobStatus.QUEUED)


async def test_clean_ups_at_once_share_the_work(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        running = await running_jobs(jobs, 100)
        await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in held(*running)])
        await queued_jobs(jobs)

    async def cleanup(_: int) -> int:
        async with database.get_transaction() as session:
            return await JobRepository(session).cleanup(timedelta(0), limit=30)

    gone = await asyncio.gather(*map(cleanup, range(4)))

    assert sum(gone) <= 100
    assert all(count <= 30 for count in gone)
    async with database.get_session() as session:
        assert await JobRepository(session).count() == 101 - sum(gone)


@pytest.mark.parametrize(
    ("retention", "limit", "message"),
    [
        (timedelta(seconds=-1), 10, "0 or more"),
        ({JobStatus.QUEUED: WEEK}, 10, "expected final states"),
        ({}, 10, "names no state"),
        (WEEK, 0, "limit must be 1 to 10000"),
        (WEEK, 10_001, "limit must be 1 to 10000"),
    ],
)
async def test_retention_that_cannot_be_meant_is_refused(
    jobs: JobRepository, retention: Retention, limit: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await jobs.cleanup(retention, limit)
    with pytest.raises(ValueError, match=message):
        await jobs.list_expired(retention, limit)
