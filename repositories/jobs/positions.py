"""Where jobs stand in their queue, and how long they may still wait.

This is the order on the record: priority, then age. What a worker takes next is Redis's order: the same, unless
something was put back.
"""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from sqlalchemy import CTE, Double, case, cast, func, literal, literal_column, select, tuple_
from sqlalchemy.orm import aliased

from repositories.base import as_uuid
from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements, check_batch, named, queued_and_due
from repositories.jobs.figures import WaitEstimate
from repositories.models import Job

_SAMPLE = 1_000  # the latest finished jobs of a queue whose pace is taken


class Positioning(JobStatements):
    """Queue positions and estimated waits; one statement each, for one job or for ``MAX_BATCH``."""

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

        The pace is that of the queue's latest 1,000 jobs that were started and finished within ``window``.

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
        queues = select(places.c.queue).distinct().cte("queues")
        latest = (
            select(Job.completed_at)
            .where(Job.completed_at >= ASKED_AT - window, Job.queue == queues.c.queue, Job.started_at.is_not(None))
            .order_by(Job.completed_at.desc())
            .limit(_SAMPLE)
            .lateral("latest")
        )
        # A full sample reaches back to its oldest job, a smaller one is all there was in the whole window.
        reach = case(
            (func.count(latest.c.completed_at) < _SAMPLE, literal(window.total_seconds(), Double)),
            else_=cast(func.extract("epoch", ASKED_AT - func.min(latest.c.completed_at)), Double),
        )
        paces = (
            select(queues.c.queue, func.count(latest.c.completed_at).label("finished"), reach.label("seconds"))
            .select_from(queues)
            .outerjoin(latest, literal_column("true"))
            .group_by(queues.c.queue)
            .cte("paces")
        )
        statement = select(places.c.id, places.c.position, paces.c.finished, paces.c.seconds).join(
            paces, paces.c.queue == places.c.queue
        )
        with translated():
            return {
                job_id: WaitEstimate(
                    job_id=job_id,
                    position=position,
                    seconds=position * seconds / finished if finished else None,
                    finished=finished,
                    window_seconds=seconds,
                )
                for job_id, position, finished, seconds in await self.session.execute(statement)
            }


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
