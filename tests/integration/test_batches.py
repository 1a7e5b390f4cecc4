"""Many jobs at a time: taken, started, carried out and recorded, by the worker's own loop in this process."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.queues import QueueRepository
from repositories.states import JobStatus
from tests.waiting import until
from tests.workshop import Workshop, working
from tests.workshop import jobs as jobs_of
from worker.batches import Batches
from worker.client import JobClient
from worker.queue import SIDE_QUEUE, JobQueue
from worker.retries import RetryPolicy
from worker.run import Run, Runtime


async def _ended(client: JobClient, ids: list[UUID]) -> list[Job]:
    return await client.wait(ids, timeout_seconds=20)


async def _running(batches: Batches, count: int) -> bool:
    return batches.running == count


async def _empty(queue: JobQueue) -> bool:
    return await queue.length() == 0


async def test_every_job_of_a_backlog_runs_once_and_redis_keeps_nothing_of_it(
    client: JobClient, shop: Runtime, workshop: Workshop, redis: ArqRedis
) -> None:
    ids = await client.enqueue_many(jobs_of("noop", 700))

    async with working(shop):
        jobs = await _ended(client, ids)

    assert sorted(workshop.ran) == sorted(ids)
    assert {(job.status, job.attempt, job.worker_id) for job in jobs} == {(JobStatus.COMPLETED, 1, "worker-1")}
    assert {key.decode() for key in await redis.keys("*")} <= {"arq:queues", "arq:wake:arq:queue"}


async def test_a_batch_costs_a_handful_of_statements_however_many_jobs_it_holds(
    client: JobClient, shop: Runtime, statements: list[str]
) -> None:
    settings = shop.settings.model_copy(update={"worker_concurrency": 200})
    ids = await client.enqueue_many(jobs_of("noop", 200))
    statements.clear()

    async with working(replace(shop, settings=settings)):
        await until(lambda: _all_final(shop.database, len(ids)))

    updates = [statement for statement in statements if "UPDATE jobs" in statement]
    assert len(updates) < 20  # two claims of a hundred, and what ended meanwhile in each of a few groups


async def _all_final(database: DatabaseManager, count: int) -> bool:
    async with database.get_session() as session:
        ended = await session.scalar(text("SELECT count(*) FROM jobs WHERE completed_at IS NOT NULL"))
    return bool(ended == count)


async def test_never_more_jobs_run_than_there_are_slots(
    client: JobClient, shop: Runtime, workshop: Workshop, queue: JobQueue
) -> None:
    settings = shop.settings.model_copy(update={"worker_concurrency": 3})
    ids = await client.enqueue_many(jobs_of("held", 10))

    async with working(replace(shop, settings=settings)) as batches:
        await until(lambda: _running(batches, 3))
        assert await queue.length() == 7  # a worker claims no more than it can run
        workshop.gate.set()
        await _ended(client, ids)

    assert workshop.most == 3


async def test_an_idle_worker_is_woken_and_does_not_wait_for_its_next_look(
    client: JobClient, shop: Runtime, workshop: Workshop
) -> None:
    delays = []
    async with working(shop):
        for _ in range(5):
            (job_id,) = await client.enqueue_many(jobs_of("noop"))
            enqueued = time.time()
            await _ended(client, [job_id])
            delays.append(workshop.started_at[job_id] - enqueued)

    assert sorted(delays)[2] < 0.2  # a look is a second apart


async def test_a_better_priority_runs_first(client: JobClient, shop: Runtime, workshop: Workshop) -> None:
    settings = shop.settings.model_copy(update={"worker_concurrency": 1})
    ids = await client.enqueue_many(
        [*jobs_of("noop", priority=9), *jobs_of("noop", priority=5), *jobs_of("noop", priority=0)]
    )

    async with working(replace(shop, settings=settings)):
        await _ended(client, ids)

    assert workshop.ran == ids[::-1]


async def test_stopping_hands_running_jobs_back_at_once_and_burns_no_attempt(
    client: JobClient, shop: Runtime, workshop: Workshop, queue: JobQueue
) -> None:
    ids = await client.enqueue_many(jobs_of("held", 4))

    async def no_grace() -> None:
        return

    async with working(shop) as batches:
        await until(lambda: _running(batches, 4))
        await batches.stop(no_grace)

    jobs = [await client.status(job_id) for job_id in ids]
    assert {(job.status, job.failures, job.crashes) for job in jobs} == {(JobStatus.QUEUED, 0, 0)}
    assert await queue.length() == 4


async def test_running_jobs_may_end_within_the_grace_period(
    client: JobClient, shop: Runtime, workshop: Workshop
) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("held"))

    async def grace() -> None:
        workshop.gate.set()
        await asyncio.sleep(20)

    async with working(shop) as batches:
        await workshop.entered.wait()
        await batches.stop(grace)

    assert (await client.status(job_id)).status is JobStatus.COMPLETED


async def test_a_job_type_that_this_worker_does_not_know_is_left_for_others(
    client: JobClient, shop: Runtime, workshop: Workshop, queue: JobQueue
) -> None:
    (unknown,) = await client.enqueue_many(jobs_of("from_the_future"))
    (known,) = await client.enqueue_many(jobs_of("noop"))

    async with working(shop):
        await _ended(client, [known])
        await until(lambda: _empty(queue))

    left = await client.status(unknown)
    assert (left.status, left.attempt, left.errors) == (JobStatus.QUEUED, 0, [])
    async with shop.database.get_transaction() as session:
        jobs = JobRepository(session)
        assert await jobs.take_due(10, workshop.tasks) == []
        assert [job.job_id for job in await jobs.take_due(10, ["from_the_future"])] == [unknown]


async def test_a_paused_queue_starts_nothing_and_goes_on_when_resumed(
    client: JobClient, shop: Runtime, workshop: Workshop, queue: JobQueue
) -> None:
    async with shop.database.get_transaction() as session:
        await QueueRepository(session).pause("default")
    (paused,) = await client.enqueue_many(jobs_of("noop"))
    (other,) = await client.enqueue_many(jobs_of("noop", queue="other"))

    async with working(shop, "default", "other"):
        await _ended(client, [other])
        await until(lambda: _empty(queue))
        assert workshop.ran == [other]
        async with shop.database.get_transaction() as session:
            await QueueRepository(session).resume("default")
            back = await JobRepository(session).take_due(10, workshop.tasks)
        await queue.hand_over(back)
        await _ended(client, [paused])


async def test_a_result_that_cannot_be_written_fails_its_own_job_and_no_other(client: JobClient, shop: Runtime) -> None:
    ids = await client.enqueue_many([*jobs_of("noop", 5), *jobs_of("no_json"), *jobs_of("noop", 5)])

    async with working(shop):
        jobs = await _ended(client, ids)

    bad = jobs.pop(5)
    assert (bad.status, bad.errors[-1]["code"]) == (JobStatus.FAILED, "result_not_recordable")
    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}


async def test_a_job_whose_row_is_locked_for_a_moment_runs_once_it_is_free(
    client: JobClient, shop: Runtime, workshop: Workshop, queue: JobQueue
) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("noop"))
    async with shop.database.get_transaction() as holding:
        await holding.execute(text("SELECT id FROM jobs FOR UPDATE"))
        async with working(shop):
            await until(lambda: _empty(queue))  # taken, and not to be claimed
            await holding.commit()
            await _ended(client, [job_id])

    assert workshop.ran == [job_id]


async def test_a_snoozed_job_comes_back_later_and_counts_no_failure(client: JobClient, shop: Runtime) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("snooze"))

    job = await _put_back(client, shop, job_id)

    assert (job.failures, job.errors) == (0, [])
    assert timedelta(minutes=4) < _due_in(job) <= timedelta(minutes=5)


async def test_a_retry_after_is_honoured_and_counts_as_a_failure(client: JobClient, shop: Runtime) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("refused"))

    job = await _put_back(client, shop, job_id)

    assert (job.failures, job.errors[-1]["code"]) == (1, "rate_limited")
    assert timedelta(minutes=6) < _due_in(job) <= timedelta(minutes=7)


async def _put_back(client: JobClient, shop: Runtime, job_id: UUID) -> Job:
    async with working(shop):
        await until(lambda: _is_scheduled(client, job_id))
    return await client.status(job_id)


async def _is_scheduled(client: JobClient, job_id: UUID) -> bool:
    return (await client.status(job_id)).scheduled_at is not None


def _due_in(job: Job) -> timedelta:
    assert job.scheduled_at is not None
    return job.scheduled_at - job.updated_at


async def test_each_job_type_waits_after_a_failure_as_its_own_policy_says(client: JobClient, shop: Runtime) -> None:
    async def broken(_: Run) -> dict[str, Any]:
        raise RuntimeError("no idea")

    policy = RetryPolicy(base_seconds=3_600, cap_seconds=3_600)
    shop = replace(shop, tasks={**shop.tasks, "patient": broken}, retries={"patient": policy})
    (job_id,) = await client.enqueue_many(jobs_of("patient"))

    job = await _put_back(client, shop, job_id)

    assert timedelta(minutes=6) <= _due_in(job) <= timedelta(hours=1)


async def test_a_permanent_error_fails_the_job_at_once(client: JobClient, shop: Runtime) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("hopeless"))

    async with working(shop):
        (job,) = await _ended(client, [job_id])

    assert (job.status, job.attempt, job.errors[-1]["code"]) == (JobStatus.FAILED, 1, "hopeless")


async def test_an_attempt_that_takes_too_long_is_stopped_and_tried_again(
    client: JobClient, shop: Runtime, workshop: Workshop
) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("held", timeout_seconds=1))

    job = await _put_back(client, shop, job_id)

    assert (job.failures, job.errors[-1]["code"], workshop.running) == (1, "timeout", 0)


async def test_a_lost_lease_stops_the_task_and_its_end_changes_nothing(
    client: JobClient, shop: Runtime, workshop: Workshop, told: asyncio.Event
) -> None:
    (job_id,) = await client.enqueue_many(jobs_of("held"))

    async with working(shop):
        await workshop.entered.wait()
        async with shop.database.get_transaction() as session:
            await session.execute(text("UPDATE jobs SET attempt = 2, worker_id = 'worker-2'"))
        await asyncio.wait_for(told.wait(), 10)

    job = await client.status(job_id)
    assert (job.status, job.attempt, job.worker_id, workshop.ran) == (JobStatus.PROCESSING, 2, "worker-2", [])


async def test_what_is_no_job_of_ours_moves_out_of_the_way(client: JobClient, shop: Runtime, redis: ArqRedis) -> None:
    await redis.enqueue_job("somebody_elses", _job_id="cron:theirs:1")
    (job_id,) = await client.enqueue_many(jobs_of("noop"))

    async with working(shop):
        await _ended(client, [job_id])

    assert await redis.zrange(SIDE_QUEUE, 0, -1) == [b"cron:theirs:1"]


async def test_a_stock_workers_running_job_is_not_taken(
    client: JobClient, shop: Runtime, workshop: Workshop, redis: ArqRedis
) -> None:
    theirs, ours = await client.enqueue_many(jobs_of("noop", 2))
    await redis.set(in_progress_key_prefix + str(theirs), b"1")

    async with working(shop):
        await _ended(client, [ours])

    assert workshop.ran == [ours]
    assert await redis.exists(job_key_prefix + str(theirs))
