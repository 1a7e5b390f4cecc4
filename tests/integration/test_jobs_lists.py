"""Lists of jobs: every filter, every order, pages by number and by cursor; the history of one job."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from repositories.errors import InvalidCursorError, NotFoundError
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import Finish, JobFilters, JobSort, NewItem, PaginationParams
from repositories.states import JobStatus
from tests.factories import ERROR, LEASE, expire_lease, held, job_in, new_job, queued_jobs, running_jobs

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def _date(session: AsyncSession, job: Job, **columns: datetime) -> None:
    names = ", ".join(f"{name} = :{name}" for name in columns)
    await session.execute(text(f"UPDATE jobs SET {names} WHERE id = :id"), columns | {"id": job.id})  # noqa: S608 - the test's own names


@pytest.fixture
async def mixed(session: AsyncSession, jobs: JobRepository) -> dict[str, Job]:
    """A job of each kind that a filter can tell apart."""
    made = {status.value: await job_in(jobs, status) for status in JobStatus}
    (made["asked"],) = await queued_jobs(jobs, type="question_processing", workspace_id="a", metadata={"x": {"y": [1]}})
    (made["old"],) = await queued_jobs(jobs, workspace_id="b")
    await _date(session, made["old"], created_at=LONG_AGO)
    await _date(session, made["completed"], completed_at=LONG_AGO)
    await session.execute(text("UPDATE jobs SET queue = 'side' WHERE id = :id"), {"id": made["old"].id})
    return made


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"status": "failed"}, {"failed"}),
        ({"status": ["failed", "cancelled"]}, {"failed", "cancelled"}),
        ({"status": []}, set()),
        ({"type": "question_processing"}, {"asked"}),
        ({"type": ["question_processing", "other"]}, {"asked"}),
        ({"workspace_id": "a"}, {"asked"}),
        ({"workspace_id": ["a", "b"]}, {"asked", "old"}),
        ({"queue": "side"}, {"old"}),
        ({"worker_id": "worker-1"}, {"processing", "completed", "failed", "cancelled"}),
        ({"created_before": LONG_AGO + timedelta(days=1)}, {"old"}),
        ({"created_after": LONG_AGO, "created_before": LONG_AGO}, set()),
        ({"created_after": LONG_AGO, "workspace_id": "b"}, {"old"}),
        ({"finished_before": datetime(2020, 1, 2)}, {"completed"}),  # noqa: DTZ001 - a time without a zone is UTC
        ({"finished_after": LONG_AGO + timedelta(days=1)}, {"failed", "cancelled"}),
        ({"metadata": {"x": {"y": [1]}}}, {"asked"}),
        ({"metadata": {"x": {"y": [2]}}}, set()),
        ({"error_contains": "It BROKE"}, {"failed"}),
    ],
)
async def test_each_filter_finds_its_jobs_and_no_others(
    jobs: JobRepository, mixed: dict[str, Job], filters: dict[str, Any], names: set[str]
) -> None:
    found, total = await jobs.list_jobs_with_filters(JobFilters(**filters), PaginationParams())

    assert {job.id for job in found} == {mixed[name].id for name in names}
    assert total == len(names)


@pytest.mark.parametrize("filters", [{"status": "lost"}, {"owner": "me"}, {"error_contains": "\x00"}])
async def test_a_filter_that_cannot_be_is_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobFilters(**filters)


@pytest.mark.parametrize("sort", JobSort)
async def test_pages_by_cursor_are_the_whole_list_in_its_order(jobs: JobRepository, sort: JobSort) -> None:
    running = await running_jobs(jobs, 11)
    await jobs.finish([Finish(job, JobStatus.COMPLETED) for job in held(*running[:7])])
    every, total = await jobs.list_jobs_with_filters(JobFilters(), PaginationParams(size=100), sort=sort)
    assert total == (11 if sort in {JobSort.NEWEST, JobSort.OLDEST} else 7)

    pages, cursor = [], None
    while True:
        page, cursor = await jobs.list_jobs_after(JobFilters(), cursor, 3, sort=sort)
        pages.append([job.id for job in page])
        if cursor is None:
            break

    assert [job_id for page in pages for job_id in page] == [job.id for job in every]
    assert {len(page) for page in pages[:-1]} == {3}
    times = [job.completed_at if "finished" in sort else job.created_at for job in every]
    assert times == sorted(times, reverse=sort in {JobSort.NEWEST, JobSort.LAST_FINISHED})  # type: ignore[type-var]  # none is None


async def test_jobs_written_meanwhile_move_nothing_to_another_page(jobs: JobRepository) -> None:
    before = await queued_jobs(jobs, 6)
    first, cursor = await jobs.list_jobs_after(JobFilters(), size=3)

    await queued_jobs(jobs, 4)
    await jobs.bulk_delete([first[-1].id])  # the very job that the cursor names
    second, end = await jobs.list_jobs_after(JobFilters(), cursor, 3)

    shown = [job.id for job in [*first, *second]]
    assert sorted(shown) == sorted(job.id for job in before)
    assert end is None


async def test_jobs_of_the_same_moment_are_told_apart_by_id(session: AsyncSession, jobs: JobRepository) -> None:
    same = await queued_jobs(jobs, 5)
    for job in same:
        await _date(session, job, created_at=LONG_AGO)

    first, cursor = await jobs.list_jobs_after(JobFilters(), size=2)
    second, cursor = await jobs.list_jobs_after(JobFilters(), cursor, 2)
    third, _ = await jobs.list_jobs_after(JobFilters(), cursor, 2)

    assert [job.id for job in [*first, *second, *third]] == sorted((job.id for job in same), reverse=True)


async def test_a_cursor_of_another_order_is_refused(jobs: JobRepository) -> None:
    await queued_jobs(jobs, 2)
    _, cursor = await jobs.list_jobs_after(JobFilters(), size=1)

    for wrong, sort in ((cursor, JobSort.OLDEST), ("!", JobSort.NEWEST)):
        with pytest.raises(InvalidCursorError, match="begin again without one"):
            await jobs.list_jobs_after(JobFilters(), wrong, sort=sort)


async def test_a_page_is_one_statement_and_its_items_one_more(jobs: JobRepository, statements: list[str]) -> None:
    running = await running_jobs(jobs, 5)
    for job in held(*running):
        await ItemRepository(jobs.session).expand(job, [NewItem(position=n, key=str(n), spec={}) for n in (0, 1)])
    statements.clear()

    await jobs.list_jobs_after(JobFilters(), size=5)
    assert len(statements) == 1
    page, _ = await jobs.list_jobs_after(JobFilters(), size=5, load_relationships=True)

    assert len(statements) == 3
    assert [[item.position for item in job.items] for job in page] == [[0, 1]] * 5
    statements.clear()
    found = await jobs.get_job_with_results(running[0].id)
    assert found is not None
    assert [item.key for item in found.items] == ["0", "1"]
    assert len(statements) == 2


async def test_active_jobs_are_the_oldest_up_to_a_limit(session: AsyncSession, jobs: JobRepository) -> None:
    first, second, other = await queued_jobs(jobs, 3)
    await running_jobs(jobs, type="question_processing")
    await job_in(jobs, JobStatus.FAILED)
    for job, hours in ((second, 3), (first, 2), (other, 1)):
        await _date(session, job, created_at=job.created_at - timedelta(hours=hours))

    assert [job.id for job in await jobs.get_active_jobs(limit=2)] == [second.id, first.id]
    assert len(await jobs.get_active_jobs()) == 4
    assert len(await jobs.get_active_jobs("question_processing")) == 1
    for limit in (0, 10_001):
        with pytest.raises(ValueError, match="limit must be 1 to 10000"):
            await jobs.get_active_jobs(limit=limit)


async def test_the_history_tells_attempts_errors_and_the_end(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    (job,) = await running_jobs(jobs)
    await jobs.put_back(held(job), timedelta(microseconds=1), ERROR)
    await jobs.take_due()
    (job,) = await jobs.claim([job.id], "worker-2", LEASE)
    await expire_lease(session, job.id)
    await jobs.rescue()
    (job,) = await jobs.claim([job.id], "worker-3", LEASE)
    await jobs.cancel([job.id], "enough")
    await jobs.finish([Finish(held(job)[0], JobStatus.CANCELLED)])
    statements.clear()

    history = await jobs.get_job_history(str(job.id))

    assert len(statements) == 1
    assert (history.attempts, history.failures, history.crashes) == (3, 1, 0)
    assert [(error.attempt, error.code) for error in history.errors] == [
        (1, "broken"),
        (2, "worker_lost"),
        (3, "cancelled"),
    ]
    assert [(event.event, event.attempt, event.text) for event in history.timeline] == [
        ("created", None, None),
        ("error", 1, "broken: it broke"),
        ("error", 2, "worker_lost: attempt 2 ended without a word: its lease ran out (worker-2)"),
        ("queued", None, None),
        ("started", 3, "worker-3"),
        ("cancel_requested", None, "enough"),
        ("error", 3, "cancelled: Job cancelled: enough"),
        ("ended", 3, "cancelled"),
    ]


async def test_a_job_that_was_written_as_failed_has_a_history(jobs: JobRepository) -> None:
    lost = await job_in(jobs, JobStatus.FAILED)
    (child,) = await jobs.create_many([new_job(depends_on=[lost.id])])

    history = await jobs.get_job_history(child.id)

    assert [event.event for event in history.timeline] == ["created", "error", "ended"]
    assert history.errors[0].code == "parent_failed"


@pytest.mark.parametrize("job_id", ["nonsense", uuid7()])
async def test_an_unknown_job_has_no_history(jobs: JobRepository, job_id: UUID | str) -> None:
    with pytest.raises(NotFoundError):
        await jobs.get_job_history(job_id)
