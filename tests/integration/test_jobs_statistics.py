"""What jobs add up to, from their rows and from the roll-up."""

import asyncio
import itertools
import random
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.jobs.figures import Durations, EndedJobs
from repositories.jobs.rollup import GROWTH
from repositories.states import JobStatus
from tests.factories import job_in, queued_jobs, running_jobs

ENDED = """
INSERT INTO jobs (id, type, status, payload, workspace_id, queued_at, started_at, completed_at)
SELECT gen_random_uuid(), :type, :status, '{}', :workspace_id, at, at - seconds * interval '1 second', at
FROM (SELECT date_trunc('hour', clock_timestamp(), 'UTC') - :hours * interval '1 hour' + interval '20 minutes' AS at,
             unnest(CAST(:seconds AS double precision[])) AS seconds) AS ends
"""


async def _ended(session: AsyncSession, hours: int, seconds: list[float], **fields: Any) -> None:
    """Jobs that ended at twenty minutes past an hour, so many hours before the present one, after so many seconds."""
    values = {"type": "document_upload", "status": "completed", "workspace_id": "a"} | fields
    await session.execute(text(ENDED), values | {"hours": hours, "seconds": seconds})


async def _fill(session: AsyncSession) -> None:
    # None in the hour before this one: whether that is closed depends on the minute the test runs in.
    await _ended(session, 2, [1.0, 2.0, 3.0])
    await _ended(session, 3, [1.0] * 4, status="failed")
    await _ended(session, 4, [5.0, 6.0], type="question_processing", workspace_id="b")
    await _ended(session, 5, [7.0], workspace_id=None)
    await _ended(session, 30, [9.0] * 5)


def _figures(ended: EndedJobs) -> dict[str, Any]:
    """All but the times, which go on."""
    return ended.model_dump(exclude={"since", "until", "per_hour"})


async def test_what_ended_is_counted_by_type_and_state(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    await _fill(session)
    await job_in(jobs, JobStatus.CANCELLED)
    statements.clear()

    (ended,) = await jobs.ended_jobs(timedelta(hours=5, minutes=1))

    assert len(statements) == 1
    assert ended.counts == {
        "document_upload": {JobStatus.COMPLETED: 4, JobStatus.FAILED: 4, JobStatus.CANCELLED: 1},
        "question_processing": {JobStatus.COMPLETED: 2},
    }
    assert ended.failure_rate == pytest.approx(100 * 4 / 10)
    assert ended.until - ended.since > timedelta(hours=5, minutes=1)
    assert ended.per_hour == pytest.approx(11 / ((ended.until - ended.since) / timedelta(hours=1)))


async def test_one_workspace_is_counted_alone(session: AsyncSession, jobs: JobRepository) -> None:
    await _fill(session)
    alone = {"question_processing": {JobStatus.COMPLETED: 2}}

    assert (await jobs.ended_jobs(timedelta(days=2), "b"))[0].counts == alone
    await jobs.roll_up()
    assert (await jobs.ended_jobs(timedelta(days=2), "b"))[0].counts == alone


async def test_percentiles_are_within_five_percent(session: AsyncSession, jobs: JobRepository) -> None:
    dice = random.Random(11)  # noqa: S311 - it draws durations, and hides nothing
    seconds = sorted(dice.lognormvariate(2, 1.5) for _ in range(2_000))
    await _ended(session, 1, seconds)

    (ended,) = await jobs.ended_jobs()

    assert isinstance(ended.durations, Durations)
    assert ended.durations.mean == pytest.approx(statistics.fmean(seconds), rel=1e-3)
    for found, share in ((ended.durations.p50, 0.50), (ended.durations.p95, 0.95), (ended.durations.p99, 0.99)):
        assert found == pytest.approx(seconds[round(share * len(seconds)) - 1], rel=GROWTH**0.5 - 1 + 1e-6)
    assert ended.durations_by_type == {"document_upload": ended.durations}


async def test_jobs_that_never_started_have_no_duration(jobs: JobRepository) -> None:
    (job,) = await queued_jobs(jobs)
    await jobs.cancel([job.id])

    (ended,) = await jobs.ended_jobs()

    assert (ended.counts, ended.durations) == ({"document_upload": {JobStatus.CANCELLED: 1}}, None)
    assert ended.failure_rate is None


async def test_windows_are_whole_hours_and_leave_nothing_out(session: AsyncSession, jobs: JobRepository) -> None:
    await _fill(session)

    windows = await jobs.ended_jobs(timedelta(hours=5), window=timedelta(hours=2))

    # Hours 5 and 4 before this one, hours 3 and 2, hour 1 and this one.
    assert [sum(sum(of.values()) for of in window.counts.values()) for window in windows] == [3, 7, 0]
    assert [window.since.minute for window in windows] == [0, 0, 0]
    assert all(one.until == after.since for one, after in itertools.pairwise(windows))


@pytest.mark.parametrize(
    ("period", "window"),
    [
        (timedelta(0), None),
        (timedelta(days=367), None),
        (timedelta(days=1), timedelta(minutes=30)),
        (timedelta(days=60), timedelta(hours=1)),
    ],
)
async def test_periods_and_windows_have_bounds(
    jobs: JobRepository, period: timedelta, window: timedelta | None
) -> None:
    with pytest.raises(ValueError, match="must be"):
        await jobs.ended_jobs(period, window=window)


async def test_the_roll_up_changes_no_figure_and_does_nothing_twice(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    await _fill(session)
    before = [_figures(window) for window in await jobs.ended_jobs(timedelta(days=2), window=timedelta(hours=1))]
    statements.clear()

    written = await jobs.roll_up()

    assert len(statements) == 1
    assert written > 0
    assert await jobs.roll_up() == 0
    after = [_figures(window) for window in await jobs.ended_jobs(timedelta(days=2), window=timedelta(hours=1))]
    assert after == before


async def test_counts_of_closed_hours_outlive_their_jobs(session: AsyncSession, jobs: JobRepository) -> None:
    await _fill(session)
    before = _figures((await jobs.ended_jobs(timedelta(days=2)))[0])
    await jobs.roll_up()

    assert await jobs.cleanup_old_jobs(0) == 15

    assert _figures((await jobs.ended_jobs(timedelta(days=2)))[0]) == before
    assert await jobs.roll_up() == 0


async def test_an_hour_is_written_once(session: AsyncSession, jobs: JobRepository) -> None:
    """What a later look would find there is less (jobs were deleted) or counted elsewhere (jobs were retried)."""
    await _fill(session)
    await jobs.roll_up()
    await _ended(session, 4, [3.0], type="late")

    assert await jobs.roll_up() == 0


async def test_what_ends_after_the_roll_up_is_counted_from_the_rows(session: AsyncSession, jobs: JobRepository) -> None:
    await _fill(session)
    await jobs.roll_up()
    await job_in(jobs, JobStatus.COMPLETED)

    (ended,) = await jobs.ended_jobs(timedelta(days=2))

    assert ended.counts["document_upload"][JobStatus.COMPLETED] == 3 + 1 + 5 + 1


async def test_hours_are_rolled_up_as_far_as_asked_and_never_the_open_one(
    session: AsyncSession, jobs: JobRepository
) -> None:
    await _fill(session)
    await job_in(jobs, JobStatus.COMPLETED)
    now = datetime.now(UTC)
    newest = text("SELECT max(hour) FROM statistics")

    await jobs.roll_up(now - timedelta(hours=3))
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    assert await session.scalar(newest) == this_hour - timedelta(hours=3)
    await jobs.roll_up(now + timedelta(days=1))

    assert await session.scalar(newest) < this_hour
    with pytest.raises(ValueError, match="has no time zone"):
        await jobs.roll_up(datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


async def test_workers_that_roll_up_at_once_count_nothing_twice(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        await _fill(session)

    async def roll_up(_: int) -> int:
        async with database.get_transaction() as session:
            return await JobRepository(session).roll_up()

    for _ in range(2):  # the hours, then the days
        await asyncio.gather(*map(roll_up, range(6)))

    days = """
        SELECT (SELECT sum(completed + failed) FROM statistics_days) = (
            SELECT sum(completed + failed) FROM statistics
            WHERE hour < (SELECT max(day) + interval '24 hours' FROM statistics_days)
        )
    """
    async with database.get_session() as session:
        (ended,) = await JobRepository(session).ended_jobs(timedelta(days=2))
        assert await session.scalar(text(days))
        assert (await JobRepository(session).get_job_statistics())["total_jobs"] == 15
    assert sum(sum(of.values()) for of in ended.counts.values()) == 15


async def _fill_days(session: AsyncSession) -> None:
    """What ended in the last five days, in three hours of each: two types, three states, a few never started."""
    for hours in range(2, 122, 8):
        await _ended(session, hours, [1.0 + hours, 40.0, 40.0])
        await _ended(session, hours, [3.0 * hours], status="failed", workspace_id="b")
        await _ended(session, hours, [90.0, 400.0], type="question_processing", workspace_id=None)
    await _ended(session, 60, [5.0, 5.0], status="cancelled", type="question_processing")
    never = (
        "UPDATE jobs SET started_at = NULL WHERE status = 'cancelled' OR completed_at < now() - interval '110 hours'"
    )
    await session.execute(text(never))


def _close(figures: dict[str, Any]) -> dict[str, Any]:
    """The same figures, means to six digits: sums of fractions depend on their order."""
    for durations in (figures["durations"], *figures["durations_by_type"].values()):
        if durations is not None:
            durations["mean"] = pytest.approx(durations["mean"])
    return figures


WINDOWS = [None, *(timedelta(hours=hours) for hours in (1, 24, 31, 48, 72))]


@pytest.mark.parametrize("workspace_id", [None, "a", "b", "nobody"])
async def test_days_change_no_figure_of_any_window(
    session: AsyncSession, jobs: JobRepository, statements: list[str], workspace_id: str | None
) -> None:
    await _fill_days(session)
    period = timedelta(days=5, hours=3)
    expected = [[_figures(one) for one in await jobs.ended_jobs(period, workspace_id, window)] for window in WINDOWS]

    for _ in range(3):  # the hours, the days that they closed, and nothing more
        await jobs.roll_up()
    assert await session.scalar(text("SELECT count(DISTINCT day) FROM statistics_days WHERE scope = 'all'")) >= 4

    for window, before in zip(WINDOWS, expected, strict=True):
        statements.clear()
        after = [_figures(one) for one in await jobs.ended_jobs(period, workspace_id, window)]
        assert len(statements) == 1
        assert after == [_close(figures) for figures in before], window


HOURS_OF_DAYS = """
DELETE FROM statistics AS hours USING statistics_days AS days
WHERE hour >= day AND hour < day + interval '24 hours' AND hour < (SELECT max(hour) FROM statistics)
  AND day > (SELECT min(day) FROM statistics_days)
"""


async def test_a_day_stands_for_its_hours_where_all_of_it_is_in_one_window(
    session: AsyncSession, jobs: JobRepository
) -> None:
    await _fill_days(session)
    await jobs.roll_up()
    await jobs.roll_up()
    period = timedelta(days=5, hours=3)
    before = {window: [_figures(one) for one in await jobs.ended_jobs(period, window=window)] for window in WINDOWS}

    # But for the newest, which says where the rows take over, and those of the day in which the period may begin.
    await session.execute(text(HOURS_OF_DAYS))

    (whole,) = await jobs.ended_jobs(period)
    assert _figures(whole) == _close(before[None][0])
    by_hour = [one.counts for one in await jobs.ended_jobs(period, window=timedelta(hours=1))]
    assert sum(map(bool, by_hour)) < sum(bool(figures["counts"]) for figures in before[timedelta(hours=1)])


async def test_a_day_is_written_when_all_its_hours_are_and_only_once(
    session: AsyncSession, jobs: JobRepository
) -> None:
    await _fill_days(session)
    now = datetime.now(UTC)
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=2)
    days = text("SELECT DISTINCT day FROM statistics_days ORDER BY day")

    await jobs.roll_up(noon)
    await jobs.roll_up(noon)
    written = list(await session.scalars(days))
    assert written[-1] == noon.replace(hour=0) - timedelta(days=1)
    await session.execute(text("UPDATE statistics SET completed = completed + 1000 WHERE completed > 0"))
    await session.execute(text("DELETE FROM statistics_days WHERE day = :first"), {"first": written[0]})
    for _ in range(3):
        await jobs.roll_up()

    later = list(await session.scalars(days))
    assert later[: len(written) - 1] == written[1:]  # nor is the first looked for again
    assert noon.replace(hour=0) in later
    untouched = text("SELECT max(completed) FROM statistics_days WHERE day <= :last")
    assert await session.scalar(untouched, {"last": written[-1]}) < 1_000


async def test_what_is_under_way_is_counted_and_the_oldest_wait_told(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    old, _ = await queued_jobs(jobs, 2, workspace_id="a")
    await queued_jobs(jobs, workspace_id="b", type="question_processing")
    await running_jobs(jobs, 3, workspace_id="a")
    await job_in(jobs, JobStatus.PENDING)
    await job_in(jobs, JobStatus.FAILED)
    earlier = "UPDATE jobs SET queued_at = queued_at - interval '90 seconds' WHERE id = :id"
    await session.execute(text(earlier), {"id": old.id})
    statements.clear()

    every = await jobs.live_jobs()

    assert len(statements) == 1
    assert every.counts == {
        "document_upload": {JobStatus.PENDING: 1, JobStatus.QUEUED: 2, JobStatus.PROCESSING: 3},
        "question_processing": {JobStatus.QUEUED: 1},
    }
    assert every.oldest_waiting_seconds == pytest.approx(90, abs=30)
    alone = await jobs.live_jobs("b")
    assert alone.counts == {"question_processing": {JobStatus.QUEUED: 1}}
    assert alone.oldest_waiting_seconds is not None
    assert alone.oldest_waiting_seconds < 60


async def _backdate(session: AsyncSession, hours: int) -> None:
    """Let every job have been created so many hours before it ended."""
    await session.execute(
        text("UPDATE jobs SET created_at = completed_at - :hours * interval '1 hour'"), {"hours": hours}
    )


@pytest.mark.parametrize("workspace_id", [None, "a", "b", "nobody"])
async def test_the_roll_up_changes_no_count_of_created_jobs(
    session: AsyncSession, jobs: JobRepository, workspace_id: str | None
) -> None:
    await _fill(session)
    await _backdate(session, 3)
    await running_jobs(jobs, 2, workspace_id="a")
    (waiting,) = await queued_jobs(jobs, workspace_id="b")
    await jobs.cancel([waiting.id])
    before = await jobs.get_job_statistics(workspace_id)

    assert await jobs.roll_up() > 0

    after = await jobs.get_job_statistics(workspace_id)
    assert after == before | {"average_processing_time_seconds": after["average_processing_time_seconds"]}
    assert after["average_processing_time_seconds"] == pytest.approx(before["average_processing_time_seconds"])
    total = {None: 15 + 3, "a": 3 + 4 + 5 + 2, "b": 2 + 1, "nobody": 0}[workspace_id]
    assert (before["total_jobs"], sum(before["type_counts"].values())) == (total, total)


async def test_created_jobs_are_counted_by_when_they_were_created(session: AsyncSession, jobs: JobRepository) -> None:
    await _fill(session)
    await _backdate(session, 24 * 10 - 3)  # those that ended two and three hours ago: within ten days; the others not
    expected = {"completed": 3, "failed": 4}

    for _ in range(2):
        counts = (await jobs.get_job_statistics(days=10))["status_counts"]
        assert {status: count for status, count in counts.items() if count} == expected
        await jobs.roll_up()
    assert (await jobs.get_job_statistics(days=20))["total_jobs"] == 15


async def test_counts_of_created_jobs_grow_as_jobs_end_and_outlive_them(
    session: AsyncSession, jobs: JobRepository
) -> None:
    await _ended(session, 4, [1.0] * 3)
    await _ended(session, 2, [1.0] * 2)
    await session.execute(text("UPDATE jobs SET created_at = clock_timestamp() - interval '9 hours'"))
    now = datetime.now(UTC)

    for hours, rolled_up in ((3, 3), (0, 5)):
        await jobs.roll_up(now - timedelta(hours=hours))
        created = text("SELECT sum(completed) FROM statistics_created WHERE scope = 'all'")
        assert await session.scalar(created) == rolled_up
        assert (await jobs.get_job_statistics("a"))["total_jobs"] == 5
    await jobs.cleanup_old_jobs(0)

    assert (await jobs.get_job_statistics())["status_counts"]["completed"] == 5


async def test_a_roll_up_after_a_long_pause_goes_on_week_by_week(session: AsyncSession, jobs: JobRepository) -> None:
    for days in (30, 20, 10):
        await _ended(session, 24 * days, [1.0])
    await session.execute(text("UPDATE jobs SET workspace_id = NULL"))

    assert [await jobs.roll_up() for _ in range(4)] == [1, 1, 1, 0]


@pytest.mark.parametrize("days", [0, 3_661])
async def test_the_days_of_statistics_have_bounds(jobs: JobRepository, days: int) -> None:
    with pytest.raises(ValueError, match="days must be 1 to 3660"):
        await jobs.get_job_statistics(days=days)


async def test_statistics_of_created_jobs_are_one_statement(jobs: JobRepository, statements: list[str]) -> None:
    await queued_jobs(jobs, workspace_id="a")
    await queued_jobs(jobs, 2, workspace_id="b")
    statements.clear()

    assert (await jobs.get_job_statistics("b"))["total_jobs"] == 2
    assert len(statements) == 1


async def test_workspaces_are_summed_up_the_busiest_first(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    await _ended(session, 1, [1.0] * 3, status="failed", workspace_id="busy")
    (waiting,) = await queued_jobs(jobs, workspace_id="busy")
    await queued_jobs(jobs, 2, workspace_id="calm")
    await queued_jobs(jobs)
    statements.clear()

    busy, calm = await jobs.workspace_summaries()

    assert len(statements) == 1
    assert (busy.workspace_id, busy.jobs, calm.workspace_id, calm.jobs) == ("busy", 4, "calm", 2)
    assert (busy.status_counts[JobStatus.FAILED], busy.status_counts[JobStatus.COMPLETED]) == (3, 0)
    assert busy.oldest_queued_at == waiting.queued_at
    assert calm.last_finished_at is None
    assert [one.workspace_id for one in await jobs.workspace_summaries(["calm", "none"])] == ["calm"]
    assert [one.workspace_id for one in await jobs.workspace_summaries(limit=1)] == ["busy"]
    with pytest.raises(ValueError, match="limit must be"):
        await jobs.workspace_summaries(limit=0)
