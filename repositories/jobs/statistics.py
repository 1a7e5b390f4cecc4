"""What jobs add up to: counts, throughput, durations, failure rates; each question is one statement.

:meth:`Counting.get_job_statistics` counts the jobs *created* in a period, from their rows. :meth:`Counting.ended_jobs`
counts *ends* by the hour in which they fell: closed hours come from the roll-up (table ``statistics``), what ended
since from the rows, so that a month costs what its hours cost and not what its millions of jobs would. Counts of closed
hours outlive their jobs. A job that a person retries ends once more, and counts once more if the roll-up had found its
first end.

Durations are a histogram on a logarithmic scale: bucket ``b`` holds ``1.1 ** b`` to ``1.1 ** (b + 1)`` seconds, so that
a percentile is within 5 % of the true one, and the histograms of hours, types and workspaces can be added up.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    SmallInteger,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements, in_state, queued_and_due
from repositories.jobs.figures import Durations, EndedJobs, LiveJobs
from repositories.jobs.read import LIVE
from repositories.models import HourOfStatistics, Job
from repositories.schemas import JobStatistics
from repositories.states import FINAL, JobStatus

GROWTH = 1.1
"""How much longer the durations of a bucket are than those of the one before it."""

SETTLING = timedelta(minutes=5)
"""How long after its end an hour is closed: what finished a job in it has committed by then, or never will."""

_HOUR = timedelta(hours=1)
_MAX_PERIOD = timedelta(days=366)
_MAX_WINDOWS = 1_000
_NEVER_STARTED = -1_000  # the bucket of jobs that ended without a start
_SHORTEST_SECONDS = 0.001  # shorter ones are counted as this: a logarithm has no place for zero


class Counting(JobStatements):
    """Statistics, and the roll-up behind them."""

    async def get_job_statistics(self, workspace_id: str | None = None, days: int = 30) -> dict[str, Any]:
        """Return what the jobs created in the last ``days`` days add up to, as :class:`JobStatistics` fields."""
        finished = Job.status.in_(sorted(FINAL))
        seconds = func.extract("epoch", Job.completed_at - Job.started_at)
        statement = (
            select(
                Job.status,
                Job.type,
                func.count(),
                func.sum(case((finished, seconds))),
                func.count(case((finished, seconds))),
            )
            .where(Job.created_at >= ASKED_AT - timedelta(days=days), *_of(workspace_id))
            .group_by(Job.status, Job.type)
        )
        by_status = dict.fromkeys(map(str, JobStatus), 0)
        by_type: dict[str, int] = {}
        total_seconds, timed = 0.0, 0
        with translated():
            for status, kind, count, spent, measured in await self.session.execute(statement):
                by_status[str(status)] += count
                by_type[kind] = by_type.get(kind, 0) + count
                total_seconds += float(spent or 0)
                timed += measured
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
            .where(in_state(*LIVE), *_of(workspace_id))
            .group_by(Job.type, Job.status)
        )
        counts: dict[str, dict[JobStatus, int]] = {}
        waits = []
        with translated():
            for kind, status, count, longest in await self.session.execute(statement):
                counts.setdefault(kind, {})[status] = count
                waits += [] if longest is None else [longest]
        return LiveJobs(workspace_id=workspace_id, counts=counts, oldest_waiting_seconds=max(waits, default=None))

    async def ended_jobs(
        self,
        period: timedelta = timedelta(days=1),
        workspace_id: str | None = None,
        window: timedelta | None = None,
    ) -> list[EndedJobs]:
        """Return what ended within ``period``, window by window, oldest first; by default it is one window.

        Args:
            period: more than zero, at most 366 days; it begins at the start of its first hour and ends now.
            workspace_id: only this workspace's jobs.
            window: whole hours, at least one; at most 1,000 windows. The last one ends now.

        Raises:
            ValueError: ``period`` or ``window`` is out of range.
        """
        if not timedelta(0) < period <= _MAX_PERIOD:
            raise ValueError(f"period must be more than zero and at most 366 days, not {period}")
        whole = -(-(period + _HOUR) // _HOUR) * _HOUR  # the first hour is counted from its start
        step = window or whole
        if step % _HOUR or step < _HOUR or whole / step > _MAX_WINDOWS:
            raise ValueError(f"window must be whole hours, and at most {_MAX_WINDOWS} in the period, not {window}")
        bounds, ends = _ends(period, workspace_id)
        place = func.floor(func.extract("epoch", ends.c.hour - bounds.c.since) / step.total_seconds())
        numbered = select(
            place.label("place"),
            ends.c.type,
            ends.c.status,
            ends.c.bucket,
            func.sum(ends.c.jobs).label("jobs"),
            func.sum(ends.c.seconds).label("seconds"),
        ).select_from(bounds.join(ends, literal_column("true")))
        sums = numbered.group_by(place, ends.c.type, ends.c.status, ends.c.bucket).cte("sums")
        statement = select(bounds.c.since, bounds.c.until, sums).select_from(
            bounds.outerjoin(sums, literal_column("true"))  # the bounds come also when nothing ended
        )
        with translated():
            rows = (await self.session.execute(statement)).all()
        since, until = rows[0].since, rows[0].until
        found: dict[int, list[_End]] = defaultdict(list)
        for row in rows:
            if row.place is not None:
                end = _End(row.type, JobStatus(row.status), row.bucket, int(row.jobs), float(row.seconds))
                found[int(row.place)].append(end)
        windows = range(-(-(until - since) // step))
        return [
            _summary(since + number * step, min(since + (number + 1) * step, until), found[number])
            for number in windows
        ]

    async def roll_up(self, hour: datetime | None = None) -> int:
        """Write the counts of every closed hour that is not written yet, in one statement; again, it changes nothing.

        An hour is closed five minutes after its end. Hours are written in order, so the newest one on the record says
        where the rows take over.

        Args:
            hour: the last hour to write, named by any moment of it; by default the last closed one.

        Returns:
            How many rows of the table ``statistics`` were written.

        Raises:
            ValueError: ``hour`` has no time zone.
        """
        if hour is not None and hour.tzinfo is None:
            raise ValueError(f"{hour} has no time zone: the hour it names would depend on the machine")
        closed = func.date_trunc("hour", ASKED_AT - SETTLING, "UTC")
        if hour is not None:
            last = hour.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            closed = func.least(closed, last + _HOUR)
        rows = _from_jobs(Job.completed_at >= _written_until(), Job.completed_at < closed).subquery()
        key = [rows.c.hour, rows.c.type, rows.c.status, rows.c.workspace_id, rows.c.bucket]
        with translated():
            written = await self.session.scalars(
                insert(HourOfStatistics)
                # In the key's order, so that two that roll up at once wait for each other only one way round.
                .from_select([column.key for column in rows.c], select(rows).order_by(*key))
                .on_conflict_do_nothing()
                .returning(HourOfStatistics.bucket)
            )
            return len(written.all())


class _End(NamedTuple):
    type: str
    status: JobStatus
    bucket: int
    jobs: int
    seconds: float


def _of(workspace_id: str | None) -> list[ColumnElement[bool]]:
    return [] if workspace_id is None else [Job.workspace_id == workspace_id]


def _written_until() -> ColumnElement[Any]:
    """The moment from which on the rows count: the end of the newest hour of the roll-up."""
    newest = select(func.max(HourOfStatistics.hour) + _HOUR).scalar_subquery()
    return func.coalesce(newest, literal_column("timestamptz '-infinity'"))


def _from_jobs(*which: ColumnElement[bool]) -> Any:
    """Ended jobs as rows of the roll-up."""
    seconds = func.greatest(cast(func.extract("epoch", Job.completed_at - Job.started_at), Double), _SHORTEST_SECONDS)
    bucket = case(
        (Job.started_at.is_(None), literal_column(str(_NEVER_STARTED))),
        else_=func.floor(func.ln(seconds) / func.ln(literal(GROWTH, Double))),
    )
    started = case((Job.started_at.is_not(None), seconds), else_=0.0)
    columns = {
        "hour": func.date_trunc("hour", Job.completed_at, "UTC"),
        "type": Job.type,
        "status": Job.status,
        "workspace_id": func.coalesce(Job.workspace_id, ""),
        "bucket": cast(bucket, SmallInteger),
    }
    named: list[Any] = [expression.label(name) for name, expression in columns.items()]
    ended = select(*named, started.label("spent")).where(Job.completed_at.is_not(None), *which).subquery("ended")
    key = [ended.c[name] for name in columns]
    return select(*key, func.count().label("jobs"), func.sum(ended.c.spent).label("seconds")).group_by(*key)


def _ends(period: timedelta, workspace_id: str | None) -> tuple[CTE, CTE]:
    """The period's bounds, and what ended in it: from the roll-up as far as that goes, then from the rows."""
    since = func.date_trunc("hour", ASKED_AT - period, "UTC")
    bounds = select(since.label("since"), ASKED_AT.label("until"), _written_until().label("rolled_up")).cte("bounds")
    # A subquery each, evaluated once: the index is asked for a range.
    begin = select(func.greatest(bounds.c.since, bounds.c.rolled_up)).scalar_subquery()
    hours = select(
        HourOfStatistics.hour,
        HourOfStatistics.type,
        cast(HourOfStatistics.status, Text).label("status"),
        HourOfStatistics.bucket,
        HourOfStatistics.jobs,
        HourOfStatistics.seconds,
    ).where(HourOfStatistics.hour >= select(bounds.c.since).scalar_subquery())
    if workspace_id is not None:
        hours = hours.where(HourOfStatistics.workspace_id == workspace_id)
    fresh = _from_jobs(Job.completed_at >= begin, *_of(workspace_id)).subquery("fresh")
    rows = select(fresh.c.hour, fresh.c.type, cast(fresh.c.status, Text), fresh.c.bucket, fresh.c.jobs, fresh.c.seconds)
    return bounds, union_all(hours, rows).cte("ends")


def _summary(since: datetime, until: datetime, ends: list[_End]) -> EndedJobs:
    counts: dict[str, dict[JobStatus, int]] = {}
    total: dict[JobStatus, int] = defaultdict(int)
    for end in ends:
        of_type = counts.setdefault(end.type, {})
        of_type[end.status] = of_type.get(end.status, 0) + end.jobs
        total[end.status] += end.jobs
    worked = total[JobStatus.COMPLETED] + total[JobStatus.FAILED]
    durations = {kind: _durations([end for end in ends if end.type == kind]) for kind in counts}
    return EndedJobs(
        since=since,
        until=until,
        counts=counts,
        per_hour=sum(total.values()) / max((until - since) / _HOUR, 1 / 3_600),
        failure_rate=100 * total[JobStatus.FAILED] / worked if worked else None,
        durations=_durations(ends),
        durations_by_type={kind: known for kind, known in durations.items() if known is not None},
    )


def _durations(ends: list[_End]) -> Durations | None:
    buckets: dict[int, int] = defaultdict(int)
    for end in ends:
        if end.bucket != _NEVER_STARTED:
            buckets[end.bucket] += end.jobs
    jobs = sum(buckets.values())
    if not jobs:
        return None
    p50, p95, p99 = (_percentile(buckets, jobs * share) for share in (0.50, 0.95, 0.99))
    return Durations(jobs=jobs, mean=sum(end.seconds for end in ends) / jobs, p50=p50, p95=p95, p99=p99)


def _percentile(buckets: dict[int, int], rank: float) -> float:
    """The middle, on the logarithmic scale, of the bucket in which the job of this rank stands."""
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= rank:
            break
    return float(GROWTH ** (bucket + 0.5))
