"""What jobs add up to: how many were created, and how many are under way; each question is one statement.

Jobs that ended in a closed hour come from the roll-up (:mod:`repositories.jobs.rollup`), the others from the rows, so
that a month costs what its hours cost and not what its millions of jobs would. Counts of closed hours outlive their
jobs. A job that a person retries is counted once more when the roll-up had found its first end.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Double, Integer, Text, case, cast, func, literal_column, select, union_all
from sqlalchemy.dialects.postgresql import array

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, in_state, queued_and_due
from repositories.jobs.ends import CountingEnds
from repositories.jobs.figures import LiveJobs
from repositories.jobs.read import LIVE
from repositories.jobs.rollup import ended_since, of_workspace, scope_of
from repositories.models import HourOfCreation, Job
from repositories.schemas import JobStatistics
from repositories.states import FINAL, JobStatus

_FINAL = sorted(map(str, FINAL))
_MAX_DAYS = 3_660


class Counting(CountingEnds):
    """Statistics of what was created and what is live; of what ended, by its base."""

    async def get_job_statistics(self, workspace_id: str | None = None, days: int = 30) -> dict[str, Any]:
        """Return what the jobs created in the last ``days`` days add up to, as :class:`JobStatistics` fields.

        Jobs that clean-up deleted are counted, if they ended in a closed hour.

        Args:
            workspace_id: only this workspace's jobs.
            days: 1 to 3,660; the period begins at the start of its first hour.

        Raises:
            ValueError: ``days`` is out of range.
        """
        if not 1 <= days <= _MAX_DAYS:
            raise ValueError(f"days must be 1 to {_MAX_DAYS}, not {days}")
        by_status = dict.fromkeys(map(str, JobStatus), 0)
        by_type: dict[str, int] = {}
        total_seconds, timed = 0.0, 0
        with translated():
            for kind, status, count, seconds, measured in await self.session.execute(_created(workspace_id, days)):
                by_status[status] += count
                by_type[kind] = by_type.get(kind, 0) + count
                total_seconds += seconds or 0.0  # none beside the other states, and of jobs that never started
                timed += measured or 0
        ended = sum(by_status[str(status)] for status in FINAL)
        return JobStatistics(
            period_days=days,
            workspace_id=workspace_id,
            total_jobs=sum(by_status.values()),
            status_counts=by_status,
            type_counts=by_type,
            average_processing_time_seconds=total_seconds / timed if timed else None,
            success_rate=100 * by_status["completed"] / ended if ended else None,
        ).model_dump()

    async def live_jobs(self, workspace_id: str | None = None) -> LiveJobs:
        """Return how many jobs are under way by type and state, and how long the oldest has stood in a queue."""
        waited = cast(func.extract("epoch", ASKED_AT - Job.queued_at), Double)
        statement = (
            select(Job.type, Job.status, func.count(), func.max(case((queued_and_due(), waited))))
            .where(in_state(*LIVE), *of_workspace(workspace_id))
            .group_by(Job.type, Job.status)
        )
        counts: dict[str, dict[JobStatus, int]] = {}
        waits = []
        with translated():
            for kind, status, count, longest in await self.session.execute(statement):
                counts.setdefault(kind, {})[status] = count
                waits += [] if longest is None else [longest]
        return LiveJobs(workspace_id=workspace_id, counts=counts, oldest_waiting_seconds=max(waits, default=None))


def _created(workspace_id: str | None, days: int) -> Any:
    """Counts the jobs created in the period: type, state, jobs, and the seconds of how many that were timed."""
    since = func.date_trunc("hour", ASKED_AT - timedelta(days=days), "UTC")
    of = HourOfCreation.__table__.c
    sums = [func.sum(of[name]).label(name) for name in (*_FINAL, "seconds", "timed")]
    rolled = (
        select(of.type, *sums)
        .where(of.scope == scope_of(workspace_id), of.hour >= since)
        .group_by(of.type)
        .subquery("rolled")
    )
    # A row for each final state of a type; the durations, which are of all of them, stand beside the first.
    states = (
        func.unnest(
            array([literal_column(f"'{status}'", Text) for status in _FINAL]),
            array([rolled.c[status] for status in _FINAL]),
            array([rolled.c.seconds]),
            array([rolled.c.timed]),
        )
        .table_valued("status", "jobs", "seconds", "timed", name="states")
        .render_derived()
    )
    closed = select(rolled.c.type, states.c.status, states.c.jobs, states.c.seconds, states.c.timed).select_from(
        rolled.join(states, literal_column("true"))
    )
    recent = ended_since(since)
    since_then = (
        select(recent.c.type, recent.c.status, func.count(), func.sum(recent.c.seconds), func.count(recent.c.seconds))
        .where(recent.c.created_at >= since, *of_workspace(workspace_id, recent.c.workspace_id))
        .group_by(recent.c.type, recent.c.status)
    )
    live = (
        select(
            Job.type, cast(Job.status, Text), func.count(), literal_column("0", Double), literal_column("0", Integer)
        )
        .where(in_state(*LIVE), Job.created_at >= since, *of_workspace(workspace_id))
        .group_by(Job.type, Job.status)
    )
    return union_all(closed, since_then, live)
