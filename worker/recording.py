"""Writing down how attempts ended, many at a time.

:func:`record` writes one group: one transaction in PostgreSQL, then Redis. :func:`complete` writes what needs nothing
else with it, as nearly all do, over a connection of its own. :mod:`worker.finisher` makes the groups.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from repositories.errors import (
    DatabaseUnavailableError,
    InvalidTransitionError,
    TransactionAbortedError,
)
from repositories.hot_status import JobStatusChange, Mark
from repositories.jobs import ClaimedJob, DirectJobs, JobRepository, Waiting
from repositories.schemas import Finish, JobError, Outcome, PutBack
from repositories.states import JobStatus
from worker.ends import Cancelled, Completed, End, Failed, HandedBack, Lost, TryAgain
from worker.queue import QueueUnavailableError
from worker.retries import DEFAULT_RETRIES, retry_delay
from worker.run import Run, Runtime
from worker.telemetry import Lines, together

GROUP = 500
"""The most ends of one transaction."""

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)

log = structlog.get_logger(__name__)


async def pause_after(failures: int) -> None:
    """Wait between two tries while a server is away; ``failures`` were before this one."""
    await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])


class Ended(NamedTuple):
    """An attempt, and how it ended."""

    run: Run
    end: End


async def record(runtime: Runtime, group: Sequence[Ended]) -> None:
    """Write down how these attempts ended, and tell Redis.

    Refusals are logged: another attempt owns the job, and this one's end does not matter.

    Args:
        runtime: where to write.
        group: at most :data:`GROUP`.

    Raises:
        DatabaseUnavailableError: PostgreSQL does not answer; whether it took the ends is not known, and asking again
            does no harm.
        RepositoryError: PostgreSQL refuses one of them as it is, and with it the group.
    """
    written = [ended for ended in group if not isinstance(ended.end, Lost)]
    finishes, returns = list[Finish](), list[PutBack]()
    for ended in written:
        row = _row(ended)
        (finishes if isinstance(row, Finish) else returns).append(row)  # type: ignore[arg-type]
    outcome, waiting, hot = Outcome(), list[Waiting](), runtime.hot
    since = None if hot is None else hot.mark
    async with runtime.database.get_transaction() as session:
        jobs = JobRepository(session, hot, tells=False)
        for part in (
            await jobs.finish(finishes) if finishes else None,
            await jobs.put_back(returns) if returns else None,
        ):
            if part is not None:
                outcome.moved |= part.moved
                outcome.refused |= part.refused
                outcome.released += part.released
                outcome.changes += part.changes
        if outcome.released:
            waiting = await jobs.waiting_among(outcome.released)
        if limited := {ended.run.job.queue for ended in written if ended.run.limited}:
            waiting += await jobs.release_parked(runtime.tasks, limited)  # their ends made room
    await _tell(runtime, group, outcome, waiting, since)


async def complete(runtime: Runtime, direct: DirectJobs, group: Sequence[Ended]) -> list[Ended]:
    """Write down the ends that need nothing else with them, as nearly all do; return the others.

    Args:
        runtime: where to tell of it.
        direct: where to write.
        group: at most :data:`GROUP`.

    Raises:
        DatabaseUnavailableError, RepositoryError: as :func:`record`.
    """
    results = {
        ended.run.held: ended.end.result
        for ended in group
        if isinstance(ended.end, Completed) and not ended.run.limited
    }
    if not results:
        return list(group)
    since = None if runtime.hot is None else runtime.hot.mark
    outcome = await direct.complete(list(results), list(results.values()))
    done, left = list[Ended](), list[Ended]()
    for ended in group:
        written = ended.run.held in results and ended.run.job.id in outcome.moved
        (done if written else left).append(ended)
    await _tell(runtime, done, outcome, [], since)
    return left


async def _tell(
    runtime: Runtime, group: Sequence[Ended], outcome: Outcome, waiting: Sequence[Waiting], since: Mark | None
) -> None:
    """Tell Redis and the log what is on the record now."""
    try:
        await runtime.queue.forget(outcome.moved.keys() - {job.job_id for job in waiting})
        await runtime.queue.hand_over(waiting)
    except QueueUnavailableError as error:
        log.warning(
            "job.not_put_back_in_redis", jobs=len(waiting), reason=str(error), next="a worker's reconciler sends it"
        )
    if runtime.hot is not None and outcome.changes:
        await runtime.hot.advance(outcome.changes, since=since)
    with together(log) as lines:
        for ended in group:
            _log(lines, ended, outcome)


def started(job: ClaimedJob) -> JobStatusChange:
    """What a claim changed, for hot status."""
    changed = {
        "status": JobStatus.PROCESSING,
        "attempt": job.attempt,
        "worker_id": job.worker_id,
        "started_at": job.started_at,
        "progress": job.progress,
    }
    return JobStatusChange(job.id, job.version, changed)


def _row(ended: Ended) -> Finish | PutBack:
    run, end = ended.run, ended.end
    match end:
        case Completed(result):
            return Finish(run.held, JobStatus.COMPLETED, result)
        case Cancelled():
            return Finish(run.held, JobStatus.CANCELLED)
        case TryAgain(error, delay) if not run.is_last_attempt:
            policy = run.runtime.retries.get(run.job.type, DEFAULT_RETRIES)
            return PutBack(run.held, delay or retry_delay(run.job.failures, policy), error)
        case Failed(error) | TryAgain(error):
            return Finish(run.held, JobStatus.FAILED, None, error)
        case HandedBack(delay):
            return PutBack(run.held, delay)
    raise TypeError(f"a lost attempt writes nothing: {end}")


def _log(log_: Lines, ended: Ended, outcome: Outcome) -> None:
    job, end = ended.run.job, ended.end
    about = {"job_id": str(job.id), "job_type": job.type, "attempt": job.attempt}  # binding them would take longer
    seconds = round(time.monotonic() - ended.run.began, 3)
    if isinstance(end, Lost):
        log_.warning("job.lost", **about, seconds=seconds, reason="another attempt owns the job")
        return
    refusal = outcome.refused.get(job.id) if outcome.refused else None
    if refusal is not None and not _was_written_before(refusal, ended):
        log_.warning("job.end_refused", **about, seconds=seconds, reason=str(refusal))
        return
    status = outcome.moved.get(job.id)
    match end:
        case Failed(error) | TryAgain(error):
            if status is JobStatus.QUEUED:
                log_.warning("job.retried", **about, seconds=seconds, code=error.code, error=error.message)
            else:
                log_.warning("job.failed", **about, seconds=seconds, code=error.code, error=error.message)
        case HandedBack(delay, reason):
            log_.info(
                "job.put_back", **about, seconds=seconds, reason=reason, delay_seconds=round(delay.total_seconds(), 1)
            )
        case _:
            waited = (job.started_at - job.queued_at).total_seconds()
            told = str(status) if status is not None else "completed"
            log_.info("job.finished", **about, seconds=seconds, status=told, waited_seconds=round(waited, 3))


def _was_written_before(refusal: Exception, ended: Ended) -> bool:
    """Whether the refusal only says that an earlier write of this very end arrived, though its answer did not."""
    if not isinstance(refusal, InvalidTransitionError):
        return False
    row = _row(ended)
    return isinstance(row, Finish) and (refusal.found, refusal.found_attempt) == (row.to, row.held.attempt)


async def record_at_last(runtime: Runtime, group: Sequence[Ended], direct: DirectJobs | None = None) -> None:
    """Write down how these attempts ended, however long PostgreSQL is away.

    An end that cannot be written as it is costs the others nothing: its job fails for it, or is let go and rescued.

    Args:
        runtime: where to write.
        group: at most :data:`GROUP`.
        direct: the shorter way for those that need nothing else with them.
    """
    failures = 0
    while True:
        shorter, direct = direct, None
        try:
            if shorter is not None:
                group = await complete(runtime, shorter, group)
            if group:
                await record(runtime, group)
        except (DatabaseUnavailableError, TransactionAbortedError) as error:
            if failures == 0:
                log.warning("job.end_waiting", jobs=len(group), reason=str(error))
            await pause_after(failures)
            failures += 1
        except Exception as error:  # noqa: BLE001 - one end that cannot be written must not cost the others theirs
            if shorter is None:
                await _one_by_one(runtime, group, error)
                return
            log.warning("job.end_repeated", jobs=len(group), reason=f"{type(error).__name__}: {error}")
        else:
            return


async def _one_by_one(runtime: Runtime, group: Sequence[Ended], error: Exception) -> None:
    """Find the end that cannot be written, so that the others are."""
    if len(group) > 1:
        for ended in group:
            await record_at_last(runtime, [ended])
        return
    (ended,) = group
    log.error("job.end_not_recordable", job_id=str(ended.run.job.id), reason=f"{type(error).__name__}: {error}")
    if isinstance(ended.end, Completed):
        failure = JobError(code="result_not_recordable", message=f"the job's result cannot be written: {error}")
        await record_at_last(runtime, [ended._replace(end=Failed(failure))])
