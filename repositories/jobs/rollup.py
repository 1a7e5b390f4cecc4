"""The roll-up: what ended in each closed hour, written once, so that statistics need not walk over the jobs again.

Two tables. ``statistics`` counts *ends* by the hour in which they fell, with a histogram of their durations;
``statistics_created`` counts the same jobs by the hour in which they were *created*, and grows as they end. Both hold
every figure twice: for all jobs together, so that the whole service costs no more than one workspace, and for each
workspace. The rows take over where the newest written hour ends (:func:`written_until`).

Durations are a histogram on a logarithmic scale: bucket ``b`` holds ``1.1 ** b`` to ``1.1 ** (b + 1)`` seconds, so that
a percentile is within 5 % of the true one, and the histograms of hours, types and workspaces can be added up.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    Integer,
    SmallInteger,
    Text,
    and_,
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
from repositories.models import HourOfCreation, HourOfStatistics, Job
from repositories.states import FINAL

GROWTH = 1.1
"""How much longer the durations of a bucket are than those of the one before it."""

SETTLING = timedelta(minutes=5)
"""How long after its end an hour is closed: what finished a job in it has committed by then, or never will."""

SPAN = timedelta(days=7)
"""The most that one call writes: a week of a busy service's jobs is some seconds of work."""

NEVER_STARTED = -1_000
"""The bucket of jobs that ended without a start."""

HOUR = timedelta(hours=1)
_SHORTEST_SECONDS = 0.001  # shorter ones are counted as this: a logarithm has no place for zero
_EVERY_JOB = "all"
_OF_WORKSPACE = "workspace:"
_FINAL = sorted(FINAL)


def scope_of(workspace_id: str | None) -> str:
    """The name under which a workspace's figures are written; ``None``: those of all jobs."""
    return _EVERY_JOB if workspace_id is None else _OF_WORKSPACE + workspace_id


def written_until() -> ColumnElement[Any]:
    """The moment from which on the rows count: the end of the newest hour of the roll-up."""
    newest = select(func.max(HourOfStatistics.hour) + HOUR).where(HourOfStatistics.scope == literal_column("'all'"))
    return func.coalesce(newest.scalar_subquery(), literal_column("timestamptz '-infinity'"))


def spent() -> ColumnElement[float]:
    """Seconds from the start of the last attempt to the end; null for a job that never started."""
    seconds = cast(func.extract("epoch", Job.completed_at - Job.started_at), Double)
    # Not GREATEST alone: of null and a number it is the number.
    return case((Job.started_at.is_not(None), func.greatest(seconds, _SHORTEST_SECONDS)))


def bucket_of(seconds: ColumnElement[float]) -> ColumnElement[int]:
    """The bucket in which ``seconds`` is counted."""
    place = func.floor(func.ln(seconds) / func.ln(literal(GROWTH, Double)))
    return cast(func.coalesce(place, literal_column(str(NEVER_STARTED))), SmallInteger)


def of_workspace(workspace_id: str | None, owner: Any = Job.workspace_id) -> list[ColumnElement[bool]]:
    """The condition that a job is this workspace's; none for ``None``."""
    return [] if workspace_id is None else [owner == workspace_id]


def ended_since(since: ColumnElement[Any]) -> CTE:
    """The jobs that ended after ``since`` and are not rolled up; ``seconds`` is what they took.

    Materialized, and bounded at both ends, for the planner's sake: it cannot know where the roll-up ends, takes a range
    of unknown ends for a narrow one, and so asks the index on the time, whatever else is asked of these rows.
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
        .cte("recent")
        .prefix_with("MATERIALIZED")
    )


class RollingUp(JobStatements):
    """Writes the roll-up."""

    async def roll_up(self, hour: datetime | None = None) -> int:
        """Write the counts of the closed hours that are not written yet, in one statement; again, it changes nothing.

        An hour is closed five minutes after its end. Hours are written in order, so the newest one on the record says
        where the rows take over. A call writes at most a week; after a longer pause the next call goes on.

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
    """The statement that writes both tables and tells how many hours' rows it wrote."""
    ended = _ended(closed)
    key = [ended.c.hour, ended.c.scope, ended.c.type, ended.c.status]
    buckets = (
        select(*key, ended.c.bucket, func.sum(ended.c.jobs).label("jobs"), func.sum(ended.c.seconds).label("seconds"))
        .group_by(*key, ended.c.bucket)
        .subquery("buckets")
    )
    group = [buckets.c[column.key] for column in key]
    histograms = (
        select(
            *group,
            cast(func.sum(buckets.c.jobs), Integer),
            func.sum(buckets.c.seconds),
            func.array_agg(aggregate_order_by(buckets.c.bucket, buckets.c.bucket)),
            func.array_agg(aggregate_order_by(cast(buckets.c.jobs, Integer), buckets.c.bucket)),
        )
        .group_by(*group)
        # In the key's order, so that two that roll up at once wait for each other only one way round.
        .order_by(buckets.c.scope, buckets.c.hour, buckets.c.type, buckets.c.status)
    )
    columns = ["hour", "scope", "type", "status", "jobs", "seconds", "buckets", "counts"]
    ends = (
        insert(HourOfStatistics)
        .from_select(columns, histograms)
        .on_conflict_do_nothing()
        .returning(HourOfStatistics.hour, HourOfStatistics.scope, HourOfStatistics.type, HourOfStatistics.status)
        .cte("ends")
    )
    # Of two that roll up at once only the one that wrote the ends adds them here, so nothing is added twice.
    mine = and_(tuple_(*key).in_(select(ends.c.hour, ends.c.scope, ends.c.type, ends.c.status)))
    totals = {
        **{status.value: func.sum(case((ended.c.status == status.value, ended.c.jobs), else_=0)) for status in _FINAL},
        "timed": func.sum(case((ended.c.bucket != NEVER_STARTED, ended.c.jobs), else_=0)),
        "seconds": func.sum(ended.c.seconds),
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
    return select(func.count()).select_from(ends).add_cte(added)


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
        select(*key, func.count().label("jobs"), func.coalesce(func.sum(each.c.seconds), 0.0).label("seconds"))
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
            *(counted.c[name] for name in ("hour", "created_hour", "type", "status", "bucket", "jobs", "seconds")),
            named.c.scope,
        )
        .select_from(counted)
        .join(named, literal_column("true"))
        .where(named.c.scope.is_not(None))
        .cte("ended")
    )
