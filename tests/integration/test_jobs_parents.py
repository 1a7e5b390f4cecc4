"""What becomes of a job when one that it depends on does not complete."""

import asyncio
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from repositories.database import DatabaseManager
from repositories.errors import NotFoundError
from repositories.jobs import ClaimedJob, JobRepository
from repositories.models import Job
from repositories.schemas import Finish
from repositories.states import JobStatus
from tests.factories import ERROR, LEASE, held, new_job, queued_jobs, running_jobs


async def _child(jobs: JobRepository, *parents: Job | ClaimedJob, on_parent_failure: str = "release") -> Job:
    (child,) = await jobs.create_many(
        [new_job(depends_on=[parent.id for parent in parents], on_parent_failure=on_parent_failure)]
    )
    return child


async def _fail(jobs: JobRepository, job: Job | ClaimedJob) -> list[UUID]:
    return (await jobs.finish([Finish(held(job)[0], JobStatus.FAILED, None, ERROR)])).released


async def test_a_failed_parent_releases_a_child_that_asked_for_it_and_fails_the_other(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    brave, careful = await _child(jobs, parent), await _child(jobs, parent, on_parent_failure="fail")

    released = await _fail(jobs, parent)

    assert released == [brave.id]
    states = [job.status for job in await jobs.get_many([brave.id, careful.id])]
    assert states == [JobStatus.QUEUED, JobStatus.FAILED]


async def test_a_child_to_be_released_still_waits_for_its_other_parents(jobs: JobRepository) -> None:
    first, second = await running_jobs(jobs, 2)
    child = await _child(jobs, first, second)

    assert await _fail(jobs, first) == []
    assert (await jobs.finish([Finish(held(second)[0], JobStatus.COMPLETED)])).released == [child.id]


async def test_a_cancelled_parent_releases_too(jobs: JobRepository) -> None:
    (parent,) = await queued_jobs(jobs)
    child = await _child(jobs, parent)

    assert (await jobs.cancel([parent.id])).released == [child.id]


async def test_a_chain_fails_as_far_as_the_first_child_that_is_released(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    failed = await _child(jobs, parent, on_parent_failure="fail")
    freed = await _child(jobs, failed)
    after = await _child(jobs, freed, on_parent_failure="fail")

    released = await _fail(jobs, parent)

    assert released == [freed.id]
    states = [job.status for job in await jobs.get_many([failed.id, freed.id, after.id])]
    assert states == [JobStatus.FAILED, JobStatus.QUEUED, JobStatus.PENDING]


async def test_a_child_written_after_its_parent_failed_is_queued_if_it_is_to_be_released(jobs: JobRepository) -> None:
    (parent,) = await running_jobs(jobs)
    await _fail(jobs, parent)

    assert (await _child(jobs, parent)).status is JobStatus.QUEUED


async def test_a_parent_that_fails_and_is_tried_again_is_counted_off_once(jobs: JobRepository) -> None:
    """Counted twice, it would release the child while the other parent still runs."""
    first, second = await running_jobs(jobs, 2)
    child = await _child(jobs, first, second)
    await _fail(jobs, first)
    await jobs.retry([first.id])
    assert (await jobs.get_by_id_or_raise(child.id)).parents_left == 2
    (first,) = await jobs.claim([first.id], "worker-1", LEASE)

    assert (await jobs.finish([Finish(held(first)[0], JobStatus.COMPLETED)])).released == []
    assert (await jobs.finish([Finish(held(second)[0], JobStatus.COMPLETED)])).released == [child.id]


async def test_a_whole_chain_of_one_call_fails_with_the_parent_that_had_failed_before(jobs: JobRepository) -> None:
    (lost,) = await running_jobs(jobs)
    await _fail(jobs, lost)
    child = new_job(depends_on=[lost.id])
    grandchild = new_job(depends_on=[child.id])

    written = await jobs.create_many([child, grandchild, new_job(depends_on=[grandchild.id])])

    assert [job.status for job in written] == [JobStatus.FAILED] * 3


async def test_writing_a_finished_parent_again_with_a_child_queues_the_child(jobs: JobRepository) -> None:
    parent = new_job()
    await jobs.create_many([parent])
    (running,) = await jobs.claim([parent.id], "worker-1", LEASE)
    await jobs.finish([Finish(held(running)[0], JobStatus.COMPLETED)])

    _, child = await jobs.create_many([parent, new_job(depends_on=[parent.id])])

    assert child.status is JobStatus.QUEUED


async def test_a_job_cannot_wait_for_itself_or_for_a_later_one(jobs: JobRepository) -> None:
    own, later = uuid7(), new_job()
    for batch in ([new_job(id=own, depends_on=[own])], [new_job(depends_on=[later.id]), later]):
        with pytest.raises(NotFoundError):
            await jobs.create_many(batch)
    assert await jobs.count() == 0


async def test_a_chain_of_one_call_has_a_bound(jobs: JobRepository) -> None:
    chain = [new_job()]
    for _ in range(100):
        chain.append(new_job(depends_on=[chain[-1].id]))

    with pytest.raises(ValueError, match="more than 100 jobs of one call"):
        await jobs.create_many(chain)
    assert len(await jobs.create_many(chain[:100])) == 100


async def test_parents_that_end_at_once_in_different_ways_release_their_child_exactly_once(
    database: DatabaseManager,
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        parents = await running_jobs(jobs, 9)
        child = await _child(jobs, *parents)
    ends = [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED] * 3

    async def end(parent: Job | ClaimedJob, to: JobStatus) -> list[UUID]:
        async with database.get_transaction() as session:
            error = ERROR if to is JobStatus.FAILED else None
            return (await JobRepository(session).finish([Finish(held(parent)[0], to, None, error)])).released

    released = await asyncio.gather(*map(end, parents, ends))

    assert [job_id for batch in released for job_id in batch] == [child.id]
