"""Where jobs stand in their queue, and how long they may still wait."""

import json
import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import MAX_BATCH, Finish
from repositories.states import JobStatus
from tests.factories import held, new_job, queued_jobs, running_jobs

RANKS = """
SELECT id, row_number() OVER (PARTITION BY queue ORDER BY priority, queued_at, id) AS rank
FROM jobs WHERE status = 'queued' AND scheduled_at IS NULL
"""
MANY = """
INSERT INTO jobs (id, type, status, payload, queued_at, priority)
SELECT gen_random_uuid(), 'document_upload', 'queued', '{}', now() + number * interval '1 millisecond', 5
FROM generate_series(1, 20000) AS number
"""


async def _mixed_queue(session: AsyncSession, jobs: JobRepository, count: int) -> list[Job]:
    """Jobs of two queues and every priority, some of the same moment, some scheduled, some that run."""
    dice = random.Random(7)  # noqa: S311 - it shuffles, and hides nothing
    made = await jobs.create_many([new_job(priority=dice.randint(0, 9)) for _ in range(count)])
    ids = [job.id for job in made]
    moments = "UPDATE jobs SET queued_at = date_trunc('second', queued_at), queue = 'side' WHERE id = ANY(:ids)"
    await session.execute(text(moments), {"ids": dice.sample(ids, count // 3)})
    later = "UPDATE jobs SET scheduled_at = now() + interval '1 hour' WHERE id = ANY(:ids)"
    await session.execute(text(later), {"ids": dice.sample(ids, count // 10)})
    await jobs.claim(dice.sample(ids, count // 10), "worker-1", timedelta(minutes=1))
    return made


@pytest.mark.parametrize("asked", [1, 7, 300])
async def test_positions_are_the_ranks_of_the_whole_queue(
    session: AsyncSession, jobs: JobRepository, statements: list[str], asked: int
) -> None:
    made = await _mixed_queue(session, jobs, 300)
    ranks = {row.id: row.rank for row in await session.execute(text(RANKS))}
    ids = [job.id for job in made][:: len(made) // asked]
    statements.clear()

    positions = await jobs.queue_positions(ids)

    assert positions == {job_id: ranks[job_id] for job_id in ids if job_id in ranks}
    assert len(statements) == 1


@pytest.mark.own_database  # a plan, and what it read
async def test_a_position_reads_only_what_stands_before_it(database: DatabaseManager, statements: list[str]) -> None:
    async with database.get_transaction() as session:
        await session.execute(text(MANY))
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE jobs"))
    async with database.get_session() as session:
        place = "SELECT id FROM jobs ORDER BY priority, queued_at, id OFFSET 99 LIMIT 1"
        job_id = (await session.execute(text(place))).scalar_one()
        assert await JobRepository(session).queue_positions([job_id]) == {job_id: 100}
        plan = await _explain(session, statements[-1], job_id)

    scan = next(node for node in _nodes(plan) if node.get("Index Name") == "ix_jobs_queue_order")
    assert scan["Actual Rows"] == 100


async def test_a_wait_is_estimated_from_the_pace_of_the_queue(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    done = await running_jobs(jobs, 30)
    await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in held(*done)])
    long_ago = "UPDATE jobs SET completed_at = completed_at - interval '1 hour' WHERE id = :id"
    await session.execute(text(long_ago), {"id": done[0].id})
    await session.execute(text("UPDATE jobs SET started_at = started_at - interval '290 s' WHERE completed_at > now()"))
    first, second = await queued_jobs(jobs, 2)
    (running,) = await running_jobs(jobs)
    statements.clear()

    waits = await jobs.estimate_waits([first.id, second.id, running.id], timedelta(seconds=900))

    assert len(statements) == 1
    assert set(waits) == {first.id, second.id}
    assert waits[first.id].finished == 29
    assert waits[first.id].window_seconds == pytest.approx(290.0, abs=2)
    assert [waits[job.id].seconds for job in (first, second)] == pytest.approx([10.0, 20.0], rel=0.01)


async def test_a_fast_queue_is_measured_by_its_latest_thousand(session: AsyncSession, jobs: JobRepository) -> None:
    finished = """
        INSERT INTO jobs (id, type, status, payload, queued_at, started_at, completed_at)
        SELECT gen_random_uuid(), 'document_upload', 'completed', '{}', now(), now(), now() - number * interval '1 ms'
        FROM generate_series(1, 2000) AS number
    """
    await session.execute(text(finished))
    (job,) = await queued_jobs(jobs)

    wait = (await jobs.estimate_waits([job.id]))[job.id]

    assert wait.finished == 1_000
    assert 1.0 <= wait.window_seconds < 60.0  # not the ten minutes: the sample reaches back one second and what we took


async def test_a_pace_is_taken_from_the_latest_ends_of_all_queues(session: AsyncSession, jobs: JobRepository) -> None:
    """How many are looked at is bounded, so that a day as fast as an hour costs no more."""
    ended = """
        INSERT INTO jobs (id, type, queue, status, payload, queued_at, started_at, completed_at)
        SELECT gen_random_uuid(), 'document_upload', :queue, 'completed', '{}', now(), now(),
               now() - :ago * interval '1 s' - number * interval '1 ms'
        FROM generate_series(1, :count) AS number
    """
    for queue, ago, count in (("busy", 1, 3_900), ("calm", 10, 60), ("busy", 20, 100), ("calm", 30, 1)):
        await session.execute(text(ended), {"queue": queue, "ago": ago, "count": count})
    made = await jobs.create_many([new_job(queue=queue) for queue in ("busy", "calm")])

    waits = await jobs.estimate_waits([job.id for job in made])

    assert {job.queue: waits[job.id].finished for job in made} == {"busy": 1_000, "calm": 60}


async def test_the_pace_of_a_queue_is_reckoned_once_for_all_who_ask(session: AsyncSession, jobs: JobRepository) -> None:
    await session.execute(text(ENDED), {"ages": [float(age) for age in range(100)]})
    ids = [job.id for job in await queued_jobs(jobs, 50)]
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert len(await jobs.estimate_waits(ids)) == 50
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    ((statement, parameters),) = sent
    plan = (await raw.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *parameters))[0]["Plan"]

    slices = [node["Actual Loops"] for node in _nodes(plan) if node["Node Type"] == "Function Scan"]
    assert slices == [1]


ENDED = """
INSERT INTO jobs (id, type, status, payload, queued_at, started_at, completed_at)
SELECT gen_random_uuid(), 'document_upload', 'completed', '{}', now(), now() - interval '100 s',
       now() - age * interval '1 s'
FROM unnest(CAST(:ages AS float[])) AS age
"""


async def test_idle_time_before_the_first_start_does_not_slow_the_pace(
    session: AsyncSession, jobs: JobRepository
) -> None:
    await session.execute(text(ENDED), {"ages": [float(age) for age in range(100)]})
    (job,) = await queued_jobs(jobs)

    wait = (await jobs.estimate_waits([job.id], timedelta(minutes=10)))[job.id]

    assert wait.seconds == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("clump", "spread"), [(1, 0.0), (10, 71.6)], ids=["even", "in clumps"])
async def test_the_more_uneven_the_pace_the_wider_the_spread(
    session: AsyncSession, jobs: JobRepository, clump: int, spread: float
) -> None:
    """100 jobs in 100 s, evenly or all of them in one tenth of the time; 25 jobs wait."""
    ages = [number / clump + (0 if clump == 1 else 50.0) + 0.5 / clump for number in range(100)]
    await session.execute(text(ENDED), {"ages": ages})
    waiting = await queued_jobs(jobs, 25)

    wait = (await jobs.estimate_waits([waiting[-1].id]))[waiting[-1].id]

    assert wait.seconds == pytest.approx(25.0, rel=0.05)
    assert wait.seconds is not None
    assert wait.low_seconds is not None
    assert wait.high_seconds is not None
    assert wait.low_seconds <= wait.seconds <= wait.high_seconds
    assert wait.high_seconds - wait.seconds == pytest.approx(spread, rel=0.05)


async def test_four_jobs_tell_a_pace_but_no_spread(session: AsyncSession, jobs: JobRepository) -> None:
    await session.execute(text(ENDED), {"ages": [10.0, 20.0, 30.0, 40.0]})
    (job,) = await queued_jobs(jobs)

    wait = (await jobs.estimate_waits([job.id]))[job.id]

    assert wait.seconds == pytest.approx(25.0, rel=0.05)
    assert (wait.low_seconds, wait.high_seconds) == (None, None)


ITEMS = """
INSERT INTO job_items (job_id, position, key, status, attempt, spec, finished_at)
SELECT :job_id, number, number, 'done', :attempt, '{}',
       (SELECT started_at FROM jobs WHERE id = :job_id) + at * interval '1 s'
FROM unnest(CAST(:ends AS float[])) WITH ORDINALITY AS ended (at, number)
"""


async def _with_items(session: AsyncSession, job_id: object, ends: list[float], total: int, attempt: int = 1) -> None:
    """A job whose items ended so many seconds after its start, the last of them now."""
    started = "UPDATE jobs SET started_at = now() - :ago * interval '1 s', items_total = :total WHERE id = :job_id"
    await session.execute(text(started), {"job_id": job_id, "ago": ends[-1], "total": total})
    counted = "UPDATE jobs SET items_done = items_done + :done WHERE id = :job_id"
    await session.execute(text(counted), {"job_id": job_id, "done": len(ends)})
    await session.execute(text(ITEMS), {"job_id": job_id, "attempt": attempt, "ends": ends})


async def test_a_running_job_ends_at_the_pace_of_its_own_items(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    even, uneven, young, done, waiting = await queued_jobs(jobs, 5)
    await jobs.claim([even.id, uneven.id, young.id, done.id], "worker-1", timedelta(minutes=1))
    await _with_items(session, even.id, [2.0 * number for number in range(1, 11)], total=20)
    await _with_items(session, uneven.id, [float(number) for number in range(1, 10)] + [20.0], total=20)
    await _with_items(session, young.id, [1.0, 2.0], total=20)
    await _with_items(session, done.id, [1.0, 2.0, 3.0, 4.0, 5.0], total=5)
    statements.clear()

    rests = await jobs.estimate_rests([even.id, uneven.id, young.id, done.id, waiting.id])

    assert len(statements) == 1
    assert set(rests) == {even.id, uneven.id}
    assert (rests[even.id].items_left, rests[even.id].finished) == (10, 10)
    assert rests[even.id].seconds == pytest.approx(20.0, abs=1.0)
    assert rests[uneven.id].seconds == pytest.approx(20.0, abs=1.0)
    assert rests[even.id].high_seconds - rests[even.id].low_seconds == pytest.approx(0.0, abs=0.1)
    assert rests[uneven.id].low_seconds < 10
    assert rests[uneven.id].high_seconds > 30


async def test_items_of_an_earlier_attempt_tell_nothing_of_this_one(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    await jobs.put_back(held(job))
    await jobs.claim([job.id], "worker-2", timedelta(minutes=1))
    await _with_items(session, job.id, [float(number) for number in range(1, 11)], total=20, attempt=1)

    assert await jobs.estimate_rests([job.id]) == {}


async def test_no_pace_is_no_estimate(jobs: JobRepository) -> None:
    (job,) = await queued_jobs(jobs)

    wait = (await jobs.estimate_waits([job.id]))[job.id]

    assert (wait.position, wait.seconds, wait.finished) == (1, None, 0)
    with pytest.raises(ValueError, match="more than zero"):
        await jobs.estimate_waits([job.id], timedelta(0))


async def test_positions_of_more_than_a_batch_are_refused(jobs: JobRepository) -> None:
    ids = [job.id for job in await queued_jobs(jobs, MAX_BATCH + 1)]
    with pytest.raises(ValueError, match="at most 1000"):
        await jobs.queue_positions(ids)


async def _explain(session: AsyncSession, statement: str, job_id: object) -> dict[str, Any]:
    connection = await session.connection()
    rows = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", ([job_id],))
    found = rows.scalar_one()
    plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]
