"""What ended: counts, throughput, durations and failure rates, window by window, in one statement.

Ends are counted in the hour in which they fell. Closed hours come from the roll-up (:mod:`repositories.jobs.rollup`),
what ended since from the rows. The histograms of the hours are added up here and not by PostgreSQL: it would lay each
of them out as rows first, which takes several times as long.
"""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, Text, cast, func, literal_column, select, union_all
from sqlalchemy.dialects.postgresql import array

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT
from repositories.jobs.figures import Durations, EndedJobs
from repositories.jobs.rollup import (
    GROWTH,
    HOUR,
    NEVER_STARTED,
    RollingUp,
    bucket_of,
    ended_since,
    of_workspace,
    scope_of,
)
from repositories.models import HourOfStatistics
from repositories.states import JobStatus

_MAX_PERIOD = timedelta(days=366)
_MAX_WINDOWS = 1_000


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
            rows = (await self.session.execute(_ends(period, workspace_id))).all()
        since, until = rows[0].since, rows[0].until
        windows = [_Window() for _ in range(-(-(until - since) // step))]
        for row in rows:
            if row.hour is not None:
                windows[(row.hour - since) // step].add(row.type, JobStatus(row.status), row)
        return [
            window.summary(since + number * step, min(since + (number + 1) * step, until))
            for number, window in enumerate(windows)
        ]


class _Window:
    """What ended between two times, by type and state: how long it took in all, and the histogram of that."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._buckets: dict[tuple[str, JobStatus], Counter[int]] = defaultdict(Counter)

    def add(self, kind: str, status: JobStatus, row: Any) -> None:
        """Add an hour's histogram."""
        self._seconds[kind] += row.seconds
        buckets = self._buckets[kind, status]
        for bucket, jobs in zip(row.buckets, row.counts, strict=True):
            buckets[bucket] += jobs

    def summary(self, since: datetime, until: datetime) -> EndedJobs:
        """Add everything up."""
        counts: dict[str, dict[JobStatus, int]] = {}
        total: Counter[JobStatus] = Counter()
        every: Counter[int] = Counter()
        by_type: dict[str, Counter[int]] = defaultdict(Counter)
        for (kind, status), buckets in self._buckets.items():
            counts.setdefault(kind, {})[status] = buckets.total()
            total[status] += buckets.total()
            by_type[kind].update(buckets)
            every.update(buckets)
        worked = total[JobStatus.COMPLETED] + total[JobStatus.FAILED]
        durations = {kind: _durations(buckets, self._seconds[kind]) for kind, buckets in by_type.items()}
        return EndedJobs(
            since=since,
            until=until,
            counts=counts,
            per_hour=total.total() / max((until - since) / HOUR, 1 / 3_600),
            failure_rate=100 * total[JobStatus.FAILED] / worked if worked else None,
            durations=_durations(every, sum(self._seconds.values())),
            durations_by_type={kind: known for kind, known in durations.items() if known is not None},
        )


def _ends(period: timedelta, workspace_id: str | None) -> Any:
    """The period's bounds beside each histogram of what ended in it: of closed hours, then of the rows."""
    since = func.date_trunc("hour", ASKED_AT - period, "UTC")
    bounds = select(since.label("since"), ASKED_AT.label("until")).cte("bounds")
    of = HourOfStatistics
    hours = select(of.hour, of.type, cast(of.status, Text).label("status"), of.buckets, of.counts, of.seconds).where(
        of.scope == scope_of(workspace_id), of.hour >= since
    )
    recent = ended_since(since)
    hour, bucket = func.date_trunc("hour", recent.c.completed_at, "UTC"), bucket_of(recent.c.seconds)
    jobs, total = cast(func.count(), Integer), func.coalesce(func.sum(recent.c.seconds), 0.0)
    since_then = (
        select(hour, recent.c.type, recent.c.status, array([bucket]), array([jobs]), total)
        .where(*of_workspace(workspace_id, recent.c.workspace_id))
        .group_by(hour, recent.c.type, recent.c.status, bucket)
    )
    ends = union_all(hours, since_then).subquery("ends")
    # The bounds come also when nothing ended.
    return select(bounds.c.since, bounds.c.until, ends).select_from(bounds.outerjoin(ends, literal_column("true")))


def _durations(every: Counter[int], seconds: float) -> Durations | None:
    buckets = {bucket: jobs for bucket, jobs in every.items() if bucket != NEVER_STARTED}
    jobs = sum(buckets.values())
    if not jobs:
        return None
    p50, p95, p99 = (_percentile(buckets, jobs * share) for share in (0.50, 0.95, 0.99))
    return Durations(jobs=jobs, mean=seconds / jobs, p50=p50, p95=p95, p99=p99)


def _percentile(buckets: dict[int, int], rank: float) -> float:
    """The middle, on the logarithmic scale, of the bucket in which the job of this rank stands."""
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= rank:
            break
    return float(GROWTH ** (bucket + 0.5))
