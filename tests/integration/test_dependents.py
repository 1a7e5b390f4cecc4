"""Jobs that wait for other jobs."""

import asyncio
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from repositories.database import DatabaseManager
from repositories.errors import NotFoundError
from repositories.jobs import ClaimedJob, JobRepository
from repositories.models import Job
from repositories.schemas import Finish, Held
from repositories.states import JobStatus
from tests.factories import ERROR, LEASE, held, hold, new_job, queued_jobs, running_jobs


async def _child(jobs: JobRepository, *parents: Job | ClaimedJob) -> Job:
    (child,) = await jobs.create_many([new_job(depends_on=[parent.id for parent in parents])])
    return child


async def test_a_child_is_queued_when_its_last_parent_completes(jobs: JobRepository) -> None:
    first, second = await running_jobs(jobs, 2)
    child = await _child(jobs, first, second)
    assert child.status is JobStatus.PENDING

    early = await jobs.finish([Finish(hold(first), JobStatus.COMPLETED)])
    assert early.released == []
    last = await jobs.finish([Finish(hold(second), JobStatus.COMPLETED)])

    assert last.released == [child.id]
    after = await jobs.get_by_id_or_raise(child.id)
    assert (after.status, after.parents_left) == (JobStatus.QUEUED, 0)
    assert after.queued_at is not None


async def test_a_child_of_completed_parents_is_queued_at_once(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    await jobs.finish([Finish(hold(parent), JobStatus.COMPLETED)])

    assert (await _child(jobs, parent)).status is JobStatus.QUEUED


async def test_a_failed_parent_fails_the_whole_chain(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    child = await _child(jobs, parent)
    grandchild = await _child(jobs, child)

    await jobs.finish([Finish(hold(parent), JobStatus.FAILED, None, ERROR)])

    for job in (child, grandchild):
        after = await jobs.get_by_id_or_raise(job.id)
        assert (after.status, after.errors[-1]["code"]) == (JobStatus.FAILED, "parent_failed")


async def test_a_cancelled_parent_fails_its_children(jobs: JobRepository) -> None:
    (parent,) = await queued_jobs(jobs)
    child = await _child(jobs, parent)

    await jobs.cancel([parent.id])

    assert (await jobs.get_by_id_or_raise(child.id)).status is JobStatus.FAILED


async def test_a_child_of_a_failed_parent_is_written_as_failed(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    await jobs.finish([Finish(hold(parent), JobStatus.FAILED, None, ERROR)])

    child = await _child(jobs, parent)

    assert (child.status, child.errors[-1]["code"]) == (JobStatus.FAILED, "parent_failed")


async def test_a_family_that_is_retried_runs_in_its_order_again(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    child = await _child(jobs, parent)
    await jobs.finish([Finish(hold(parent), JobStatus.FAILED, None, ERROR)])

    outcome = await jobs.retry([parent.id, child.id])

    assert outcome.moved == {parent.id: JobStatus.QUEUED, child.id: JobStatus.PENDING}
    assert outcome.released == [parent.id]
    (again,) = await jobs.claim([parent.id], "worker-1", LEASE)
    done = await jobs.finish([Finish(hold(again), JobStatus.COMPLETED)])
    assert done.released == [child.id]


async def test_a_child_that_is_retried_alone_after_its_parents_ended_is_queued(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    child = await _child(jobs, parent)
    await jobs.finish([Finish(hold(parent), JobStatus.FAILED, None, ERROR)])

    assert (await jobs.retry([child.id])).released == [child.id]


async def test_a_parent_that_does_not_exist_is_not_found(jobs: JobRepository) -> None:
    nobody = uuid7()

    with pytest.raises(NotFoundError, match=str(nobody)):
        await jobs.create_many([new_job(depends_on=[nobody])])


async def test_parents_that_finish_at_the_same_time_release_their_child_exactly_once(database: DatabaseManager) -> None:
    """The race: each finish sees the other parent unfinished, and neither releases."""
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        parents = await running_jobs(jobs, 8)
        child = await _child(jobs, *parents)

    async def finish(parent: Held) -> list[UUID]:
        async with database.get_transaction() as session:
            return (await JobRepository(session).finish([Finish(parent, JobStatus.COMPLETED)])).released

    released = await asyncio.gather(*map(finish, held(*parents)))

    assert [job_id for batch in released for job_id in batch] == [child.id]


async def test_a_child_written_while_its_parent_finishes_is_never_forgotten(database: DatabaseManager) -> None:
    async def round_of_one() -> JobStatus:
        async with database.get_transaction() as session:
            (parent,) = await running_jobs(JobRepository(session))

        async def finish() -> None:
            async with database.get_transaction() as session:
                await JobRepository(session).finish([Finish(hold(parent), JobStatus.COMPLETED)])

        async def write() -> UUID:
            async with database.get_transaction() as session:
                return (await _child(JobRepository(session), parent)).id

        _, child_id = await asyncio.gather(finish(), write())
        async with database.get_session() as session:
            return (await JobRepository(session).get_by_id_or_raise(child_id)).status

    assert {await round_of_one() for _ in range(20)} == {JobStatus.QUEUED}


async def test_a_job_may_depend_on_an_earlier_one_of_the_same_call(jobs: JobRepository) -> None:
    parent = new_job()
    _, child = await jobs.create_many([parent, new_job(depends_on=[parent.id])])
    assert child.status is JobStatus.PENDING

    (running,) = await jobs.claim([parent.id], "worker-1", LEASE)
    outcome = await jobs.finish([Finish(hold(running), JobStatus.COMPLETED)])

    assert outcome.released == [child.id]
