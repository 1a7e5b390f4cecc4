"""What ended: counts, throughput, durations and failure rates, window by window, in one statement.

Ends are counted in the hour in which they fell. Closed days and hours come from the roll-up
(:mod:`repositories.jobs.rollup`), what ended since from the rows: days where all of a day falls into one window, the
hours of the other days. The histograms are added up here and not by PostgreSQL: it would lay each of them out as rows
first, which takes several times as long.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    FromClause,
    Integer,
    cast,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.types import NullType

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT
from repositories.jobs.figures import Durations, EndedJobs
from repositories.jobs.rollup import (
    ENDS,
    GROWTH,
    HOUR,
    RollingUp,
    bucket_of,
    days_until,
    ended_since,
    of_workspace,
    scope_of,
)
from repositories.models import DayOfStatistics, HourOfStatistics
from repositories.states import JobStatus

_MAX_PERIOD = timedelta(days=366)
_MAX_WINDOWS = 1_000
_DAY = timedelta(days=1)
_HOURS, _DAYS = HourOfStatistics.__table__, DayOfStatistics.__table__


class CountingEnds(RollingUp):
    """Statistics of ended jobs, and the roll-up behind them."""

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
        whole = -(-(period + HOUR) // HOUR) * HOUR  # the first hour is counted from its start
        step = window or whole
        if step % HOUR or step < HOUR or whole / step > _MAX_WINDOWS:
            raise ValueError(f"window must be whole hours, and at most {_MAX_WINDOWS} in the period, not {window}")
        with translated():
            rows = (await self.session.execute(_ends(period, workspace_id, whole, step))).all()
        since, until = rows[0].since, rows[0].until
        windows = [_Window() for _ in range(-(-(until - since) // step))]
        for row in rows:
            if row.begin is not None:
                windows[(row.begin - since) // step].add(row)
        return [
            window.summary(since + number * step, min(since + (number + 1) * step, until))
            for number, window in enumerate(windows)
        ]


class _Window:
    """What ended between two times, by type: how many in each state, and how long they took."""

    def __init__(self) -> None:
        self._states: dict[str, Counter[JobStatus]] = defaultdict(Counter)
        self._histograms: dict[str, _Histogram] = defaultdict(_Histogram)

    def add(self, row: Any) -> None:
        """Add what ended of one type in an hour or a day."""
        self._states[row.type].update(dict(zip(ENDS, (row.completed, row.failed, row.cancelled), strict=True)))
        self._histograms[row.type].add(row.seconds, row.buckets, row.counts)

    def summary(self, since: datetime, until: datetime) -> EndedJobs:
        """Add everything up."""
        total, every = Counter[JobStatus](), _Histogram()
        for states in self._states.values():
            total.update(states)
        for histogram in self._histograms.values():
            every.add(histogram.seconds, histogram.buckets, histogram.buckets.values())
        worked = total[JobStatus.COMPLETED] + total[JobStatus.FAILED]
        durations = {kind: histogram.durations() for kind, histogram in self._histograms.items()}
        return EndedJobs(
            since=since,
            until=until,
            counts={kind: dict(+states) for kind, states in self._states.items()},  # + leaves out what is zero
            per_hour=total.total() / max((until - since) / HOUR, 1 / 3_600),
            failure_rate=100 * total[JobStatus.FAILED] / worked if worked else None,
            durations=every.durations(),
            durations_by_type={kind: known for kind, known in durations.items() if known is not None},
        )


class _Histogram:
    """Durations: their sum, and how many jobs there are in each bucket."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets: dict[int, int] = {}

    def add(self, seconds: float, buckets: Iterable[int], counts: Iterable[int]) -> None:
        """Add those of an hour, a day or a type. A month of a busy service is ten thousand turns of this loop."""
        self.seconds += seconds
        mine = self.buckets
        for bucket, jobs in zip(buckets, counts, strict=True):
            mine[bucket] = mine.get(bucket, 0) + jobs

    def durations(self) -> Durations | None:
        """Mean and percentiles; ``None`` if there is no job."""
        jobs = sum(self.buckets.values())
        if not jobs:
            return None
        p50, p95, p99 = (_percentile(self.buckets, jobs * share) for share in (0.50, 0.95, 0.99))
        return Durations(jobs=jobs, mean=self.seconds / jobs, p50=p50, p95=p95, p99=p99)


def _ends(period: timedelta, workspace_id: str | None, whole: timedelta, step: timedelta) -> Any:
    """The period's bounds beside what ended in it: in closed days, in the hours of others, and on the rows."""
    since = func.date_trunc("hour", ASKED_AT - period, "UTC")
    bounds = select(since.label("since"), ASKED_AT.label("until")).cte("bounds")
    scope = scope_of(workspace_id)
    hour, day = _HOURS.c.hour, _DAYS.c.day
    parts = [_hours(scope, hour >= since)]
    if step >= _DAY:
        # Bounds of the hours on both sides of the days, so that not all hours are looked at to find these.
        first = func.date_trunc("day", since + 23 * HOUR, "UTC")
        last = select(func.greatest(first, days_until())).scalar_subquery()
        days = [day >= first]
        parts = [_hours(scope, hour >= since, hour < first), _hours(scope, hour >= last)]
        if step < whole:
            days.append(_in_one_window(day, since, step))
            of_hour = func.date_trunc("day", hour, "UTC")
            parts.append(_hours(scope, hour >= first, hour < last, ~_in_one_window(of_hour, since, step)))
        parts.append(select(day, *_figures(_DAYS)).where(_DAYS.c.scope == scope, *days))
    ends = union_all(*parts, _since_then(since, workspace_id, one_window=step >= whole)).subquery("ends")
    # The bounds come also when nothing ended.
    return select(bounds.c.since, bounds.c.until, ends).select_from(bounds.outerjoin(ends, literal_column("true")))


def _hours(scope: str, *where: ColumnElement[bool]) -> Any:
    return select(_HOURS.c.hour.label("begin"), *_figures(_HOURS)).where(_HOURS.c.scope == scope, *where)


def _figures(of: FromClause) -> list[ColumnElement[Any]]:
    # As the driver brings them: SQLAlchemy's type of an array would copy each of them, twice.
    arrays = [type_coerce(of.c[name], NullType()).label(name) for name in ("buckets", "counts")]
    return [*(of.c[name] for name in ("type", *map(str, ENDS), "seconds")), *arrays]


def _in_one_window(day: Any, since: Any, step: timedelta) -> ColumnElement[bool]:
    """The first and the last hour of the day are in the same window."""
    number, of_last = (
        func.floor(cast(func.extract("epoch", at - since), Double) / literal(step.total_seconds(), Double))
        for at in (day, day + 23 * HOUR)
    )
    return number == of_last


def _since_then(since: Any, workspace_id: str | None, *, one_window: bool) -> Any:
    """What ended since the roll-up, in the form of its hours; a bucket may come once for each state.

    Two thousand rows, at the end of a busy service's hour: what is done to each of them shows.
    """
    recent = ended_since(since).c
    hour = func.floor(func.date_part("epoch", recent.completed_at, type_=Double) / HOUR.total_seconds())
    key = {"type": recent.type, "status": recent.status, "bucket": bucket_of(recent.seconds)}
    if not one_window:
        key["hour"] = hour
    buckets = (
        select(
            *(expression.label(name) for name, expression in key.items()),
            func.count().label("jobs"),
            func.sum(recent.seconds).label("seconds"),
        )
        .where(*of_workspace(workspace_id, recent.workspace_id))
        .group_by(*key.values())
        .subquery("buckets")
    )
    of = buckets.c
    begin, places = (
        (since, [of.type]) if one_window else (func.to_timestamp(of.hour * HOUR.total_seconds()), [of.type, of.hour])
    )
    timed = of.bucket.is_not(None)
    states = [cast(func.coalesce(func.sum(of.jobs).filter(of.status == str(state)), 0), Integer) for state in ENDS]
    histogram = [
        func.coalesce(func.array_agg(part).filter(timed), literal_column("'{}'"))
        for part in (of.bucket, cast(of.jobs, Integer))
    ]
    return select(begin, of.type, *states, func.coalesce(func.sum(of.seconds), 0.0), *histogram).group_by(*places)


def _percentile(buckets: dict[int, int], rank: float) -> float:
    """The middle, on the logarithmic scale, of the bucket in which the job of this rank stands."""
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= rank:
            break
    return float(GROWTH ** (bucket + 0.5))
