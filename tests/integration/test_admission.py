"""Pauses, limits and unknown job types: what may start, what is kept back, and how it comes back."""

import asyncio
from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.jobs.admission import BURST, unrestricted
from repositories.models import Job
from repositories.queues import QueueRepository
from repositories.schemas import MAX_BATCH, Finish, Held
from repositories.states import JobStatus
from tests.factories import LEASE, held, queued_jobs, running_jobs

UPLOADS = ["document_upload"]
ALL_BACK = "UPDATE jobs SET scheduled_at = NULL WHERE status = 'queued' AND scheduled_at = 'infinity' RETURNING id"


@pytest.fixture
def queues(session: AsyncSession) -> QueueRepository:
    return QueueRepository(session)


async def _start(database: DatabaseManager, ids: Collection[UUID]) -> tuple[list[Held], list[UUID]]:
    """As a worker does with what its claim left over: admit and claim in one transaction."""
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        admission = await jobs.admit(ids, UPLOADS)
        claimed = await jobs.claim(admission.start, "worker-1", LEASE, admitted=True)
    assert len(claimed) == len(admission.start)
    return [Held(job.id, job.attempt) for job in claimed], admission.parked


async def test_a_job_of_a_paused_queue_does_not_start_and_is_parked_until_it_is_resumed(
    queues: QueueRepository, jobs: JobRepository
) -> None:
    held_back = await queued_jobs(jobs, 2, queue="q")
    (other,) = await queued_jobs(jobs)
    await queues.pause("q")
    everything = [job.id for job in [*held_back, other]]

    claimed = await jobs.claim(everything, "worker-1", LEASE)
    admission = await jobs.admit(everything)

    assert [job.id for job in claimed] == [other.id]
    assert admission.start == []
    assert set(admission.parked) == {job.id for job in held_back}
    assert await jobs.take_due() == []
    assert await jobs.waiting() == ([], None)  # the reconciler leaves parked jobs alone
    assert (await jobs.get_by_id_or_raise(held_back[0].id)).is_parked
    await queues.resume("q")
    assert [(job.job_id, job.queue) for job in await jobs.release_parked(queues=["q"])] == [
        (job.id, "q") for job in held_back
    ]
    assert (await jobs.admit([job.id for job in held_back])).parked == []


async def test_a_claim_starts_no_job_of_a_limited_queue_by_itself(queues: QueueRepository, jobs: JobRepository) -> None:
    (running,) = await queued_jobs(jobs, 1, queue="q")
    (rated,) = await queued_jobs(jobs, 1, queue="r")
    await queues.set_limits("q", max_running=1)
    await queues.set_limits("r", max_per_minute=1)

    assert await jobs.claim([running.id, rated.id], "worker-1", LEASE) == []


async def test_what_becomes_due_in_a_paused_queue_waits_for_the_queue(
    queues: QueueRepository, jobs: JobRepository
) -> None:
    (due,) = await queued_jobs(jobs, 1, queue="q", scheduled_at=datetime(2020, 1, 1, tzinfo=UTC))
    await queues.pause("q")

    assert await jobs.take_due() == []

    assert (await jobs.get_by_id_or_raise(due.id)).is_parked
    await queues.resume("q")
    assert [job.job_id for job in await jobs.take_due()] == [due.id]


async def test_a_retry_that_is_not_due_yet_is_not_hastened_by_a_resumed_queue(
    queues: QueueRepository, jobs: JobRepository
) -> None:
    await queued_jobs(jobs, 1, queue="q", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await queues.pause("q")
    await queues.resume("q")

    assert await jobs.release_parked() == []
    assert await jobs.take_due() == []


async def test_a_job_of_an_unknown_type_is_left_for_a_worker_that_knows_it(jobs: JobRepository) -> None:
    (new_type,) = await queued_jobs(jobs, 1, type="video_upload")
    (late,) = await queued_jobs(jobs, 1, type="video_upload", scheduled_at=datetime(2020, 1, 1, tzinfo=UTC))

    assert await jobs.admit([new_type.id], UPLOADS) == ([], [new_type.id])
    assert await jobs.take_due(types=UPLOADS) == []

    newer = await jobs.take_due(types=[*UPLOADS, "video_upload"])
    assert {job.job_id for job in newer} == {new_type.id, late.id}
    assert (await jobs.admit([new_type.id, late.id], ["video_upload"])).parked == []


async def test_those_that_stand_first_take_the_free_slots(queues: QueueRepository, jobs: JobRepository) -> None:
    late, first, second = (
        (await queued_jobs(jobs, 1, queue="q", priority=9))[0],
        (await queued_jobs(jobs, 1, queue="q", priority=1))[0],
        (await queued_jobs(jobs, 1, queue="q", priority=5))[0],
    )
    await queues.set_limits("q", max_running=2)

    admission = await jobs.admit([late.id, second.id, first.id])

    assert admission == ([first.id, second.id], [late.id])


async def test_a_freed_slot_releases_one_parked_job_and_not_one_for_each_that_asks(
    queues: QueueRepository, jobs: JobRepository
) -> None:
    running = await running_jobs(jobs, 2, queue="q")
    await queues.set_limits("q", max_running=2)
    first, *rest = await queued_jobs(jobs, 5, queue="q")
    assert (await jobs.admit([first.id, *(job.id for job in rest)])).start == []
    assert await jobs.release_parked() == []

    await jobs.finish([Finish(held(running[0])[0], JobStatus.COMPLETED)])

    assert [job.job_id for job in await jobs.release_parked()] == [first.id]
    assert await jobs.release_parked() == []  # what was handed over has the slot


async def test_parked_jobs_come_back_in_queue_order_over_all_their_types_and_in_one_statement(
    queues: QueueRepository, jobs: JobRepository, statements: list[str]
) -> None:
    made = []
    for priority, job_type in [(3, "b"), (1, "a"), (2, "b"), (1, "b"), (9, "a")]:
        made += await queued_jobs(jobs, 1, queue="q", type=job_type, priority=priority)
    await queued_jobs(jobs, 1, queue="other", type="c")
    await jobs.park([job.id for job in made])
    await queues.set_limits("q", max_running=3)
    statements.clear()

    released = await jobs.release_parked()

    assert len(statements) == 1
    assert sorted(job.priority for job in released) == [1, 1, 2]
    await queues.set_limits("q", max_running=None)
    assert sorted(job.priority for job in await jobs.release_parked()) == [3, 9]


async def test_a_job_that_may_not_be_started_by_anybody_is_neither_admitted_nor_parked(jobs: JobRepository) -> None:
    (running,) = await running_jobs(jobs)
    later, cancelled = await queued_jobs(jobs, 2)
    await jobs.cancel([cancelled.id])
    await jobs.park([later.id])

    assert await jobs.admit([running.id, later.id, cancelled.id], UPLOADS) == ([], [])
    assert await jobs.park([running.id, cancelled.id]) == []
    with pytest.raises(ValueError, match="at most 1000"):
        await jobs.admit([running.id] * (MAX_BATCH + 1))


async def test_a_callers_own_job_takes_no_slot(queues: QueueRepository, jobs: JobRepository) -> None:
    own = await jobs.create_job("document_upload")
    await jobs.update_job_status(own.id, JobStatus.PROCESSING)
    await queues.set_limits("default", max_running=1)
    (job,) = await queued_jobs(jobs)

    assert (await jobs.admit([job.id])).start == [job.id]


async def test_workers_that_claim_at_once_never_run_more_than_the_limit(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        await QueueRepository(session).set_limits("q", max_running=3)
        left = deque(job.id for job in await queued_jobs(JobRepository(session), 16, queue="q"))
    finished: set[UUID] = set()
    most = 0

    async def work() -> None:
        nonlocal most
        while len(finished) < 16:
            ids = [left.popleft() for _ in range(min(3, len(left)))]
            mine, _ = await _start(database, ids)
            async with database.get_transaction() as session:
                running = text("SELECT count(*) FROM jobs WHERE status = 'processing'")
                most = max(most, (await session.execute(running)).scalar_one())
            async with database.get_transaction() as session:
                jobs = JobRepository(session)
                await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in mine])
                finished.update(job.job_id for job in mine)
            async with database.get_transaction() as session:
                released = await JobRepository(session).release_parked()
            left.extend(job.job_id for job in released)  # before the commit nobody would find them queued

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())

    assert most == 3


async def test_workers_that_claim_at_once_never_start_more_than_the_rate_allows(database: DatabaseManager) -> None:
    per_minute, burst = 3_000, int(3_000 * BURST)
    count = burst + 25
    async with database.get_transaction() as session:
        await QueueRepository(session).set_limits("q", max_per_minute=per_minute)
        left = deque(job.id for job in await queued_jobs(JobRepository(session), count, queue="q"))
        since: datetime = (await session.execute(text("SELECT refilled_at FROM queues"))).scalar_one()
    started: list[UUID] = []

    async def work() -> None:
        while len(started) < count:
            ids = [left.popleft() for _ in range(min(150, len(left)))]
            mine, parked = await _start(database, ids)
            started.extend(job.job_id for job in mine)
            # One that another had its hand on is passed over, and asked for again: otherwise the reconciler would.
            left.extend(set(ids) - {job.job_id for job in mine} - set(parked))
            async with database.get_transaction() as session:
                back = list(await session.scalars(text(ALL_BACK)))
            left.extend(back)  # asked for again at once, whatever the stager thinks; before the commit it would be lost

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())

    async with database.get_session() as session:
        times = list(await session.scalars(select(Job.started_at).order_by(Job.started_at)))
    for number, at in enumerate(times, start=1):
        assert at is not None
        assert number <= burst + per_minute / 60 * (at - since).total_seconds()


@pytest.mark.parametrize("by_stager", [True, False])
async def test_a_rate_of_a_few_a_minute_spaces_every_start(
    queues: QueueRepository, jobs: JobRepository, session: AsyncSession, by_stager: bool
) -> None:
    await queues.set_limits("q", max_per_minute=1)
    ids = [job.id for job in await queued_jobs(jobs, 4, queue="q")]
    assert (await jobs.admit(ids)).start == ids[:1]
    await jobs.claim(ids[:1], "worker-1", LEASE, admitted=True)
    starts = []

    for second in range(10, 190, 10):  # the bucket believes that ten seconds passed
        await session.execute(text("UPDATE queues SET refilled_at = refilled_at - interval '10 s'"))
        if by_stager:
            released = [job.job_id for job in await jobs.release_parked()]
        else:
            released = list(await session.scalars(text(ALL_BACK)))
        admitted = (await jobs.admit(released)).start
        assert not by_stager or admitted == released  # it releases what may start, and no more
        starts += [second] * len(await jobs.claim(admitted, "worker-1", LEASE, admitted=True))

    assert [later - earlier for earlier, later in pairwise([0, *starts])] == [60, 60, 60]


async def test_a_limit_that_is_set_counts_the_jobs_that_run_already(
    queues: QueueRepository, jobs: JobRepository
) -> None:
    await running_jobs(jobs, 4, queue="q")
    (job,) = await queued_jobs(jobs, 1, queue="q")
    await queues.set_limits("q", max_running=3)

    assert await jobs.admit([job.id]) == ([], [job.id])


async def test_the_jobs_of_free_queues_are_found_by_reading_the_restricted_names_once(
    session: AsyncSession, jobs: JobRepository, queues: QueueRepository
) -> None:
    await queued_jobs(jobs, 50)
    for number in range(3):
        await queues.pause(f"q{number}")
    explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT id FROM jobs WHERE {}"
    condition = unrestricted().compile(compile_kwargs={"literal_binds": True})

    plan = "\n".join(await session.scalars(text(explain.format(condition))))

    (scan,) = [line for line in plan.splitlines() if "on queues" in line]
    assert "loops=1" in scan, plan
