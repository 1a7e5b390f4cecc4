"""One job's life when a stock ARQ worker delivers its id: claim, run, record, each alone.

:mod:`worker.batches` does the same for many jobs at a time; both share :mod:`worker.ends` and :mod:`worker.recording`.
"""

import asyncio
from datetime import timedelta

import structlog
from arq.worker import Retry as ArqRetry

from repositories.base import as_uuid
from repositories.errors import DatabaseStateError
from repositories.jobs import ClaimedJob, JobRepository
from worker.ends import End, HandedBack, Lost, attempt, timed_out
from worker.recording import Ended, record_at_last, started
from worker.run import Run, Runtime

_AGAIN_SECONDS = 1.0  # after a claim that PostgreSQL did not answer
_CLOSE_SECONDS = 10.0  # how long a worker that stops waits for PostgreSQL

log = structlog.get_logger(__name__)


async def execute(runtime: Runtime, job_id_text: str) -> None:
    """Carry out one job, whose id ARQ delivered. Safe to call for any id at any time: the claim decides.

    Raises:
        arq.worker.Retry: PostgreSQL could not claim it now; the message stays.
        asyncio.CancelledError: the worker shuts down; the job was put back, and the message stays.
    """
    job_id = as_uuid(job_id_text)
    if job_id is None:
        log.error("message.invalid", text=job_id_text[:64])
        return
    lease = timedelta(seconds=runtime.settings.lease_seconds)
    since = None if runtime.hot is None else runtime.hot.mark
    try:
        async with runtime.database.get_transaction() as session:
            jobs = JobRepository(session)
            claimed, limited = await jobs.claim([job_id], runtime.worker_id, lease, runtime.tasks), False
            if not claimed and (await jobs.admit([job_id], runtime.tasks)).start:
                claimed = await jobs.claim([job_id], runtime.worker_id, lease, runtime.tasks, admitted=True)
                limited = True
    except DatabaseStateError as error:
        log.warning("job.not_claimed", job_id=str(job_id), reason=str(error))
        # Not deferred: a place in the future is one by this machine's clock, and the job's priority would be lost.
        await asyncio.sleep(_AGAIN_SECONDS)
        raise ArqRetry from None
    if not claimed:
        log.debug("job.not_claimable", job_id=str(job_id))
        return
    if runtime.hot is not None:
        await runtime.hot.advance([started(job) for job in claimed], since=since)
    await carry_out_and_record(runtime, claimed[0], limited=limited)


async def carry_out_and_record(runtime: Runtime, job: ClaimedJob, *, limited: bool = False) -> None:
    """Run a job that was claimed, keep its lease meanwhile, and record how it ended.

    Args:
        runtime: what it is run with.
        job: ours.
        limited: its queue has a limit, so its end makes room.

    Raises:
        asyncio.CancelledError: the worker shuts down; the job was put back.
    """
    run = Run(job, runtime, limited=limited)
    with runtime.leases.holding(run):
        end, stopped = await _carry_out(run)
        try:
            async with asyncio.timeout(_CLOSE_SECONDS if stopped else None):
                await record_at_last(runtime, [Ended(run, end)])
        except TimeoutError:  # the lease runs out and the job is rescued: nothing is lost
            log.warning("job.end_not_recorded", seconds=_CLOSE_SECONDS, next="rescued")
    if stopped:
        raise asyncio.CancelledError


async def _carry_out(run: Run) -> tuple[End, bool]:
    """Run the task; return its end, and whether the worker is being stopped."""
    job = run.job
    with structlog.contextvars.bound_contextvars(job_id=str(job.id), job_type=job.type, attempt=job.attempt):
        run.task = asyncio.create_task(attempt(run))
        try:
            async with asyncio.timeout(job.timeout_seconds):
                return await run.task, False
        except TimeoutError:
            return timed_out(run), False
        except asyncio.CancelledError:
            if run.lost:
                return Lost(), False
            run.task.cancel()
            await asyncio.wait({run.task})
            return HandedBack(timedelta(0), "shutdown"), True
