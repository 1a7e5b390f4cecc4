"""The roll-up: what ended in each closed hour and day, written once, so that statistics need not walk over the jobs.

Three tables. ``statistics`` counts *ends* by the hour in which they fell, with a histogram of their durations;
``statistics_days`` adds the hours of each closed day (UTC) up; ``statistics_created`` counts the same jobs by the hour
in which they were *created*, and grows as they end. All hold every figure twice: for all jobs together, so that the
whole service costs no more than one workspace, and for each workspace. Hours take over where the newest written day
ends (:func:`days_until`), the rows where the newest written hour ends (:func:`written_until`).

Durations are a histogram on a logarithmic scale: bucket ``b`` holds ``1.1 ** b`` to ``1.1 ** (b + 1)`` seconds, so that
a percentile is within 5 % of the true one, and the histograms of hours, types and workspaces can be added up.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    FromClause,
    Integer,
    SmallInteger,
    Text,
    case,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, array, insert

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements
from repositories.models import DayOfStatistics, HourOfCreation, HourOfStatistics, Job
from repositories.states import JobStatus

GROWTH = 1.1
"""How much longer the durations of a bucket are than those of the one before it."""

SETTLING = timedelta(minutes=5)
"""How long after its end an hour is closed: what finished a job in it has committed by then, or never will."""

SPAN = timedelta(days=7)
"""The most that one call writes: a week of a busy service's jobs is some seconds of work."""

HOUR = timedelta(hours=1)
ENDS = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
"""The states that the tables have a column for."""

_SHORTEST_SECONDS = 0.001  # shorter ones are counted as this: a logarithm has no place for zero
_EVERY_JOB = "all"
_OF_WORKSPACE = "workspace:"
_FINAL = tuple(map(str, ENDS))
_FIGURES = (*_FINAL, "seconds", "buckets", "counts")


def scope_of(workspace_id: str | None) -> str:
    """The name under which a workspace's figures are written; ``None``: those of all jobs."""
    return _EVERY_JOB if workspace_id is None else _OF_WORKSPACE + workspace_id


def written_until() -> ColumnElement[Any]:
    """The moment from which on the rows count: the end of the newest hour of the roll-up."""
    return _end_of_newest(HourOfStatistics.hour, HourOfStatistics.scope, "1 hour")


def days_until() -> ColumnElement[Any]:
    """The moment from which on the hours count: the end of the newest day of the roll-up."""
    return _end_of_newest(DayOfStatistics.day, DayOfStatistics.scope, "24 hours")


def _end_of_newest(time: Any, scope: Any, length: str) -> ColumnElement[Any]:
    # Not "1 day": that would be longer or shorter where the session's time zone changes its clocks.
    newest = select(func.max(time) + literal_column(f"interval '{length}'")).where(scope == literal_column("'all'"))
    return func.coalesce(newest.scalar_subquery(), literal_column("timestamptz '-infinity'"))


def spent() -> ColumnElement[float]:
    """Seconds from the start of the last attempt to the end; null for a job that never started."""
    # date_part reckons in double precision, EXTRACT in numeric: the same here, and three times as slow.
    seconds = func.date_part("epoch", Job.completed_at - Job.started_at, type_=Double)
    # Not GREATEST alone: of null and a number it is the number.
    return case((Job.started_at.is_not(None), func.greatest(seconds, _SHORTEST_SECONDS)))


def bucket_of(seconds: ColumnElement[float]) -> ColumnElement[int]:
    """The bucket in which ``seconds`` is counted; null for a job that never started."""
    return cast(func.floor(func.ln(seconds) / func.ln(literal(GROWTH, Double))), SmallInteger)


def of_workspace(workspace_id: str | None, owner: Any = Job.workspace_id) -> list[ColumnElement[bool]]:
    """The condition that a job is this workspace's; none for ``None``."""
    return [] if workspace_id is None else [owner == workspace_id]


def ended_since(since: ColumnElement[Any]) -> FromClause:
    """The jobs that ended after ``since`` and are not rolled up; ``seconds`` is what they took.

    Bounded at both ends for the planner's sake: it cannot know where the roll-up ends, takes a range of unknown ends
    for a narrow one, and so asks the index on the time. The limit, which is never reached, keeps it from looking by
    what else is asked of these rows, and from starting parallel workers: each takes as long as the rest.
    """
    begin = select(func.greatest(since, written_until())).scalar_subquery()
    return (
        select(
            Job.type,
            cast(Job.status, Text).label("status"),
            Job.workspace_id,
            Job.created_at,
            Job.completed_at,
            spent().label("seconds"),
        )
        .where(Job.completed_at >= begin, Job.completed_at < literal_column("timestamptz 'infinity'"))
        .limit(literal_column(str(2**31 - 1)))
        .subquery("recent")
    )


class RollingUp(JobStatements):
    """Writes the roll-up."""

    async def roll_up(self, hour: datetime | None = None) -> int:
        """Write the counts of the closed hours that are not written yet, in one statement; again, it changes nothing.

        An hour is closed five minutes after its end. Hours are written in order, so the newest one on the record says
        where the rows take over. A call writes at most a week; after a longer pause the next call goes on. Days follow
        in order as well, each once all its hours were written by earlier calls: those are on the record for all who
        roll up at once, so that all add up the same.

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
            closed = func.least(closed, last + HOUR)
        with translated():
            return int(await self.session.scalar(_written(closed)) or 0)


def _written(closed: ColumnElement[Any]) -> Any:
    """The statement that writes the three tables and tells how many hours' rows it wrote."""
    ended = _ended(closed)
    hours = (
        insert(HourOfStatistics)
        .from_select(["scope", "hour", "type", *_FIGURES], _histograms(ended, "hour"))
        .on_conflict_do_nothing()
        .returning(HourOfStatistics.scope, HourOfStatistics.hour, HourOfStatistics.type)
        .cte("hours")
    )
    # Of two that roll up at once only the one that wrote the ends adds them here, so nothing is added twice.
    mine = tuple_(ended.c.scope, ended.c.hour, ended.c.type).in_(select(hours.c.scope, hours.c.hour, hours.c.type))
    totals = {
        **{state: func.sum(ended.c[state]) for state in _FINAL},
        "timed": func.coalesce(func.sum(ended.c.jobs).filter(ended.c.bucket.is_not(None)), 0),
        "seconds": func.coalesce(func.sum(ended.c.seconds), 0.0),
    }
    places = [ended.c.scope, ended.c.created_hour, ended.c.type]
    more = insert(HourOfCreation).from_select(
        ["scope", "hour", "type", *totals],
        select(*places, *totals.values()).where(mine).group_by(*places).order_by(*places),
    )
    added = more.on_conflict_do_update(
        index_elements=["scope", "hour", "type"],
        set_={name: HourOfCreation.__table__.c[name] + more.excluded[name] for name in totals},
    ).cte("added")
    days = (
        insert(DayOfStatistics)
        .from_select(["scope", "day", "type", *_FIGURES], _histograms(_closed_days(), "day"))
        .on_conflict_do_nothing()
        .cte("days")
    )
    return select(func.count()).select_from(hours).add_cte(added, days)


def _histograms(parts: Any, time: str) -> Any:
    """Adds ``parts`` up to the rows of a table of ends: one for each scope, time and type."""
    sums = [func.sum(parts.c[name]).label(name) for name in ("jobs", *_FINAL, "seconds")]
    buckets = (
        select(parts.c.scope, parts.c[time], parts.c.type, parts.c.bucket, *sums)
        .group_by(parts.c.scope, parts.c[time], parts.c.type, parts.c.bucket)
        .subquery("buckets")
    )
    key = [buckets.c.scope, buckets.c[time], buckets.c.type]
    timed = buckets.c.bucket.is_not(None)
    histogram = [
        func.coalesce(func.array_agg(aggregate_order_by(of, buckets.c.bucket)).filter(timed), literal_column("'{}'"))
        for of in (buckets.c.bucket, cast(buckets.c.jobs, Integer))
    ]
    return (
        select(
            *key,
            *(func.sum(buckets.c[state]) for state in _FINAL),
            func.coalesce(func.sum(buckets.c.seconds), 0.0),
            *histogram,
        )
        .group_by(*key)
        # In the key's order, so that two that roll up at once wait for each other only one way round.
        .order_by(*key)
    )


def _closed_days() -> Any:
    """The hours of the days that are to be written, bucket by bucket."""
    of = HourOfStatistics.__table__.c
    begin, until = (
        select(bound).scalar_subquery() for bound in (days_until(), func.date_trunc("day", written_until(), "UTC"))
    )
    # A row for each bucket; what is known of the hour as a whole stands beside the first.
    once = [*_FINAL, "seconds"]
    parts = (
        func.unnest(of.buckets, of.counts, *(array([of[name]]) for name in once))
        .table_valued("bucket", "jobs", *once, name="parts")
        .render_derived()
    )
    return (
        select(of.scope, func.date_trunc("day", of.hour, "UTC").label("day"), of.type, *parts.c)
        .select_from(HourOfStatistics)
        .join(parts, literal_column("true"))
        .where(begin < until, of.hour >= begin, of.hour < until)  # the first is false, and known at once, most times
        .subquery("closed")
    )


def _ended(closed: ColumnElement[Any]) -> Any:
    """What ended in the hours that are to be written, once for all jobs and once for its workspace."""
    begin = select(written_until()).scalar_subquery()
    oldest = select(func.min(Job.completed_at)).where(Job.completed_at >= begin).scalar_subquery()
    until = select(func.least(closed, func.date_trunc("hour", oldest, "UTC") + SPAN)).scalar_subquery()
    seconds = spent()
    columns = {
        "hour": func.date_trunc("hour", Job.completed_at, "UTC"),
        "created_hour": func.date_trunc("hour", Job.created_at, "UTC"),
        "type": Job.type,
        "status": cast(Job.status, Text),
        "workspace_id": Job.workspace_id,
        "bucket": bucket_of(seconds),
    }
    each = (
        select(*(expression.label(name) for name, expression in columns.items()), seconds.label("seconds"))
        .where(Job.completed_at >= begin, Job.completed_at < until)
        .subquery("each")
    )
    key = [each.c[name] for name in columns]
    counted = (
        select(*key, func.count().label("jobs"), func.sum(each.c.seconds).label("seconds"))
        .group_by(*key)
        .subquery("counted")
    )
    # The concatenation with no workspace is null: such jobs are counted among all jobs only.
    names: list[ColumnElement[str]] = [
        literal(_EVERY_JOB, Text),
        literal(_OF_WORKSPACE, Text) + counted.c.workspace_id,
    ]
    named = func.unnest(array(names)).table_valued(column("scope", Text), name="named").render_derived()
    return (
        select(
            named.c.scope,
            *(counted.c[name] for name in ("hour", "created_hour", "type", "bucket", "jobs", "seconds")),
            *(case((counted.c.status == state, counted.c.jobs), else_=0).label(state) for state in _FINAL),
        )
        .select_from(counted)
        .join(named, literal_column("true"))
        .where(named.c.scope.is_not(None))
        .cte("ended")
    )
