"""Queues on the record: paused, limited, listed; and what a job of one may do while it is so."""

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import ConflictError
from repositories.jobs import JobRepository
from repositories.queues import QueueRepository
from repositories.schemas import NewJob
from tests.factories import new_job, queued_jobs, running_jobs

BAD_NAMES = ["", "-first", "with space", "a" * 65, "ümlaut", "a/b", "a\n"]


@pytest.fixture
def queues(session: AsyncSession) -> QueueRepository:
    return QueueRepository(session)


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_queue_has_a_name_that_needs_no_quoting_anywhere(queues: QueueRepository, name: str) -> None:
    with pytest.raises(ValidationError):
        new_job(queue=name)
    with pytest.raises(ValidationError):
        await queues.pause(name)


async def test_the_database_refuses_the_names_that_we_refuse(session: AsyncSession) -> None:
    insert = text("INSERT INTO queues (name, max_running) VALUES (:name, 1)")
    for name in ("a", "A.b_c-9", "a" * 64):
        assert NewJob(type="document_upload", queue=name).queue == name
        await session.execute(insert, {"name": name})
    for name in BAD_NAMES:
        with pytest.raises(Exception, match="ck_queues_name_spelled"):
            async with session.begin_nested():
                await session.execute(insert, {"name": name})


async def test_a_queue_is_there_once_a_job_names_it_and_is_listed_with_what_it_holds(
    queues: QueueRepository, jobs: JobRepository, session: AsyncSession, statements: list[str]
) -> None:
    old, parked, later = await queued_jobs(jobs, 3, queue="slow")
    await jobs.park([parked.id])
    await session.execute(
        text("UPDATE jobs SET queued_at = queued_at - interval '90 s' WHERE id = :id"), {"id": old.id}
    )
    await session.execute(
        text("UPDATE jobs SET scheduled_at = now() + interval '1 h' WHERE id = :id"), {"id": later.id}
    )
    await running_jobs(jobs, 2, queue="fast")
    await queues.pause("empty", "no reason", "ann")
    statements.clear()

    empty, fast, slow = await queues.list()

    assert len(statements) == 1
    assert (empty.name, empty.waiting, empty.paused_by, empty.pause_reason) == ("empty", 0, "ann", "no reason")
    assert (fast.name, fast.running, fast.waiting, fast.oldest_waiting_seconds) == ("fast", 2, 0, None)
    assert (slow.name, slow.waiting, slow.scheduled, slow.running, slow.paused_at) == ("slow", 2, 1, 0, None)
    assert slow.oldest_waiting_seconds == pytest.approx(90, abs=5)
    assert [queue.name for queue in await queues.list(["slow"])] == ["slow"]


async def test_a_queue_that_nothing_sets_apart_any_more_leaves_no_row(
    queues: QueueRepository, session: AsyncSession
) -> None:
    count = text("SELECT count(*) FROM queues")
    await queues.pause("q")
    await queues.set_limits("q", max_running=3)
    assert await queues.resume("q")
    assert not await queues.resume("q")
    assert await session.scalar(count) == 1

    await queues.set_limits("q", max_running=None)

    assert await session.scalar(count) == 0


async def test_setting_one_limit_leaves_the_other_as_it_is(queues: QueueRepository) -> None:
    await queues.set_limits("q", max_running=3)
    both = await queues.set_limits("q", max_per_minute=60)
    one = await queues.set_limits("q", max_running=None)

    assert (both.max_running, both.max_per_minute) == (3, 60)
    assert (one.max_running, one.max_per_minute) == (None, 60)


@pytest.mark.parametrize("limits", [{"max_running": 0}, {"max_per_minute": 0}, {"max_per_minute": 600_001}])
async def test_a_limit_out_of_its_range_is_refused(queues: QueueRepository, limits: dict[str, int]) -> None:
    with pytest.raises(ConflictError, match="ck_queues_max"):
        await queues.set_limits("q", **limits)


async def test_the_state_of_a_queue_names_who_holds_its_slots(
    queues: QueueRepository, jobs: JobRepository, statements: list[str]
) -> None:
    await running_jobs(jobs, 1, queue="other")
    running = await running_jobs(jobs, 12, queue="q")
    await queues.set_limits("q", max_running=12, max_per_minute=60)
    statements.clear()

    state = await queues.get("q")

    assert len(statements) == 1
    assert (state.running, state.max_running, state.next_start_seconds) == (12, 12, 0.0)
    assert len(state.holders) == 10
    assert set(state.holders) <= {job.id for job in running}
    free = await queues.get("unheard-of")
    assert (free.paused_at, free.max_running, free.running, free.holders) == (None, None, 0, [])
