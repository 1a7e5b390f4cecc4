"""Writing down how attempts ended, many at a time.

:func:`record` writes one group: one transaction in PostgreSQL, then Redis. :func:`complete` writes what needs nothing
else with it, as nearly all do, over a connection of its own. :mod:`worker.finisher` makes the groups.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import structlog

from repositories.errors import (
    ConflictError,
    DatabaseStateError,
    InvalidTransitionError,
    InvalidValueError,
)
from repositories.hot_status import JobStatusChange, Mark
from repositories.jobs import ClaimedJob, DirectJobs, JobRepository, Waiting
from repositories.recordable import LONGEST_MESSAGE, cleaned
from repositories.schemas import Finish, JobError, Outage, Outcome, PutBack
from repositories.states import JobStatus
from worker.ends import AWAY_SECONDS, Cancelled, Completed, End, Failed, HandedBack, Lost, TryAgain
from worker.masking import safe_text, without_secrets
from worker.queue import QueueUnavailableError
from worker.recorder import NOT_RECORDABLE
from worker.retries import DEFAULT_RETRIES, retry_delay
from worker.run import Run, Runtime
from worker.server_wait import ServerWait
from worker.telemetry import Lines, together

GROUP = 500
"""The most ends of one transaction."""

_FAULTS = 10
"""How often an end is tried again after an error that is no answer of PostgreSQL's: a fault of ours."""

log = structlog.get_logger(__name__)


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
        DatabaseStateError: PostgreSQL does not take them now; whether it took them is not known if the connection was
            lost, and asking again does no harm.
        InvalidValueError, ConflictError: PostgreSQL can never store one of them, and with it refuses the group.
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
        DatabaseStateError, InvalidValueError, ConflictError: as :func:`record`.
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
            return PutBack(run.held, delay or retry_delay(run.job.failures, policy), without_secrets(error))
        case Failed(error) | TryAgain(error):
            return Finish(run.held, JobStatus.FAILED, None, without_secrets(error))
        case HandedBack(delay, reason, is_outage):
            return PutBack(run.held, delay, outage=_outage(run, reason) if is_outage else None)
    raise TypeError(f"a lost attempt writes nothing: {end}")


def _outage(run: Run, reason: str) -> Outage:
    limit = timedelta(hours=run.runtime.settings.engine_outage_hours)
    return Outage(cleaned(safe_text(reason), LONGEST_MESSAGE), limit, run.has_progressed)


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
        case HandedBack(reason=reason) if status is JobStatus.FAILED:
            log_.warning("job.given_up", **about, seconds=seconds, reason=reason, after="ENGINE_OUTAGE_HOURS")
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
    """Write down how these attempts ended, however long PostgreSQL refuses for a reason of its own state.

    An end is given up only where PostgreSQL can never store its value: the group is halved until that one is alone, and
    its job fails for it. An error that is no answer of PostgreSQL's is a fault of ours: after :data:`_FAULTS` tries the
    job is let go, and rescued; it does not fail.

    Args:
        runtime: where to write.
        group: at most :data:`GROUP`.
        direct: the shorter way for those that need nothing else with them.
    """
    wait, faults = ServerWait("job.end_waiting", "job.end_recovered", jobs=len(group)), 0
    while group:
        shorter, direct = direct, None
        try:
            group = await _write(runtime, group, shorter)
        except DatabaseStateError as error:
            await wait.after(error)
        except Exception as error:  # one end that cannot be written must not cost the others theirs
            if shorter is not None:
                log.warning("job.end_repeated", jobs=len(group), reason=f"{type(error).__name__}: {error}")
                continue  # the longer way writes it, or says what is wrong
            if len(group) > 1 or isinstance(error, ConflictError | InvalidValueError):
                await _apart(runtime, group, error)
                return
            faults += 1
            log.exception("job.end_error", job_id=str(group[0].run.job.id), tries=faults, exc_info=error)
            if faults == _FAULTS:
                return  # its lease runs out, and it is rescued
            await wait.after(error)
    wait.over()


async def _write(runtime: Runtime, group: Sequence[Ended], direct: DirectJobs | None) -> list[Ended]:
    """Write a group; return what is still to be written, which is nothing."""
    left = list(group) if direct is None else await complete(runtime, direct, group)
    if left:
        await record(runtime, left)
    return []


async def _apart(runtime: Runtime, group: Sequence[Ended], error: Exception) -> None:
    """Write the halves of a group that cannot be written together; of one end, what can be written of it."""
    if len(group) > 1:
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            await record_at_last(runtime, half)
        return
    (ended,) = group
    log.error("job.end_not_recordable", job_id=str(ended.run.job.id), reason=str(error))
    simpler = _simpler(ended.end, error)
    if simpler == ended.end:  # its lease runs out, and it is rescued
        return
    await record_at_last(runtime, [ended._replace(end=simpler)])


def _simpler(end: End, error: Exception) -> End:
    """The same end without what came from outside: what PostgreSQL can never store is part of that."""
    match end:
        case Completed():
            return Failed(JobError(code=NOT_RECORDABLE, message=f"the job's result cannot be written: {error}"))
        case Failed():
            return Failed(JobError(code=NOT_RECORDABLE, message="the job failed, and its error cannot be written"))
        case TryAgain():
            return TryAgain(JobError(code=NOT_RECORDABLE, message="the attempt failed; its error cannot be written"))
        case HandedBack(reason=reason):
            return HandedBack(timedelta(seconds=AWAY_SECONDS), reason)
        case _:
            return end
