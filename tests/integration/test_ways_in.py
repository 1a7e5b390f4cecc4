"""However a job is written, reported on or asked for, the same value has the same fate, and no error holds SQL."""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import inspect

from repositories.database import DatabaseManager
from repositories.errors import InvalidFilterError, InvalidValueError
from repositories.jobs import JobRepository
from repositories.models import Job, JobItem
from repositories.schemas import ItemOutcome, JobError, JobFilters, NewJob, PaginationParams
from repositories.states import ItemStatus, JobStatus
from tests.waiting import until
from tests.workshop import doing, working
from tests.workshop import jobs as jobs_of
from worker.client import JobClient
from worker.errors import JobFailedError
from worker.run import Run, Runtime

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOSTILE = {
    "nul": "a\x00b",
    "half": "\ud83d",
    "nan": math.nan,
    "infinity": [math.inf, -math.inf],
    "time": NOON,
    "naive": NOON.replace(tzinfo=None),
    "id": UUID(int=7),
    "decimal": Decimal("1.5"),
    "set": {1},
    "big": 2**70,
}
RECORDED = {
    "nul": "a\ufffdb",
    "half": "\ufffd",
    "nan": "NaN",
    "infinity": ["Infinity", "-Infinity"],
    "time": "2030-01-01T12:00:00+00:00",
    "naive": "2030-01-01T12:00:00+00:00",
    "id": str(UUID(int=7)),
    "decimal": "1.5",
    "set": [1],
    "big": 2**70,
}

Write = Callable[[DatabaseManager, JobClient, dict[str, Any]], Awaitable[Job]]


async def _create(database: DatabaseManager, _: JobClient, fields: dict[str, Any]) -> Job:
    async with database.get_transaction() as session:
        return await JobRepository(session).create_job("x", **fields)


async def _with_key(database: DatabaseManager, _: JobClient, fields: dict[str, Any]) -> Job:
    async with database.get_transaction() as session:
        return await JobRepository(session).create_job("x", idempotency_key=str(uuid4()), **fields)


async def _many(database: DatabaseManager, _: JobClient, fields: dict[str, Any]) -> Job:
    async with database.get_transaction() as session:
        (job,) = await JobRepository(session).create_many([NewJob(type="x", **fields)])
    return job


async def _enqueue_many(_: DatabaseManager, client: JobClient, fields: dict[str, Any]) -> Job:
    (job_id,) = await client.enqueue_many([NewJob(type="x", **fields)])
    return await client.status(job_id)


async def _in_a_session(database: DatabaseManager, client: JobClient, fields: dict[str, Any]) -> Job:
    async with database.get_transaction() as session:
        (job_id,) = await client.enqueue_many([NewJob(type="x", **fields)], session=session)
    return await client.status(job_id)


WAYS: list[Write] = [_create, _with_key, _many, _enqueue_many, _in_a_session]


@pytest.mark.parametrize("write", WAYS)
async def test_every_way_records_the_same_values(database: DatabaseManager, client: JobClient, write: Write) -> None:
    job = await write(database, client, {"metadata": HOSTILE, "payload": HOSTILE, "scheduled_at": NOON})

    async with database.get_session() as session:
        found = await JobRepository(session).get_by_id_or_raise(job.id)
    assert (found.job_metadata, found.payload, found.scheduled_at) == (RECORDED, RECORDED, NOON)


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (NOON.replace(tzinfo=None), NOON),
        (NOON.astimezone(timezone(timedelta(hours=-9))), NOON),
        (datetime(2, 1, 1, tzinfo=UTC), datetime(2, 1, 1, tzinfo=UTC)),
        (datetime(9998, 12, 31, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)),
    ],
)
async def test_every_way_reads_a_time_alike(
    database: DatabaseManager, client: JobClient, write: Write, given: datetime, expected: datetime
) -> None:
    job = await write(database, client, {"payload": {}, "scheduled_at": given})

    assert (job.scheduled_at, job.is_parked) == (expected, False)


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheduled_at", datetime.max),  # noqa: DTZ901
        ("scheduled_at", datetime.min),  # noqa: DTZ901
        ("scheduled_at", datetime.min.replace(tzinfo=UTC)),
        ("scheduled_at", datetime.max.replace(tzinfo=UTC)),
        ("scheduled_at", datetime(9999, 1, 1, tzinfo=UTC)),
        ("scheduled_at", datetime(9998, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))),
        ("scheduled_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))),
        ("timeout_seconds", 2**40),
        ("timeout_seconds", math.nan),
        ("priority", 10),
        ("max_attempts", 0),
        ("metadata", {"x": b"bytes"}),
        ("payload", {"x": object()}),
        ("payload", [1]),
        ("workspace_id", "a\x00b"),
        ("workspace_id", "\ud83d"),
        ("queue", "a b"),
    ],
)
async def test_every_way_refuses_alike(
    database: DatabaseManager, client: JobClient, write: Write, field: str, value: Any
) -> None:
    with pytest.raises(ValidationError, match=field):
        await write(database, client, {"payload": {}} | {field: value})

    async with database.get_session() as session:
        assert await JobRepository(session).count() == 0


@pytest.mark.parametrize("text", ["bad record: \x00\x01PK", "cut \ud83d", "x" * 100_000])
async def test_what_an_error_or_a_reason_says_never_keeps_it_from_the_record(
    database: DatabaseManager, client: JobClient, text: str
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        reported, cancelled = await jobs.create_job("x"), await jobs.create_job("x", payload={})
        await jobs.update_job_status(reported.id, JobStatus.PROCESSING)
    async with database.get_transaction() as session:
        failed = await JobRepository(session).update_job_status(reported.id, JobStatus.FAILED, error=text)
    outcome = await client.cancel([cancelled.id], text)

    assert (failed.status, outcome.moved) == (JobStatus.FAILED, {cancelled.id: JobStatus.CANCELLED})
    said = str(failed.error)
    assert said[:3] == text[:3]
    assert len(said) <= 4_000


async def test_a_report_is_recorded_like_a_new_job(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        job = await jobs.create_job("x")
        await jobs.update_job_status(job.id, JobStatus.PROCESSING, metadata=HOSTILE)
        done = await jobs.update_job_status(job.id, JobStatus.COMPLETED, result=HOSTILE)

    assert (done.job_metadata, done.result) == (RECORDED, RECORDED)


@pytest.mark.parametrize("progress", [True, math.nan, "50", None])
async def test_progress_is_a_number_or_refused(jobs: JobRepository, progress: Any) -> None:
    job = await jobs.create_job("x")
    if progress is None:
        await jobs.update_job_status(job.id, JobStatus.PROCESSING, progress=progress)
    else:
        with pytest.raises(InvalidValueError, match="progress"):
            await jobs.update_job_status(job.id, JobStatus.PROCESSING, progress=progress)


@pytest.mark.parametrize("progress", [-math.inf, -1, 50, 2**70, math.inf])
async def test_progress_outside_its_range_is_clamped(jobs: JobRepository, progress: float) -> None:
    job = await jobs.create_job("x")

    after = await jobs.update_job_status(job.id, JobStatus.PROCESSING, progress=progress)

    assert after.progress == min(max(progress, 0), 100)


async def test_metadata_of_any_kind_can_be_looked_for(jobs: JobRepository) -> None:
    job = await jobs.create_job("x", metadata=HOSTILE)

    found, total = await jobs.list_jobs_with_filters(JobFilters(metadata=HOSTILE), PaginationParams())

    assert ([one.id for one in found], total) == ([job.id], 1)


OPERATORS = ("eq", "ne", "lt", "ge", "between", "in", "ilike", "is_null", "contains", "nonsense")
VALUES: list[Any] = [
    "x",
    "a\x00b",
    "\ud83d",
    1,
    2**70,
    1.5,
    math.nan,
    True,
    None,
    NOON,
    UUID(int=7),
    Decimal("1.5"),
    b"bytes",
    [],
    ["x", None],
    [1, 2],
    {},
    {"x": [1]},
    {"x": NOON},
    {1},
    object(),
]


@pytest.mark.parametrize("column", [column.name for column in inspect(Job).columns])
async def test_a_filter_answers_or_is_refused_by_our_error(jobs: JobRepository, column: str) -> None:
    for filters in [*VALUES, *({operator: value} for operator in OPERATORS for value in VALUES)]:
        with suppress(InvalidFilterError):
            await jobs.count({column: filters})


async def test_a_filter_of_json_finds_what_contains_a_text(jobs: JobRepository) -> None:
    await jobs.create_job("x", metadata={"tags": ["a"]})

    assert await jobs.count({"metadata": {"contains": {"tags": ["a"]}}}) == 1
    assert await jobs.count({"metadata": {"contains": "x"}}) == 0
    assert await jobs.count({"errors": {"contains": "x"}}) == 0


async def test_one_result_that_cannot_be_recorded_fails_its_item_alone(
    client: JobClient, shop: Runtime, database: DatabaseManager
) -> None:
    asked: list[int] = []
    results: dict[int, Any] = {3: {"score": math.nan, "text": "\x00"}, 5: {"text": object()}}

    async def ask(item: JobItem) -> ItemOutcome:
        asked.append(item.position)
        result = results.get(item.position, {"answer": 42})
        return ItemOutcome(position=item.position, status=ItemStatus.DONE, result=result)

    shop.tasks = {"questions": doing(9, ask)}
    (job_id,) = await client.enqueue_many(jobs_of("questions"))
    async with working(shop):
        (job,) = await client.wait([job_id], timeout_seconds=20)
    items = await client.items(job_id)

    assert (job.status, job.attempt, job.items_done, job.items_failed) == (JobStatus.COMPLETED, 1, 8, 1)
    assert sorted(asked) == list(range(9))
    assert items[3].result == {"score": "NaN", "text": "\ufffd"}
    assert items[5].error_code == "result_not_recordable"


async def test_no_error_on_the_record_shows_a_secret(client: JobClient, shop: Runtime) -> None:
    said = "401: {'Authorization': 'Bearer hunter2'} at //me:hunter2@h, password=hunter2"

    async def ask(item: JobItem) -> ItemOutcome:
        error = JobError(code="refused", message=said)
        return ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=error)

    async def crash(run: Run) -> dict[str, Any]:
        raise RuntimeError(said)

    async def fail(run: Run) -> dict[str, Any]:
        raise JobFailedError("refused", said)

    shop.tasks = {"items": doing(1, ask), "crashes": crash, "fails": fail}
    ids = await client.enqueue_many(
        [*jobs_of("items"), *jobs_of("crashes", max_attempts=2), *jobs_of("crashes", max_attempts=1), *jobs_of("fails")]
    )
    async with working(shop):
        ended = await client.wait([ids[0], *ids[2:]], timeout_seconds=20)
        await until(lambda: _has_an_error(client, ids[1]))
    (item,) = await client.items(ids[0])

    errors = [error for job in [*ended, await client.status(ids[1])] for error in job.errors]
    assert len(errors) == 3
    assert "hunter2" not in f"{errors} {item.error}"
    assert "//***@h" in str(item.error)


async def _has_an_error(client: JobClient, job_id: UUID) -> bool:
    return bool((await client.status(job_id)).errors)
