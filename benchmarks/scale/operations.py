"""What is measured: the reads, each as a service or an operator would call it, and the life of five hundred jobs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from benchmarks.scale.filling import DAYS, RARE_TYPE
from benchmarks.scale.measuring import WARM_UP, Call, Timing, explained, noted, summed_up
from repositories.database import DatabaseManager
from repositories.jobs import ClaimedJob, JobRepository
from repositories.schemas import Finish, Held, JobError, JobFilters, JobSort, NewJob, PaginationParams
from repositories.states import JobStatus

BATCH = 500
LEASE = timedelta(days=7)
WORKSPACE = "workspace-25"
FIRST_IN_LINE = """
SELECT id FROM jobs WHERE status = 'queued' AND scheduled_at IS NULL AND queue = 'default'
ORDER BY queue, priority, queued_at, id LIMIT :count
"""
LAST_IN_LINE = """
SELECT id FROM jobs WHERE status = 'queued' AND scheduled_at IS NULL AND queue = 'default'
ORDER BY queue DESC, priority DESC, queued_at DESC, id DESC LIMIT :count
"""
SOME = (
    "SELECT id FROM (SELECT id FROM jobs ORDER BY created_at DESC LIMIT 5000) AS newest ORDER BY id::text LIMIT :count"
)


class Sample(NamedTuple):
    """Jobs and places to ask for, found before the clock runs."""

    front: list[UUID]
    back: list[UUID]
    watched: list[UUID]
    deep: str

    @classmethod
    async def of(cls, database: DatabaseManager) -> "Sample":
        """Look them up: fifty jobs at either end of the queue, a hundred newest ones, a cursor half-way back."""
        async with database.get_session() as session:

            async def ids(query: str, count: int) -> list[UUID]:
                return list(await session.scalars(text(query), {"count": count}))

            half = datetime.now(UTC) - timedelta(days=DAYS / 2)
            page = await JobRepository(session).list_jobs_after(JobFilters(created_before=half), size=20)
            if page.next_cursor is None:
                raise RuntimeError("there is no second page half-way back: fill more rows")
            return cls(
                await ids(FIRST_IN_LINE, 50), await ids(LAST_IN_LINE, 50), await ids(SOME, 100), page.next_cursor
            )


def _page(sort: JobSort = JobSort.NEWEST, cursor: str | None = None, **filters: Any) -> Call:
    return lambda jobs: jobs.list_jobs_after(JobFilters(**filters), cursor, 20, sort=sort)


def reads(sample: Sample) -> dict[str, Call]:
    """The operations that change nothing, by name."""
    live = [JobStatus.PENDING, JobStatus.QUEUED, JobStatus.PROCESSING]
    return {
        "page: newest": _page(),
        "page: of a workspace": _page(workspace_id=WORKSPACE),
        "page: queued": _page(status="queued"),
        "page: completed": _page(status="completed"),
        "page: cancelled": _page(status="cancelled"),
        "page: of a workspace, failed": _page(workspace_id=WORKSPACE, status="failed"),
        "page: of a workspace, cancelled": _page(workspace_id=WORKSPACE, status="cancelled"),
        "page: of a workspace, live": _page(workspace_id=WORKSPACE, status=live),
        "page: of an unknown workspace": _page(workspace_id="nobody"),
        "page: of a type": _page(type="question_processing"),
        "page: of a rare type": _page(type=RARE_TYPE),
        "page: of an unknown type": _page(type="nothing"),
        "page: last finished": _page(JobSort.LAST_FINISHED),
        "page: by cursor, half-way back": _page(cursor=sample.deep),
        "get_active_jobs (1,000)": lambda jobs: jobs.get_active_jobs(),
        "get_job_statistics, 30 days": lambda jobs: jobs.get_job_statistics(),
        "get_job_statistics, a workspace": lambda jobs: jobs.get_job_statistics(WORKSPACE),
        "live_jobs": lambda jobs: jobs.live_jobs(),
        "live_jobs, a workspace": lambda jobs: jobs.live_jobs(WORKSPACE),
        "ended_jobs, a day": lambda jobs: jobs.ended_jobs(),
        "ended_jobs, a workspace's day": lambda jobs: jobs.ended_jobs(workspace_id=WORKSPACE),
        "ended_jobs, 30 days": lambda jobs: jobs.ended_jobs(timedelta(days=30)),
        "queue_positions of 1, front": lambda jobs: jobs.queue_positions(sample.front[:1]),
        "queue_positions of 50, front": lambda jobs: jobs.queue_positions(sample.front),
        "queue_positions of 1, end": lambda jobs: jobs.queue_positions(sample.back[:1]),
        "queue_positions of 50, end": lambda jobs: jobs.queue_positions(sample.back),
        "estimate_waits of 50, front": lambda jobs: jobs.estimate_waits(sample.front),
        "snapshot of 100": lambda jobs: jobs.snapshot(sample.watched),
        "rescue, none lost": lambda jobs: jobs.rescue(),
        "take_due, none due": lambda jobs: jobs.take_due(),
    }


def exempt() -> dict[str, Call]:
    """What reads the rows it counts and is measured apart."""
    return {
        "exact total of all jobs": lambda jobs: jobs.list_jobs_with_filters(JobFilters(), PaginationParams()),
        "exact total of a workspace": lambda jobs: jobs.list_jobs_with_filters(
            JobFilters(workspace_id=WORKSPACE), PaginationParams()
        ),
        "workspace_summaries, 30 days": lambda jobs: jobs.workspace_summaries(),
    }


def some_new() -> list[NewJob]:
    """Five hundred jobs as a client writes them."""
    payload = {"version": 1, "workspace": WORKSPACE, "source": {"kind": "storage", "keys": ["uploads/handbook.pdf"]}}
    return [
        NewJob(type="document_upload", workspace_id=f"workspace-{number % 50 + 1}", payload=payload)
        for number in range(BATCH)
    ]


def ends(running: list[ClaimedJob]) -> list[Finish]:
    """One in twenty failed, the others completed with a result."""
    result = {"version": 1, "documents": [{"name": "handbook.pdf", "passages": 12}]}
    error = JobError(code="all_items_failed", message="the engine answered 500 three times")
    return [
        Finish(Held(job.id, job.attempt), JobStatus.FAILED, None, error)
        if number % 20 == 0
        else Finish(Held(job.id, job.attempt), JobStatus.COMPLETED, result)
        for number, job in enumerate(running)
    ]


class Lives:
    """Writes, claims and finishes five hundred jobs at a time: as many live ones are left as there were."""

    NAMES = ("create_many of 500", "claim of 500", "finish of 500")

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        self._seconds: dict[str, list[float]] = {name: [] for name in self.NAMES}
        self._statements: dict[str, int] = {}

    async def run(self) -> None:
        """Five hundred jobs are written; the first five hundred of the queue are claimed, then finished. All commit."""
        async with self._timed(self.NAMES[0]) as jobs:
            await jobs.create_many(some_new())
        async with self._database.get_session() as session:
            first = list(await session.scalars(text(FIRST_IN_LINE), {"count": BATCH}))
        async with self._timed(self.NAMES[1]) as jobs:
            running = await jobs.claim(first, "worker-1", LEASE)
        async with self._timed(self.NAMES[2]) as jobs:
            outcome = await jobs.finish(ends(running))
        if len(outcome.moved) != BATCH:
            raise RuntimeError(f"{len(outcome.moved)} of {BATCH} jobs were claimed and finished")

    def timings(self) -> list[Timing]:
        """What the runs took, the first ones left out: they warm up."""
        return [summed_up(name, self._seconds[name][WARM_UP:], self._statements[name]) for name in self.NAMES]

    async def plans(self) -> dict[str, list[str]]:
        """The plans of the three, from runs that are rolled back."""
        found = {}
        async with self._database.get_session() as session:
            jobs = JobRepository(session)
            first = list(await session.scalars(text(FIRST_IN_LINE), {"count": BATCH}))
            with noted() as sent:
                await jobs.create_many(some_new())
            await session.rollback()
            found[self.NAMES[0]] = await explained(session, sent)
            await session.rollback()
            with noted() as sent:
                await jobs.claim(first, "worker-1", LEASE)
            await session.rollback()
            found[self.NAMES[1]] = await explained(session, sent)
            await session.rollback()
            running = await jobs.claim(first, "worker-1", LEASE)
            async with session.begin_nested() as point:
                with noted() as sent:
                    await jobs.finish(ends(running))
                await point.rollback()
            found[self.NAMES[2]] = await explained(session, sent)
        return found

    @asynccontextmanager
    async def _timed(self, name: str) -> AsyncIterator[JobRepository]:
        async with self._database.get_session() as session:
            with noted() as sent:
                began = time.perf_counter()
                yield JobRepository(session)
                await session.commit()
                self._seconds[name].append(time.perf_counter() - began)
        self._statements[name] = len(sent)
