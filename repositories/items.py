"""The items of a job: one row a document or question, written once and only by the attempt that owns the job."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    Float,
    Integer,
    Text,
    Uuid,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import translated
from repositories.jobs.core import NOW
from repositories.models import ITEM_STATUS, Job, JobItem
from repositories.recordable import encoded
from repositories.schemas import Held, ItemOutcome, NewItem
from repositories.states import ItemStatus, JobStatus


class ItemRepository:
    """Expand, read and record items. The caller owns the transaction; nothing here commits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def expand(self, held: Held, items: Sequence[NewItem]) -> bool:
        """Write a job's item list; later attempts find it and only read it.

        Returns:
            ``False`` if the attempt no longer owns the job: nothing was written, and the task must stop.
        """
        with translated():
            owner = await self._session.scalar(
                update(Job)
                .where(Job.id == held.job_id, Job.attempt == held.attempt, Job.status == JobStatus.PROCESSING)
                .values(items_total=len(items), updated_at=NOW)
                .returning(Job.id)
                .execution_options(synchronize_session=False)
            )
            if owner is None:
                return False
            if not items:
                return True
            rows = (
                func.unnest(
                    literal([item.position for item in items], ARRAY(Integer)),
                    literal([item.key for item in items], ARRAY(Text)),
                    literal([encoded(item.spec) for item in items], ARRAY(Text)),
                )
                .table_valued(column("position", Integer), column("key", Text), column("spec", Text), name="new")
                .render_derived()
            )
            await self._session.execute(
                insert(JobItem)
                .from_select(
                    ["job_id", "position", "key", "spec", "attempt"],
                    select(
                        literal(held.job_id, Uuid),
                        rows.c.position,
                        rows.c.key,
                        cast(rows.c.spec, JSONB),
                        literal(held.attempt, Integer),
                    ),
                )
                .on_conflict_do_nothing()
            )
            return True

    async def record(self, held: Held, outcomes: Sequence[ItemOutcome]) -> bool:
        """Record what became of items, and the job's counts and progress with it, in one statement.

        An item that is already recorded stays as it is, so no item counts twice.

        Returns:
            ``False`` if the attempt no longer owns the job: nothing was written, and the task must stop.
        """
        mine = _owned(held)
        rows = (
            func.unnest(
                literal([item.position for item in outcomes], ARRAY(Integer)),
                literal([str(item.status) for item in outcomes], ARRAY(Text)),
                literal([None if item.result is None else encoded(item.result) for item in outcomes], ARRAY(Text)),
                literal([item.error.code if item.error else None for item in outcomes], ARRAY(Text)),
                literal([item.error.message if item.error else None for item in outcomes], ARRAY(Text)),
                literal([encoded(item.timings) for item in outcomes], ARRAY(Text)),
            )
            .table_valued(
                column("position", Integer),
                *(column(name, Text) for name in ("status", "result", "code", "message", "timings")),
                name="new",
            )
            .render_derived()
        )
        written = (
            update(JobItem)
            .where(
                JobItem.job_id == mine.c.id,
                JobItem.position == rows.c.position,
                JobItem.status == ItemStatus.PENDING,
            )
            .values(
                status=cast(rows.c.status, ITEM_STATUS),
                attempt=held.attempt,
                result=cast(rows.c.result, JSONB),
                error_code=rows.c.code,
                error=rows.c.message,
                timings=cast(rows.c.timings, JSONB),
                finished_at=NOW,
            )
            .returning(JobItem.status)
            .cte("written")
        )

        def newly(status: ItemStatus) -> object:
            return select(func.count()).select_from(written).where(written.c.status == status).scalar_subquery()

        every = select(func.count()).select_from(written).scalar_subquery()
        finished = Job.items_done + Job.items_failed + Job.items_skipped + every
        with translated():
            owner = await self._session.scalar(
                update(Job)
                .where(Job.id == mine.c.id)
                .values(
                    items_done=Job.items_done + newly(ItemStatus.DONE),
                    items_failed=Job.items_failed + newly(ItemStatus.FAILED),
                    items_skipped=Job.items_skipped + newly(ItemStatus.SKIPPED),
                    progress=case(
                        (Job.items_total > 0, func.least(100.0, cast(finished, Float) * 100 / Job.items_total)),
                        else_=Job.progress,
                    ),
                    updated_at=NOW,
                )
                .returning(Job.id)
                .execution_options(synchronize_session=False)
            )
            return owner is not None

    async def reopen(self, held: Held, before: datetime | None = None) -> bool:
        """Put items that were done or skipped back to be done again, and take them out of the job's counts.

        For when what they had stored is gone, with the workspace it was in. One statement.

        Args:
            held: the job and the attempt that owns it.
            before: only those that ended before this time of the database; ``None``: all of them.

        Returns:
            ``False`` if the attempt no longer owns the job: nothing was written, and the task must stop.
        """
        parameters = {"job_id": held.job_id, "attempt": held.attempt, "before": before}
        with translated():
            return await self._session.scalar(_REOPEN, parameters) is not None

    async def note_crash(self, held: Held, position: int, *, alone: bool) -> int | None:
        """Note that the engine died while it read this item; return how often it has.

        Only what the engine did alone is held against an item. The first time counts beside others, too: it makes the
        item one that is read alone from then on.

        Args:
            held: the job and the attempt that owns it.
            position: of the item.
            alone: the engine did nothing else of which is known.

        Returns:
            ``None`` if the attempt no longer owns the job: nothing was written, and the task must stop.
        """
        mine = _owned(held)
        crashes = JobItem.crashes + 1 if alone else func.greatest(JobItem.crashes, 1)
        with translated():
            return await self._session.scalar(
                update(JobItem)
                .where(JobItem.job_id == mine.c.id, JobItem.position == position)
                .values(crashes=crashes)
                .returning(JobItem.crashes)
                .execution_options(synchronize_session=False)
            )

    async def pending(self, job_id: UUID) -> list[JobItem]:
        """Return what is left to do of a job, in order; last come those that the engine died of."""
        return sorted(await self.list(job_id, ItemStatus.PENDING), key=lambda item: item.crashes)

    async def list(self, job_id: UUID, *statuses: ItemStatus) -> list[JobItem]:
        """Return a job's items in order; with ``statuses``, only those in one of them."""
        condition = JobItem.job_id == job_id
        if statuses:
            condition = and_(condition, JobItem.status.in_(statuses))
        with translated():
            rows = await self._session.scalars(
                select(JobItem).where(condition).order_by(JobItem.position).execution_options(populate_existing=True)
            )
            return [*rows]


def _owned(held: Held) -> CTE:
    """Lock the job's row, if the attempt still owns it."""
    return (
        select(Job.id)
        .where(Job.id == held.job_id, Job.attempt == held.attempt, Job.status == JobStatus.PROCESSING)
        .with_for_update()
        .cte("mine")
    )


_REOPEN = text(
    """
    WITH mine AS MATERIALIZED (
        SELECT id FROM jobs
        WHERE id = CAST(:job_id AS uuid) AND attempt = CAST(:attempt AS integer) AND status = 'processing'
        FOR UPDATE
    ),
    ended AS MATERIALIZED (
        SELECT items.position, items.status FROM job_items AS items JOIN mine ON mine.id = items.job_id
        WHERE items.status IN ('done', 'skipped')
            AND items.finished_at < coalesce(CAST(:before AS timestamptz), CAST('infinity' AS timestamptz))
    ),
    reopened AS (
        UPDATE job_items AS items
        SET status = 'pending', result = NULL, timings = '{}', finished_at = NULL, attempt = CAST(:attempt AS integer)
        FROM ended WHERE items.job_id = CAST(:job_id AS uuid) AND items.position = ended.position
    ),
    lost AS (
        SELECT count(*) FILTER (WHERE status = 'done') AS done, count(*) FILTER (WHERE status = 'skipped') AS skipped
        FROM ended
    )
    UPDATE jobs
    SET items_done = items_done - lost.done, items_skipped = items_skipped - lost.skipped,
        progress = CASE WHEN items_total > 0 AND lost.done + lost.skipped > 0
            THEN (items_done + items_failed + items_skipped - lost.done - lost.skipped) * 100.0 / items_total
            ELSE progress END,
        updated_at = clock_timestamp()
    FROM mine, lost WHERE jobs.id = mine.id
    RETURNING jobs.id
    """
)
