"""Every way a job can move, and every way it must not."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from repositories.database import DatabaseManager
from repositories.errors import InvalidTransitionError, NotFoundError
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import MAX_BATCH, Finish, Held, Outcome
from repositories.states import FINAL, TRANSITIONS, JobStatus, Verb
from tests.factories import ERROR, LEASE, expire_lease, held, hold, job_in, new_job, queued_jobs, running_jobs

Move = Callable[[JobRepository, Job], Awaitable[Outcome]]


async def _claim(jobs: JobRepository, job: Job) -> Outcome:
    claimed = await jobs.claim([job.id], "worker-2", LEASE)
    return Outcome(moved={row.id: (await jobs.get_by_id_or_raise(row.id)).status for row in claimed})


def _finish(to: JobStatus) -> Move:
    async def move(jobs: JobRepository, job: Job) -> Outcome:
        return await jobs.finish([Finish(Held(job.id, job.attempt), to, None, ERROR if to == "failed" else None)])

    return move


async def _put_back(jobs: JobRepository, job: Job) -> Outcome:
    return await jobs.put_back([Held(job.id, job.attempt)])


async def _cancel(jobs: JobRepository, job: Job) -> Outcome:
    return await jobs.cancel([job.id])


async def _retry(jobs: JobRepository, job: Job) -> Outcome:
    return await jobs.retry([job.id])


MOVES: dict[tuple[Verb, JobStatus], Move] = {
    (Verb.CLAIM, JobStatus.PROCESSING): _claim,
    **{(Verb.FINISH, to): _finish(to) for to in sorted(FINAL)},
    (Verb.PUT_BACK, JobStatus.QUEUED): _put_back,
    (Verb.CANCEL, JobStatus.CANCELLED): _cancel,
    (Verb.RETRY, JobStatus.QUEUED): _retry,
}


@pytest.mark.parametrize("found", JobStatus)
@pytest.mark.parametrize(("verb", "to"), MOVES)
async def test_a_job_moves_only_where_the_table_lets_it(
    jobs: JobRepository, found: JobStatus, verb: Verb, to: JobStatus
) -> None:
    job = await job_in(jobs, found)
    version = job.version

    outcome = await MOVES[verb, to](jobs, job)

    after = await jobs.get_by_id_or_raise(job.id)
    allowed = any((row.verb, row.source, row.target) == (verb, found, to) for row in TRANSITIONS)
    if not allowed:
        assert job.id not in outcome.moved
        assert (after.status, after.version) == (found, version)
        if verb is not Verb.CLAIM:  # a claim leaves out what it cannot have, without a word
            assert isinstance(outcome.refused[job.id], InvalidTransitionError)
    elif (verb, found) == (Verb.CANCEL, JobStatus.PROCESSING):
        assert after.status is JobStatus.PROCESSING  # a worker holds it: marked, and stops by itself
        assert after.cancel_requested_at is not None
    else:
        assert outcome.moved == {job.id: to}
        assert after.status is to
        assert after.version == version + 1


async def test_a_lost_attempt_cannot_finish_a_job_that_another_attempt_now_runs(
    session: AsyncSession, jobs: JobRepository
) -> None:
    (job,) = await running_jobs(jobs)
    await expire_lease(session, job.id)
    await jobs.rescue()
    await jobs.claim([job.id], "worker-2", LEASE)  # attempt 2 runs elsewhere

    late = await jobs.finish([Finish(Held(job.id, 1), JobStatus.COMPLETED)])

    assert late.moved == {}
    refusal = late.refused[job.id]
    assert isinstance(refusal, InvalidTransitionError)
    assert (refusal.held_attempt, refusal.found_attempt, refusal.found) == (1, 2, JobStatus.PROCESSING)
    assert "stop this task" in str(refusal)
    on_time = await jobs.finish([Finish(Held(job.id, 2), JobStatus.COMPLETED)])
    assert on_time.moved == {job.id: JobStatus.COMPLETED}  # the refusal did not disturb the attempt that owns it


async def test_a_lost_attempt_cannot_put_back_or_extend(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    lost = Held(job.id, job.attempt - 1)

    assert (await jobs.put_back([lost])).moved == {}
    assert await jobs.extend_leases([lost], LEASE) == []
    assert (await jobs.get_by_id_or_raise(job.id)).status is JobStatus.PROCESSING


async def test_five_hundred_jobs_finish_in_one_statement(jobs: JobRepository, statements: list[str]) -> None:
    running = await running_jobs(jobs, 500)
    statements.clear()

    outcome = await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in held(*running)])

    assert len(outcome.moved) == 500
    assert len(statements) == 1, statements


async def test_one_lost_attempt_does_not_hide_the_others(jobs: JobRepository) -> None:
    running = await running_jobs(jobs, 3)
    finishes = [Finish(job, JobStatus.COMPLETED) for job in held(*running)]
    unknown = Held(uuid7(), 1)

    outcome = await jobs.finish([*finishes, Finish(unknown, JobStatus.COMPLETED)])

    assert len(outcome.moved) == 3
    assert isinstance(outcome.refused[unknown.job_id], NotFoundError)


async def test_of_many_claimers_of_the_same_jobs_each_job_goes_to_exactly_one(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        ids = [job.id for job in await queued_jobs(JobRepository(session), 200)]

    async def claimer(name: int) -> list[UUID]:
        async with database.get_transaction() as session:
            return [job.id for job in await JobRepository(session).claim(ids, f"worker-{name}", LEASE)]

    claimed = [job_id for batch in await asyncio.gather(*map(claimer, range(8))) for job_id in batch]

    assert sorted(claimed) == sorted(set(claimed))
    async with database.get_session() as session:
        attempts = {job.attempt for job in await JobRepository(session).get_many(ids)}
    assert attempts <= {0, 1}


async def test_a_batch_has_a_bound(jobs: JobRepository) -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        await jobs.claim([uuid7() for _ in range(MAX_BATCH + 1)], "worker-1", LEASE)


async def test_a_scheduled_job_is_not_claimed_before_its_time(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    await jobs.put_back(held(job), timedelta(hours=1), ERROR)

    assert await jobs.claim([job.id], "worker-1", LEASE) == []
    assert await jobs.take_due() == []
    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.status, after.failures, after.attempt) == (JobStatus.QUEUED, 1, 1)
    assert after.scheduled_at is not None
    assert after.error == "it broke"


async def test_what_is_due_is_handed_out_once(jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    await jobs.put_back(held(job), timedelta(microseconds=1))

    assert [waiting.job_id for waiting in await jobs.take_due()] == [job.id]
    assert await jobs.take_due() == []


async def test_handing_back_burns_no_try(jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)

    await jobs.put_back(held(job))

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.failures, after.crashes, after.scheduled_at) == (0, 0, None)


async def test_a_cancel_request_survives_a_hand_back(jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    await jobs.cancel([job.id], "changed my mind")

    outcome = await jobs.put_back(held(job))

    assert outcome.moved == {job.id: JobStatus.CANCELLED}


async def test_a_running_job_learns_of_a_cancel_request_with_its_lease(jobs: JobRepository) -> None:
    job, other = await running_jobs(jobs, 2)
    await jobs.cancel([job.id])

    leases = {lease.job_id: lease.cancel_requested for lease in await jobs.extend_leases(held(job, other), LEASE)}

    assert leases == {job.id: True, other.id: False}


async def test_rescue_puts_back_what_a_dead_worker_held_and_nothing_else(
    session: AsyncSession, jobs: JobRepository
) -> None:
    dead, alive = await running_jobs(jobs, 2)
    await expire_lease(session, dead.id)

    outcome = await jobs.rescue()

    assert outcome.moved == {dead.id: JobStatus.QUEUED}
    assert outcome.released == [dead.id]
    after = await jobs.get_by_id_or_raise(dead.id)
    assert (after.crashes, after.suspicion, after.failures, after.attempt) == (0, 1, 0, 1)
    assert after.errors[-1]["code"] == "worker_lost"
    assert (await jobs.get_by_id_or_raise(alive.id)).status is JobStatus.PROCESSING


async def test_rescue_honours_a_cancel_request(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    await jobs.cancel([job.id])
    await expire_lease(session, job.id)

    assert (await jobs.rescue()).moved == {job.id: JobStatus.CANCELLED}


async def test_a_persons_retry_starts_the_tries_anew(jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs, max_attempts=1)
    await jobs.finish([Finish(hold(job), JobStatus.FAILED, None, ERROR)])

    outcome = await jobs.retry([job.id])

    after = await jobs.get_by_id_or_raise(job.id)
    assert outcome.released == [job.id]
    assert (after.status, after.failures, after.attempt, after.completed_at) == (JobStatus.QUEUED, 0, 1, None)
    assert len(after.errors) == 1  # the history stays


async def test_writing_the_same_job_twice_is_one_job(jobs: JobRepository) -> None:
    new = new_job(metadata={"round": 1})
    await jobs.create_many([new])

    (again,) = await jobs.create_many([new.model_copy(update={"metadata": {"round": 2}})])

    assert again.job_metadata == {"round": 1}
    assert await jobs.count() == 1


@pytest.mark.slow
async def test_ten_thousand_jobs_are_written_in_two_statements(jobs: JobRepository, statements: list[str]) -> None:
    statements.clear()

    await jobs.create_many([new_job() for _ in range(10_000)])

    assert sum("INSERT INTO jobs" in statement for statement in statements) == 2


async def test_a_row_that_somebody_holds_costs_no_other_job_its_lease_and_is_not_taken_for_lost(
    database: DatabaseManager,
) -> None:
    async with database.get_transaction() as session:
        running = await running_jobs(JobRepository(session), 3)
    async with database.get_transaction() as holding:
        await holding.execute(select(Job.id).where(Job.id == running[0].id).with_for_update())

        async with asyncio.timeout(5), database.get_transaction() as session:
            leases = await JobRepository(session).extend_leases(held(*running), LEASE)

    assert {lease.job_id for lease in leases} == {job.id for job in running}
