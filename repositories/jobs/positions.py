"""Where jobs stand in their queue, how long they may still wait, and how long the running ones still need.

This is the order on the record: priority, then age. What a worker takes next is Redis's order: the same, unless
something was put back.
"""

from collections.abc import Collection
from datetime import timedelta
from math import sqrt
from uuid import UUID

from sqlalchemy import CTE, Double, Integer, case, cast, column, func, literal, literal_column, select, tuple_
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import aliased

from repositories.base import as_uuid
from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements, check_batch, in_state, named, queued_and_due
from repositories.jobs.figures import ENOUGH, RestEstimate, WaitEstimate
from repositories.models import Job, JobItem
from repositories.states import JobStatus

_SAMPLE = 1_000  # the latest finished jobs of a queue whose pace is taken
_LOOK = 4_000  # the latest finished jobs of all queues among which they are looked for: more would take longest
_ITEM_SAMPLE = 100  # the latest finished items of a running job
_SLICES = 10  # the pace of the whole time is compared with that of so many parts of it
_FOUR_IN_FIVE = 1.2816  # the part of a normal distribution within so many deviations


class Positioning(JobStatements):
    """Queue positions, estimated waits and rests; one statement each, for one job or for ``MAX_BATCH``."""

    async def queue_positions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        """Return where queued jobs stand in their queue, from 1; others are left out.

        Reads the index entries of the jobs that stand before the last of ``ids``, each once, and nothing behind it.

        Args:
            ids: at most ``MAX_BATCH``.
        """
        check_batch(len(ids), "find the positions of")
        places = _positions(ids)
        with translated():
            rows = await self.session.execute(select(places.c.id, places.c.position))
            return {job_id: position for job_id, position in rows}  # noqa: C416 - dict() cannot take typed rows

    async def get_job_queue_position(self, job_id: UUID | str) -> int | None:
        """Return where the job stands in its queue, from 1; ``None`` if it does not wait there."""
        key = as_uuid(job_id)
        return None if key is None else (await self.queue_positions([key])).get(key)

    async def estimate_waits(
        self, ids: Collection[UUID], window: timedelta = timedelta(minutes=10)
    ) -> dict[UUID, WaitEstimate]:
        """Estimate from the queue's measured pace when queued jobs will start; others are left out.

        The pace is that of the queue's latest 1,000 jobs that were started and finished within ``window`` and are among
        the latest 4,000 of all queues. How uneven it was tells how far the estimate may be off.

        Args:
            ids: at most ``MAX_BATCH``.
            window: how far back to look, more than zero. A longer one is steadier, a shorter one follows changes.

        Raises:
            ValueError: ``window`` is not positive.
        """
        check_batch(len(ids), "estimate the waits of")
        if window <= timedelta(0):
            raise ValueError(f"window must be more than zero, not {window}")
        places = _positions(ids)
        paces = _paces(places, window)
        statement = select(places.c.id, places.c.position, paces.c.finished, paces.c.seconds, paces.c.squares).join(
            paces, paces.c.queue == places.c.queue
        )
        with translated():
            rows = (await self.session.execute(statement)).all()
        waits = {}
        for job_id, position, finished, seconds, squares in rows:
            wait = WaitEstimate(
                job_id=job_id, position=position, seconds=None, finished=finished, window_seconds=seconds
            )
            if finished:
                wait.seconds = position * seconds / finished
            if finished >= ENOUGH:
                # Independent slices: what comes in a time is as uneven as they were, and so is the pace they gave.
                mean = finished / _SLICES
                uneven = max(0.0, (squares - _SLICES * mean**2) / (_SLICES - 1)) / mean
                off = sqrt(uneven * position * (1 + position / finished)) * seconds / finished
                wait.low_seconds, wait.high_seconds = _around(wait.seconds or 0.0, off)
            waits[job_id] = wait
        return waits

    async def estimate_rests(self, ids: Collection[UUID]) -> dict[UUID, RestEstimate]:
        """Estimate from the pace of their own items when running jobs will end: one statement.

        The pace is that of the latest 100 items of the present attempt. Jobs that do not run, and those of which fewer
        than :data:`ENOUGH` items have ended in this attempt, are left out: there is nothing to tell it from.

        Args:
            ids: at most ``MAX_BATCH``.
        """
        check_batch(len(ids), "estimate the rests of")
        left = Job.items_total - Job.items_done - Job.items_failed - Job.items_skipped
        latest = (
            select(JobItem.finished_at)
            .where(JobItem.job_id == Job.id, JobItem.attempt == Job.attempt, JobItem.finished_at.is_not(None))
            .order_by(JobItem.finished_at.desc())
            .limit(_ITEM_SAMPLE)
            .correlate(Job)
            .lateral("latest")
        )
        # The first item's time is told from the start of the attempt, each other's from the item before it: with items
        # side by side it is their pace that counts, not how long each takes.
        before = func.lag(latest.c.finished_at, 1, Job.started_at).over(
            partition_by=Job.id, order_by=latest.c.finished_at
        )
        gap = cast(func.extract("epoch", latest.c.finished_at - before), Double)
        since = cast(func.extract("epoch", ASKED_AT - latest.c.finished_at), Double)
        gaps = (
            select(Job.id, left.label("left"), gap.label("gap"), since.label("since"))
            .select_from(Job)
            .join(latest, literal_column("true"))
            .where(named(ids), in_state(JobStatus.PROCESSING), left > 0)
            .cte("gaps")
        )
        statement = (
            select(
                gaps.c.id,
                gaps.c.left,
                func.count(),
                func.avg(gaps.c.gap),
                func.var_samp(gaps.c.gap),
                func.min(gaps.c.since),
            )
            .group_by(gaps.c.id, gaps.c.left)
            .having(func.count() >= literal(ENOUGH, Integer))
        )
        with translated():
            rows = (await self.session.execute(statement)).all()
        rests = {}
        for job_id, items, finished, mean, variance, since_last in rows:
            # What the item that is next has taken already is no longer to come; it never takes less than nothing.
            seconds = items * mean - min(since_last, mean)
            low, high = _around(seconds, sqrt(variance * items * (1 + items / finished)))
            rests[job_id] = RestEstimate(
                job_id=job_id, items_left=items, finished=finished, seconds=seconds, low_seconds=low, high_seconds=high
            )
        return rests


def _around(seconds: float, deviation: float) -> tuple[float, float]:
    return max(0.0, seconds - _FOUR_IN_FIVE * deviation), seconds + _FOUR_IN_FIVE * deviation


def _paces(places: CTE, window: timedelta) -> CTE:
    """Of each asked queue: how many jobs finished, in how many seconds, and the slices' squared counts, added up."""
    queues = select(places.c.queue).distinct().cte("queues")
    # No index has queues and ends together: the end of a queue that stands still is not looked for among millions.
    recent = (
        select(Job.queue, Job.completed_at, Job.started_at)
        .where(Job.completed_at >= ASKED_AT - window, Job.started_at.is_not(None))
        .order_by(Job.completed_at.desc())
        .limit(_LOOK)
        .cte("recent")
    )
    reached_back = func.count() < literal(_LOOK, Integer)
    horizon = select(case((reached_back, ASKED_AT - window), else_=func.min(recent.c.completed_at))).select_from(recent)
    latest = (
        select(recent.c.completed_at, recent.c.started_at)
        .where(recent.c.queue == queues.c.queue)
        .order_by(recent.c.completed_at.desc())
        .limit(_SAMPLE)
        .lateral("latest")
    )
    # From the first start, not from the start of the window: before it there was nothing to do. A full sample reaches
    # back to its first end: it was running before.
    first = case(
        (func.count(latest.c.completed_at) < _SAMPLE, func.min(latest.c.started_at)),
        else_=func.min(latest.c.completed_at),
    )
    since = func.greatest(horizon.scalar_subquery(), first)
    reaches = (
        select(
            queues.c.queue,
            func.count(latest.c.completed_at).label("finished"),
            func.coalesce(
                func.greatest(cast(func.extract("epoch", ASKED_AT - since), Double), literal(1e-6, Double)),
                literal(window.total_seconds(), Double),
            ).label("seconds"),
            func.array_agg(latest.c.completed_at).label("ends"),
        )
        .select_from(queues)
        .outerjoin(latest, literal_column("true"))
        .group_by(queues.c.queue)
        .cte("reaches")
    )
    ended = func.unnest(reaches.c.ends).table_valued(column("at", TIMESTAMP(timezone=True)), name="ended")
    ended = ended.render_derived()
    age = cast(func.extract("epoch", ASKED_AT - ended.c.at), Double) / reaches.c.seconds
    counts = (
        select(func.count().label("jobs"))
        .select_from(ended)
        .group_by(func.width_bucket(age, literal(0.0, Double), literal(1.0, Double), literal(_SLICES, Integer)))
        .correlate(reaches)
        .lateral("counts")
    )
    squares = select(func.sum(counts.c.jobs * counts.c.jobs)).correlate(reaches).scalar_subquery()
    # Materialized: the planner expects one asked job, and would reckon the paces anew for each of fifty.
    return (
        select(reaches.c.queue, reaches.c.finished, reaches.c.seconds, cast(squares, Double).label("squares"))
        .cte("paces")
        .prefix_with("MATERIALIZED")
    )


def _positions(ids: Collection[UUID]) -> CTE:
    """The asked jobs that stand in a queue: id, queue, position.

    Between one asked job and the next the index is counted once; the positions are the running sums.
    """
    order = (Job.priority, Job.queued_at, Job.id)
    nothing = ("-1", "timestamptz '-infinity'", f"uuid '{UUID(int=0)}'")  # stands before every job
    before = [
        func.lag(column, literal_column("1"), literal_column(start))
        .over(partition_by=Job.queue, order_by=order)
        .label(f"{column.key}_before")
        for column, start in zip(order, nothing, strict=True)
    ]
    asked = select(Job.queue, *order, *before).where(named(ids), queued_and_due()).cte("asked")
    other = aliased(Job, name="other")
    place = tuple_(other.priority, other.queued_at, other.id)
    step = (
        select(func.count())
        .where(
            queued_and_due(other),
            other.queue == asked.c.queue,
            place > tuple_(asked.c.priority_before, asked.c.queued_at_before, asked.c.id_before),
            place <= tuple_(asked.c.priority, asked.c.queued_at, asked.c.id),
        )
        .scalar_subquery()
    )
    steps = select(asked, step.label("step")).cte("steps")
    total = func.sum(steps.c.step).over(
        partition_by=steps.c.queue, order_by=(steps.c.priority, steps.c.queued_at, steps.c.id)
    )
    return select(steps.c.id, steps.c.queue, cast(total, steps.c.priority.type).label("position")).cte("places")
