"""Removing from the engine what attempts of a job left there: at the job's end, and some minutes later.

A sweep knows what to keep before it looks what is there, so whatever is stored meanwhile would seem to be left behind.
Therefore the sweeps of a job hold its lock and look under it whether the job is still theirs, and an attempt that may
have been preceded by one stores nothing before it had the lock once: it is on the record as running before it asks.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from uuid import UUID

from repositories.database import DatabaseManager
from repositories.documents import DocumentRepository
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.locks import LockLostError, Locks
from repositories.models import JobItem
from repositories.states import ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from worker.errors import Snooze
from worker.recorder import AttemptLostError
from worker.run import Run, Runtime

_AGAIN = timedelta(seconds=5)


async def wait_for_sweeps(run: Run) -> None:
    """Return once no sweep of the job is under way that does not know of this attempt.

    Raises:
        Snooze: PostgreSQL was away for too long while it waited.
    """
    if run.job.attempt > 1:  # before the first attempt there is nothing to sweep
        async with _locked_for(run):
            pass


async def sweep_at_end(run: Run, slug: str) -> tuple[list[JobItem], int]:
    """Sweep after the last item of an attempt; return all items, and how many documents were removed.

    Raises:
        AttemptLostError: another attempt owns the job; nothing was removed.
        Snooze: PostgreSQL was away for too long while it was swept.
    """
    runtime = run.runtime
    async with _locked_for(run):
        async with runtime.database.get_session() as session:
            jobs = await JobRepository(session).get_many([run.job.id])
            items = await ItemRepository(session).list(run.job.id)
        if not any(job.status is JobStatus.PROCESSING and job.attempt == run.job.attempt for job in jobs):
            raise AttemptLostError(run.held)
        return items, await _sweep(runtime, run.job.id, slug, items)


async def sweep_ended(runtime: Runtime, job_id: UUID, workspace: str) -> int:
    """Sweep a job that ended, unless somebody asked for it again; return how many documents were removed.

    Raises:
        EngineError: the engine could not do it.
        LockLostError: PostgreSQL was away for too long.
    """
    async with _locked(runtime.database, job_id):
        async with runtime.database.get_session() as session:
            known = await WorkspaceRepository(session, runtime.engine.name).get(workspace)
            jobs = await JobRepository(session).get_many([job_id])
            items = await ItemRepository(session).list(job_id)
        if known is None or not all(job.status.is_final for job in jobs):
            return 0
        return await _sweep(runtime, job_id, known.slug, items)


async def sweep_emptied(run: Run, slug: str, jobs: Collection[UUID]) -> None:
    """Sweep those of these jobs that have ended and of which nothing is on the record any more: their folders go, too.

    Raises:
        EngineError: the engine could not do it.
        Snooze: PostgreSQL was away for too long while it was swept.
    """
    database = run.runtime.database
    for job_id in sorted(jobs):
        try:
            async with _locked(database, job_id):
                async with database.get_session() as session:
                    known = await JobRepository(session).get_many([job_id])
                    is_over = all(job.status.is_final for job in known)
                    is_empty = is_over and not await DocumentRepository(session).of_job(job_id)
                if is_empty:
                    await run.runtime.engine.sweep(slug, job_id, ())
        except LockLostError as error:
            raise Snooze(_AGAIN, str(error)) from error


@asynccontextmanager
async def _locked_for(run: Run) -> AsyncIterator[None]:
    try:
        async with _locked(run.runtime.database, run.job.id):
            yield
    except LockLostError as error:  # not the work's fault
        raise Snooze(_AGAIN, str(error)) from error


def _locked(database: DatabaseManager, job_id: UUID) -> AbstractAsyncContextManager[None]:
    return Locks(database).hold(f"sweep {job_id}")


async def _sweep(runtime: Runtime, job_id: UUID, slug: str, items: Sequence[JobItem]) -> int:
    if not items:
        return 0
    return await runtime.engine.sweep(slug, job_id, await _kept(runtime.database, job_id, items))


async def _kept(database: DatabaseManager, job_id: UUID, items: Sequence[JobItem]) -> set[str]:
    """Return all places where documents of a job stand, by the record and by what its items say."""
    kept: set[str] = set()
    for item in items:
        result = item.result or {}
        if item.status is ItemStatus.DONE:
            kept.update(result.get("locations") or ([result["location"]] if "location" in result else []))
    async with database.get_session() as session:
        for document in await DocumentRepository(session).of_job(job_id):
            kept.update(document.locations)
    return kept
