"""The indexes that the hot statements are written for: each can be asked, and is.

With some thousand rows and sequential scans priced out, what is tested is that a statement's conditions and order are
those of its index, spelled so that PostgreSQL sees it. How long they take is ``benchmarks/repository_scale.py``.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from repositories.jobs import JobRepository
from repositories.schemas import JobFilters, JobSort
from repositories.states import JobStatus

FILL = """
INSERT INTO jobs (id, type, status, workspace_id, payload, created_at, queued_at, started_at, completed_at,
                  lease_expires_at, worker_id, attempt)
SELECT gen_random_uuid(), CASE WHEN number % 1500 = 0 THEN 'rare' ELSE 'common' END, status,
       'workspace-' || number % 101, '{}', at, at, at,
       CASE WHEN status IN ('completed', 'failed') THEN at + interval '9 seconds' END,
       CASE WHEN status = 'processing' THEN now() + interval '1 day' END, 'worker-1', 1
FROM (SELECT number, now() - number * interval '1 minute' AS at,
             CASE WHEN number <= 200 THEN 'queued' WHEN number <= 210 THEN 'processing'
                  WHEN number % 19 = 0 THEN 'failed' ELSE 'completed' END AS status
      FROM generate_series(1, 4000) AS number) AS numbers
"""
SOMEBODY = uuid7()


def _page(sort: JobSort = JobSort.NEWEST, **filters: Any) -> Callable[[JobRepository], Awaitable[Any]]:
    return lambda jobs: jobs.list_jobs_after(JobFilters(**filters), sort=sort)


HOT: list[tuple[Callable[[JobRepository], Awaitable[Any]], str]] = [
    (_page(), "ix_jobs_created"),
    (_page(workspace_id="workspace-1"), "ix_jobs_workspace_created"),
    (_page(type="rare"), "ix_jobs_type_created"),
    (_page(status=JobStatus.FAILED), "ix_jobs_failed_created"),
    (_page(workspace_id="workspace-1", status=JobStatus.FAILED), "ix_jobs_workspace_failed"),
    (_page(workspace_id="workspace-1", status=JobStatus.QUEUED), "ix_jobs_workspace_live"),
    (_page(JobSort.LAST_FINISHED), "ix_jobs_completed_at"),
    (lambda jobs: jobs.get_active_jobs(limit=10), "ix_jobs_live_created"),
    (lambda jobs: jobs.live_jobs("workspace-1"), "ix_jobs_workspace_live"),
    (lambda jobs: jobs.get_job_statistics(), "ix_jobs_completed_at"),
    (lambda jobs: jobs.ended_jobs(workspace_id="workspace-1"), "ix_jobs_completed_at"),
    (lambda jobs: jobs.queue_positions([SOMEBODY]), "ix_jobs_queue_order"),
    (lambda jobs: jobs.rescue(), "ix_jobs_processing"),
    (lambda jobs: jobs.take_due(), "ix_jobs_scheduled"),
    (lambda jobs: jobs.has_suspects(["common"], ["default"]), "ix_jobs_suspects"),
    (lambda jobs: jobs.claimed_before(None, "worker-1"), "ix_jobs_processing"),
]


async def test_each_hot_statement_asks_its_index(session: AsyncSession, jobs: JobRepository) -> None:
    await session.execute(text(FILL))
    await session.execute(text("ANALYZE jobs"))
    await session.execute(text("SET LOCAL enable_seqscan = off"))
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        for number, (call, _) in enumerate(HOT):
            await call(jobs)
            del sent[number + 1 :]  # the first statement is the one that has to find the rows
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    raw = await (await session.connection()).get_raw_connection()
    driver: Any = raw.driver_connection
    others = {}
    for (_, index), (statement, parameters) in zip(HOT, sent, strict=True):
        plan = "\n".join(row[0] for row in await driver.fetch("EXPLAIN " + statement, *parameters))
        if f" {index} " not in plan or "Seq Scan on jobs" in plan:
            others[index] = plan

    assert not others, "\n\n".join(f"{index} is not asked:\n{plan}" for index, plan in others.items())
