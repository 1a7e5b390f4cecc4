"""How an attempt ends: for good, or by putting its job back."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Interval, Numeric, Text, and_, case, cast, func, literal, or_, update
from sqlalchemy.dialects.postgresql import JSONB

from repositories.errors import translated
from repositories.jobs.core import (
    NOW,
    JobStatements,
    as_arrays,
    check_batch,
    final_values,
    held_rows,
    moving,
    owned,
    with_cancellation,
    with_error,
)
from repositories.models import STATUS, Job
from repositories.prepared import Prepared
from repositories.recordable import encoded
from repositories.schemas import Finish, Held, JobError, Outcome, PutBack
from repositories.states import FINAL, JobStatus, Verb, sources

_PAUSE_OF_OUTAGE = 0.25
_LONGEST_PAUSE = literal(timedelta(seconds=60), Interval)


@cache
def _finish() -> Prepared:
    mine = held_rows(target=Text, result=Text, code=Text, message=Text)
    ours = owned(mine, [JobStatus.PROCESSING], mine.c.target, mine.c.result, mine.c.code, mine.c.message)
    failed = ours.c.code.is_not(None)
    transition = (
        update(Job)
        .where(Job.id == ours.c.id)
        .values(
            final_values(cast(ours.c.target, STATUS))
            | {
                "result": cast(ours.c.result, JSONB),
                "progress": case((ours.c.target == str(JobStatus.COMPLETED), 100.0), else_=Job.progress),
                "failures": case((failed, Job.failures + 1), else_=Job.failures),
                "errors": case(
                    (failed, with_error(ours.c.code, ours.c.message)),
                    (ours.c.target == str(JobStatus.CANCELLED), with_cancellation()),
                    else_=Job.errors,
                ),
            }
        )
    )
    return Prepared(moving(transition))


@cache
def complete_statement(*, childless: bool) -> Prepared:
    """What nearly all groups are: no job of it failed or was cancelled, and the statement is half as long.

    Args:
        childless: leave alone what other jobs depend on: they would have to be released in the same transaction.
    """
    mine = held_rows(result=Text)
    ours = owned(mine, [JobStatus.PROCESSING], mine.c.result, only=[~Job.has_dependents] if childless else [])
    values = final_values(JobStatus.COMPLETED) | {"result": cast(ours.c.result, JSONB), "progress": 100.0}
    return Prepared(moving(update(Job).where(Job.id == ours.c.id).values(values)))


@cache
def _put_back() -> Prepared:
    mine = held_rows(later=Interval, code=Text, message=Text, away=Text, limit=Interval, progressed=Boolean)
    added = (mine.c.later, mine.c.code, mine.c.message, mine.c.away, mine.c.limit, mine.c.progressed)
    ours = owned(mine, sources(Verb.PUT_BACK, JobStatus.QUEUED), *added)
    cancelled = Job.cancel_requested_at.is_not(None)
    failed, away = ours.c.code.is_not(None), ours.c.away.is_not(None)
    since = case((ours.c.progressed, NOW), else_=func.coalesce(Job.away_since, NOW))
    given_up = and_(away, NOW - since > ours.c.limit)
    ended = or_(cancelled, given_up)
    # The longer it has been away, the longer it is left alone.
    longer = func.least(_LONGEST_PAUSE, (NOW - since) * _PAUSE_OF_OUTAGE)
    later = case((away, func.greatest(ours.c.later, longer)), else_=ours.c.later)
    too_long = func.concat(ours.c.away, "; that has lasted longer than ", _in_hours(ours.c.limit), " h: given up")
    values: dict[str, Any] = {
        "status": case((cancelled, JobStatus.CANCELLED), (given_up, JobStatus.FAILED), else_=JobStatus.QUEUED),
        "completed_at": case((ended, NOW)),
        "queued_at": case((ended, Job.queued_at), else_=NOW),
        "scheduled_at": case((ended, None), else_=NOW + later),
        "lease_expires_at": None,
        "version": Job.version + 1,
        "updated_at": NOW,
        "suspicion": 0,
        "isolated": False,
        "failures": case((failed, Job.failures + 1), else_=Job.failures),
        "away_since": case((away, since), (failed, None), else_=Job.away_since),
        "away_reason": case((away, ours.c.away), (failed, None), else_=Job.away_reason),
        "errors": case(
            (failed, with_error(ours.c.code, ours.c.message)),
            (cancelled, with_cancellation()),
            (given_up, with_error("engine_unavailable", too_long)),
            else_=Job.errors,
        ),
    }
    transition = (
        update(Job)
        .where(Job.id == ours.c.id, Job.payload.is_not(None))  # a caller's own job stands in no queue
        .values(values)
    )
    return Prepared(moving(transition))


def _in_hours(interval: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.round(cast(func.extract("epoch", interval), Numeric) / 3_600, 2)


def as_json(results: Sequence[dict[str, Any] | None]) -> list[str | None]:
    """Results as the statements take them.

    Raises:
        InvalidValueError: a part of one has no reading as JSON.
    """
    return [None if result is None else encoded(result) for result in results]


class Finishing(JobStatements):
    """Finish, and put back; both only by the attempt that owns the job."""

    async def finish(self, finishes: Sequence[Finish]) -> Outcome:
        """Move running jobs to final states, each only if the attempt named still owns it.

        One statement for one job or for ``MAX_BATCH``; further ones only if some job was refused or has dependents,
        which are released (or failed) with it.

        Raises:
            ValueError: a state is not final, or there are more than ``MAX_BATCH``.

        Source: docs/architecture.md, "The state machine", verb ``finish``.
        """
        check_batch(len(finishes), "finish")
        if wrong := [end.to for end in finishes if end.to not in FINAL]:
            raise ValueError(f"cannot finish a job as {wrong[0]}: expected a final state")
        held = [end.held for end in finishes]
        results = as_json([end.result for end in finishes])
        if all(end.to is JobStatus.COMPLETED and end.error is None for end in finishes):
            statement, parameters = complete_statement(childless=False), as_arrays(held, result=results)
        else:
            statement = _finish()
            parameters = as_arrays(
                held,
                target=[str(end.to) for end in finishes],
                result=results,
                code=[end.error.code if end.error else None for end in finishes],
                message=[end.error.message if end.error else None for end in finishes],
            )
        with translated():
            outcome = await self._apply(statement, parameters)
            return await self._refuse(outcome, {end.held.job_id: (end.to, end.held.attempt) for end in finishes})

    async def put_back(
        self,
        held: Sequence[Held] | Sequence[PutBack],
        delay: timedelta = timedelta(0),
        error: JobError | None = None,
    ) -> Outcome:
        """Return running jobs to the queue, each only if the attempt named still owns it.

        A job whose cancellation was asked for meanwhile becomes ``cancelled`` instead, and one whose outage has lasted
        longer than its limit ``failed`` (``engine_unavailable``).

        Args:
            held: the jobs and attempts, at most ``MAX_BATCH``; a :class:`PutBack` brings its own delay and error.
            delay: not again before this has passed; then the stager hands it over. Zero is for a job that may run at
                once: the caller hands it over after its commit (``released`` names it).
            error: what went wrong with the work; it counts as one of ``max_attempts``. Without it nothing is counted
                (shutdown, snooze, engine outage).
        """
        check_batch(len(held), "put back")
        asked = [job if isinstance(job, PutBack) else PutBack(job, delay, error) for job in held]
        parameters = as_arrays(
            [job.held for job in asked],
            later=[job.delay or None for job in asked],
            code=[job.error.code if job.error else None for job in asked],
            message=[job.error.message if job.error else None for job in asked],
            away=[job.outage.reason if job.outage else None for job in asked],
            limit=[job.outage.limit if job.outage else None for job in asked],
            progressed=[job.outage is not None and job.outage.progressed for job in asked],
        )
        later = {job.held.job_id for job in asked if job.delay}
        with translated():
            outcome = await self._apply(_put_back(), parameters)
            outcome.released += [
                job_id for job_id, status in outcome.moved.items() if status is JobStatus.QUEUED and job_id not in later
            ]
            return await self._refuse(outcome, {job.held.job_id: (JobStatus.QUEUED, job.held.attempt) for job in asked})
