"""Messages in Redis, and the loops that keep them in step with PostgreSQL."""

import asyncio
import json
from datetime import timedelta

import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository, Waiting
from repositories.models import Job
from repositories.schemas import Finish, Held
from repositories.states import JobStatus
from tests.factories import ERROR, held, queued_jobs, running_jobs
from worker.loops import Loop, Loops, Upkeep
from worker.queue import JobQueue, QueueUnavailableError, connect, deserialize, offset


@pytest.fixture
def upkeep(database: DatabaseManager, queue: JobQueue) -> Upkeep:
    return Upkeep(database, queue, timedelta(0))  # the tests' server has only just started


async def _queued(database: DatabaseManager, count: int = 1) -> list[Job]:
    async with database.get_transaction() as session:
        return await queued_jobs(JobRepository(session), count)


async def _in_redis(redis: ArqRedis) -> set[str]:
    return {member.decode() for member in await redis.zrange(default_queue_name, 0, -1)}


async def test_a_message_is_json_and_names_the_job_and_nothing_else(
    database: DatabaseManager, redis: ArqRedis, queue: JobQueue
) -> None:
    (job,) = await _queued(database)

    await queue.hand_over([Waiting(job.id, job.type, job.priority)])

    body = json.loads(await redis.get(job_key_prefix + str(job.id)))
    assert (body["f"], body["a"], body["k"]) == ("document_upload", [str(job.id)], {})
    (as_arq_sees_it,) = await redis.queued_jobs()
    assert as_arq_sees_it.function == "document_upload"
    assert [*as_arq_sees_it.args] == [str(job.id)]


@pytest.mark.parametrize("message", [b"\x80\x04K\x01.", b"not json", b"[1]", b"null", b"[" * 100_000])
def test_a_message_that_is_no_json_object_is_refused(message: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        deserialize(message)


def test_no_waiting_time_lifts_a_job_over_a_better_priority() -> None:
    ten_years_ms = 10 * 365 * 24 * 3_600_000
    assert offset(0) + ten_years_ms < offset(1)
    assert offset(9) == -24 * 3_600_000  # a stock worker takes it now, though its clock may be behind by hours


async def test_handing_over_twice_is_one_message_and_clears_a_dead_workers_mark(
    database: DatabaseManager, redis: ArqRedis, queue: JobQueue
) -> None:
    (job,) = await _queued(database)
    await redis.set(in_progress_key_prefix + str(job.id), b"1")
    waiting = [Waiting(job.id, job.type, job.priority)]

    await queue.hand_over(waiting)
    await queue.hand_over(waiting)

    assert await queue.length() == 1
    assert not await redis.exists(in_progress_key_prefix + str(job.id))


async def test_live_positions_follow_the_order_in_which_workers_take(
    database: DatabaseManager, queue: JobQueue
) -> None:
    first, second = await _queued(database, 2)
    await queue.hand_over([Waiting(first.id, "document_upload", 9), Waiting(second.id, "document_upload", 0)])

    assert await queue.positions([first.id, second.id]) == {first.id: 2, second.id: 1}


@pytest.mark.slow
async def test_after_redis_lost_everything_the_reconciler_hands_over_every_queued_job(
    database: DatabaseManager, redis: ArqRedis, upkeep: Upkeep
) -> None:
    jobs = await _queued(database, 2_500)
    await upkeep.reconcile()
    await redis.flushdb()

    await upkeep.reconcile()

    assert await _in_redis(redis) == {str(job.id) for job in jobs}


@pytest.mark.slow
async def test_a_long_queue_is_looked_at_part_by_part_and_all_of_it_in_turn(
    database: DatabaseManager, redis: ArqRedis, upkeep: Upkeep
) -> None:
    jobs = await _queued(database, 4_500)
    await upkeep.reconcile()
    lost = {str(job.id) for job in jobs[::50]}
    await redis.zrem(default_queue_name, *lost)

    await upkeep.reconcile()
    assert 0 < len(lost - await _in_redis(redis)) < len(lost)
    await upkeep.reconcile()

    assert await _in_redis(redis) == {str(job.id) for job in jobs}


async def test_a_redis_that_was_emptied_while_it_was_filled_again_is_not_taken_for_whole(
    redis: ArqRedis, queue: JobQueue
) -> None:
    run_id, known, new = await queue.begin_check()
    await redis.flushdb()
    await queue.end_check(run_id)

    assert (known, new) == (False, True)
    assert not (await queue.begin_check())[1]
    await queue.end_check(run_id)
    assert (await queue.begin_check())[1]


async def test_what_is_left_of_an_ended_job_is_found_and_dropped(
    database: DatabaseManager, redis: ArqRedis, queue: JobQueue, upkeep: Upkeep
) -> None:
    live, ended = await _queued(database, 2)
    await upkeep.reconcile()
    async with database.get_transaction() as session:
        await JobRepository(session).cancel([ended.id])
    await redis.zrem(default_queue_name, str(ended.id))  # taken by a worker that died before it could say more

    await upkeep.reconcile()

    assert await redis.exists(job_key_prefix + str(live.id))
    assert not await redis.exists(job_key_prefix + str(ended.id))


async def test_a_message_without_its_body_is_handed_over_again(
    database: DatabaseManager, redis: ArqRedis, queue: JobQueue, upkeep: Upkeep
) -> None:
    (job,) = await _queued(database)
    await upkeep.reconcile()
    await redis.delete(job_key_prefix + str(job.id))

    await upkeep.reconcile()

    assert await queue.stranded([Waiting(job.id, job.type, job.priority)]) == ([], [])


async def test_a_job_whose_worker_died_between_its_mark_and_its_claim_is_handed_over_at_the_second_look(
    database: DatabaseManager, redis: ArqRedis, queue: JobQueue, upkeep: Upkeep
) -> None:
    (job,) = await _queued(database)
    await upkeep.reconcile()
    mark = in_progress_key_prefix + str(job.id)
    await redis.set(mark, b"1")

    await upkeep.reconcile()
    assert await redis.exists(mark)  # it may be a claim that is under way
    await upkeep.reconcile()

    assert not await redis.exists(mark)
    assert await queue.length() == 1


async def test_the_reconciler_takes_ended_jobs_out_of_redis_and_leaves_running_ones(
    database: DatabaseManager, redis: ArqRedis, upkeep: Upkeep
) -> None:
    waiting, running, ended = await _queued(database, 3)
    await upkeep.reconcile()
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        await jobs.claim([running.id], "worker-1", timedelta(seconds=60))
        await jobs.cancel([ended.id])
    await redis.zadd(default_queue_name, {"cron:cleanup": 1})  # ARQ's own: not ours to remove

    await upkeep.reconcile()

    assert await _in_redis(redis) == {str(waiting.id), str(running.id), "cron:cleanup"}


async def test_a_dead_workers_job_is_rescued_and_handed_over_at_once(
    database: DatabaseManager, redis: ArqRedis, upkeep: Upkeep
) -> None:
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
        await session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 second'"))

    await upkeep.rescue()

    assert await _in_redis(redis) == {str(job.id)}


async def test_the_stager_hands_over_what_is_due_and_nothing_earlier(
    database: DatabaseManager, redis: ArqRedis, upkeep: Upkeep
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        due, later = await running_jobs(jobs, 2)
        await jobs.put_back(held(due), timedelta(microseconds=1), ERROR)
        await jobs.put_back(held(later), timedelta(hours=1), ERROR)

    await upkeep.stage()
    await upkeep.reconcile()

    assert await _in_redis(redis) == {str(due.id)}


async def test_without_redis_the_queue_says_so_and_names_no_password() -> None:
    nobody = connect("redis://:secret@127.0.0.1:1/0")

    with pytest.raises(QueueUnavailableError, match="is REDIS_URL right") as caught:
        await JobQueue(nobody).length()

    assert "secret" not in str(caught.value)
    await nobody.aclose(close_connection_pool=True)


async def test_a_loop_goes_on_after_an_outage_and_after_an_error_of_ours() -> None:
    turns: list[int] = []
    enough = asyncio.Event()

    async def step() -> None:
        turns.append(len(turns))
        if len(turns) == 1:
            raise QueueUnavailableError("ConnectionError")
        if len(turns) == 2:
            raise ZeroDivisionError
        enough.set()

    loops = Loops(Loop("test", timedelta(milliseconds=1), step))
    loops.start()
    await asyncio.wait_for(enough.wait(), 5)
    await loops.stop()

    assert len(turns) >= 3


async def test_a_finished_parent_hands_its_child_to_the_queue_through_waiting_among(
    database: DatabaseManager,
) -> None:
    (parent,) = await _queued(database)
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        (running,) = await jobs.claim([parent.id], "worker-1", timedelta(seconds=60))
        child = await jobs.create_job("document_upload", payload={"version": 1}, depends_on=[parent.id], priority=2)
        outcome = await jobs.finish([Finish(Held(running.id, running.attempt), JobStatus.COMPLETED)])

        assert await jobs.waiting_among(outcome.released) == [Waiting(child.id, "document_upload", 2)]
