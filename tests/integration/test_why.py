"""Why a job is where it is, from real servers; and when it starts or ends."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.schemas import Finish, JobError
from repositories.states import JobStatus
from tests.factories import held, new_job, queued_jobs, running_jobs
from tests.integration.test_registry import live_worker
from worker.client import JobClient
from worker.queue import JobQueue, connect
from worker.reasons import Reason, Why
from worker.registry import Registry
from worker.settings import Settings
from worker.storage import Storage


@pytest.fixture
async def client(
    database: DatabaseManager, queue: JobQueue, storage: Storage, settings: Settings, redis: ArqRedis
) -> JobClient:
    """A client of servers where one worker lives."""
    registry = Registry(redis)
    await registry.announce(live_worker())
    return JobClient(database, queue, storage, settings, registry=registry)


async def _enqueue(database: DatabaseManager, queue: JobQueue, count: int = 1, **fields: object) -> list[UUID]:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        made = await queued_jobs(jobs, count, **fields)
        waiting = await jobs.waiting_among([job.id for job in made])
    await queue.hand_over(waiting)
    return [job.id for job in made]


async def _reason(client: JobClient, job_id: UUID) -> Reason:
    return (await client.why(job_id)).reason


@pytest.mark.parametrize("job_id", ["no id at all", "018bcfe5-694e-753c-96b7-9f85e1fa5b0b"])
async def test_text_that_is_of_no_job_is_a_reason_too(client: JobClient, job_id: str) -> None:
    told = await client.why(job_id)

    assert (told.reason, told.job_id) == (Reason.UNKNOWN, job_id)


async def test_a_waiting_job_is_told_its_place_from_at_most_three_statements(
    client: JobClient, database: DatabaseManager, queue: JobQueue, statements: list[str]
) -> None:
    _, second = await _enqueue(database, queue, 2)
    statements.clear()

    told = await client.why(second)

    assert (told.reason, told.data["position"]) == (Reason.NEXT, 2)
    assert len([sent for sent in statements if sent.lstrip().startswith(("SELECT", "WITH"))]) <= 3


async def test_each_hindrance_is_told_until_it_is_removed(
    client: JobClient, database: DatabaseManager, queue: JobQueue, redis: ArqRedis
) -> None:
    async with database.get_transaction() as session:
        running = await running_jobs(JobRepository(session), 1)
    (job_id,) = await _enqueue(database, queue)
    await client.pause_queue("default", "disk full", "ann")
    await client.limit_queue("default", max_running=1)
    await Registry(redis).forget("host-1-abcd")
    await queue.remove([job_id])
    told: list[Why] = [await client.why(job_id)]

    await client.resume_queue("default")
    told.append(await client.why(job_id))
    await Registry(redis).announce(live_worker())
    told.append(await client.why(job_id))
    await client.limit_queue("default", max_running=None)
    told.append(await client.why(job_id))
    async with database.get_transaction() as session:
        await queue.hand_over(await JobRepository(session).waiting_among([job_id]))
    told.append(await client.why(job_id))

    assert [why.reason for why in told] == [
        Reason.QUEUE_PAUSED,
        Reason.NO_WORKER,
        Reason.MAX_RUNNING,
        Reason.HANDING_OVER,
        Reason.NEXT,
    ]
    assert (told[0].data["paused_by"], told[0].data["pause_reason"]) == ("ann", "disk full")
    assert told[2].data["holders"] == [str(running[0].id)]


async def test_a_rate_that_is_used_up_says_when_the_next_job_starts(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    first, second = await _enqueue(database, queue, 2)
    await client.limit_queue("default", max_per_minute=1)
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        assert await jobs.admit([first, second]) == ([first], [second])

    told = await client.why(second)

    assert told.reason is Reason.RATE
    assert told.data["next_start_seconds"] == pytest.approx(60, abs=5)


async def test_a_job_waits_for_those_of_its_parents_that_have_not_ended(
    client: JobClient, database: DatabaseManager
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        done, live = await running_jobs(jobs, 2)
        child = await jobs.create_job("document_upload", payload={}, depends_on=[done.id, live.id])
        await jobs.finish([Finish(held(done)[0], JobStatus.COMPLETED)])
        own = await jobs.create_job("document_upload")

    told = await client.why(child.id)

    assert told.reason is Reason.PARENTS
    assert told.data["parents"] == [{"job_id": str(live.id), "type": "document_upload", "status": "processing"}]
    assert await _reason(client, own.id) is Reason.CALLER_DRIVEN


async def test_a_retry_and_a_hand_back_are_told_apart(client: JobClient, database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        failed, away, first = await queued_jobs(jobs, 3)
        later = datetime.now(UTC) + timedelta(hours=1)
        (scheduled,) = await jobs.create_many([new_job(scheduled_at=later)])
        one, other = await jobs.claim([failed.id, away.id], "worker-1", timedelta(minutes=1))
        ends = {one.id: one, other.id: other}
        error = JobError(code="broken", message="it broke")
        await jobs.finish(
            [Finish(held(*await jobs.claim([first.id], "w", timedelta(minutes=1)))[0], JobStatus.FAILED, None, error)]
        )
        await jobs.put_back(held(ends[failed.id]), timedelta(hours=1), error)
        await jobs.put_back(held(ends[away.id]), timedelta(hours=1))

    assert await _reason(client, failed.id) is Reason.RETRY
    assert await _reason(client, away.id) is Reason.PUT_BACK
    assert await _reason(client, scheduled.id) is Reason.SCHEDULED
    assert (await client.why(first.id)).sentence.endswith("it broke")


async def test_a_running_job_is_told_with_its_worker_until_its_lease_runs_out(
    client: JobClient, database: DatabaseManager
) -> None:
    async with database.get_transaction() as session:
        (job,) = await running_jobs(JobRepository(session))
    assert (await client.why(job.id)).data["worker_id"] == "worker-1"

    async with database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '3 s'"))

    assert await _reason(client, job.id) is Reason.WORKER_LOST


async def test_without_redis_the_record_still_tells_what_it_knows(
    database: DatabaseManager, storage: Storage, settings: Settings
) -> None:
    nobody = connect("redis://127.0.0.1:1/0")
    client = JobClient(database, JobQueue(nobody), storage, settings, registry=Registry(nobody))
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session))

    assert await _reason(client, job.id) is Reason.REDIS_AWAY
    await client.pause_queue("default")
    assert await _reason(client, job.id) is Reason.QUEUE_PAUSED
    await nobody.aclose(close_connection_pool=True)


async def test_a_resumed_queues_parked_jobs_are_in_redis_at_once(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        made = [job.id for job in await queued_jobs(jobs, 1_200)]
        await jobs.park(made[:600])
        await jobs.park(made[600:])
    await client.pause_queue("default")

    assert await client.resume_queue("default")

    assert set(await queue.positions(made)) == set(made)
    assert not await client.resume_queue("default")


async def test_an_estimate_is_there_once_there_is_a_pace_and_not_before(
    client: JobClient, database: DatabaseManager, queue: JobQueue
) -> None:
    (job_id,) = await _enqueue(database, queue)
    assert await client.eta([job_id]) == {}

    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        done = await running_jobs(jobs, 60)
        await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in held(*done)])
        spread = """
            UPDATE jobs SET started_at = now() - interval '60 s', completed_at = now() - number * interval '1 s'
            FROM (SELECT id, row_number() OVER () AS number FROM jobs WHERE status = 'completed') AS ended
            WHERE jobs.id = ended.id
        """
        await session.execute(text(spread))
    eta = (await client.eta([job_id]))[job_id]

    assert (eta.event, eta.position, eta.measured) == ("start", 1, 60)
    assert eta.low_seconds <= eta.seconds <= eta.high_seconds
    assert eta.seconds == pytest.approx(1.0, rel=0.2)
    assert "starts in about 1 s" in (await client.why(job_id)).sentence
