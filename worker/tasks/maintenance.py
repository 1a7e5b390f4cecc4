"""Cron tasks: ARQ runs each once across all workers, by a job id made of its name and time."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import structlog

from repositories.documents import DocumentRepository
from repositories.jobs import JobRepository
from repositories.locks import LockLostError
from worker.engines.base import EngineError, EngineRefusedError, EngineUnavailableError
from worker.run import Runtime
from worker.uploads.removing import finish_abandoned
from worker.uploads.sweeping import sweep_ended

log = structlog.get_logger(__name__)

_BATCH = 1_000
_SWEPT_AGAIN = timedelta(hours=1)
"""How long after its end a job's folder is still looked at: a server may work on a request of a dead worker so long."""
_SWEPT_ONCE_MORE = timedelta(minutes=10), timedelta(minutes=30)
"""When after its end that of a job is, which completed at once: two turns, so that one may be missed."""


async def cleanup(ctx: dict[Any, Any]) -> None:
    """Delete jobs that ended longer ago than ``JOB_CLEANUP_DAYS``, in transactions of a thousand."""
    runtime: Runtime = ctx["runtime"]
    total = 0
    while True:
        async with runtime.database.get_transaction() as session:
            gone = await JobRepository(session).cleanup(timedelta(days=runtime.settings.job_cleanup_days), _BATCH)
        total += gone
        if gone < _BATCH:
            break
    log.info("jobs.cleaned_up", deleted=total, older_than_days=runtime.settings.job_cleanup_days)


async def roll_up(ctx: dict[Any, Any]) -> None:
    """Write the statistics of the hours that are over, so that reading them does not walk over the jobs again."""
    runtime: Runtime = ctx["runtime"]
    async with runtime.database.get_transaction() as session:
        rows = await JobRepository(session).roll_up()
    log.info("statistics.rolled_up", rows=rows)


async def sweep_storage(ctx: dict[Any, Any]) -> None:
    """Delete uploaded bytes that are older than the jobs that are kept, and that no job can ask for any more."""
    runtime: Runtime = ctx["runtime"]
    needed: set[str] | None = None

    async def named(digests: Collection[str]) -> Collection[str]:
        # Asked once, at the first old bytes: whoever needs them later has put them again, and they are young, or tries
        # a job again that is among these.
        nonlocal needed
        if needed is None:
            async with runtime.database.get_session() as session:
                needed = await DocumentRepository(session).bytes_still_needed()
        return needed.intersection(digests)

    # A day more than jobs are kept, so that one that can still be retried has its bytes.
    age = timedelta(days=runtime.settings.job_cleanup_days + 1)
    swept = await runtime.sources.storage.sweep(age, named)
    log.info("storage.swept", deleted=swept.count, bytes=swept.bytes, older_than_days=age.days)


async def sweep_documents(ctx: dict[Any, Any]) -> None:
    """Remove from the engine what lost attempts left there, also what their last requests made after the job's end.

    First, removals are finished whose removers died or gave up.
    """
    runtime: Runtime = ctx["runtime"]
    try:
        if finished := await finish_abandoned(runtime, _BATCH):
            log.info("documents.removed", finished=finished)
    except (EngineUnavailableError, EngineRefusedError, LockLostError) as error:  # the next turn takes them up again
        log.warning("documents.removals_left", reason=str(error))
        if not isinstance(error, LockLostError):
            return  # it would say the same of every sweep
    async with runtime.database.get_session() as session:
        uploads = await DocumentRepository(session).uploads_to_sweep(_SWEPT_AGAIN, *_SWEPT_ONCE_MORE, _BATCH)
    total = 0
    for job_id, workspace in uploads:
        try:
            total += await sweep_ended(runtime, job_id, workspace)
        except (EngineError, LockLostError) as error:  # the next turn comes by here again
            log.warning("documents.not_swept", job_id=str(job_id), reason=str(error))
            if isinstance(error, EngineUnavailableError | EngineRefusedError):
                break  # it would say the same of every other job
    if total:
        log.info("documents.swept", removed=total, jobs=len(uploads))
