"""Queues: what waits in each, and what people ask of them: pause, resume, limits.

A queue exists as soon as a job names it; only one that is paused or limited has a row. What a pause or a limit does to
jobs is decided where they are claimed (``repositories/jobs/admission.py``).
"""

from collections.abc import Collection
from datetime import datetime
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import (
    ColumnElement,
    Double,
    Integer,
    and_,
    case,
    cast,
    delete,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import translated
from repositories.jobs.admission import PARKED, burst_of, restricted, tokens_at
from repositories.jobs.core import ASKED_AT, NOW, in_state
from repositories.models import CALLER, Job, Queue
from repositories.schemas import QueueName, Storable
from repositories.states import JobStatus

_MOST_HOLDERS = 10
_Text = Annotated[str, Field(min_length=1, max_length=500), Storable]

_NAME: TypeAdapter[str] = TypeAdapter(QueueName)
_AUTHOR: TypeAdapter[str] = TypeAdapter(_Text)
_REASON: TypeAdapter[str | None] = TypeAdapter(_Text | None)


class Keep(Enum):
    """Stands for "as it is" where ``None`` means "none"."""

    KEEP = "keep"


KEEP = Keep.KEEP


class QueueSettings(BaseModel):
    """What sets a queue apart; all ``None`` for most.

    Attributes:
        paused_at, paused_by, pause_reason: since when, by whom and why no job of it starts.
        max_running: how many of its jobs run at a time, over all workers.
        max_per_minute: how many of its jobs start in a minute, over all workers.
    """

    name: str
    paused_at: datetime | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    max_running: int | None = None
    max_per_minute: int | None = None


class QueueSummary(QueueSettings):
    """A queue and its jobs.

    Attributes:
        waiting: queued and due, whether handed to Redis or parked.
        scheduled: queued, for a later time.
        running: jobs that workers run.
        oldest_waiting_seconds: how long the job waits that stands longest in it.
    """

    waiting: int
    scheduled: int
    running: int
    oldest_waiting_seconds: float | None


class QueueState(QueueSettings):
    """What decides whether a queue's next job may start.

    Attributes:
        running: jobs that workers run.
        holders: up to ten of these, the longest running first.
        next_start_seconds: how long until the rate allows one more start, 0 if it does now; ``None`` without a rate.
        now: the database's time.
    """

    running: int
    holders: list[UUID]
    next_start_seconds: float | None
    now: datetime


class QueueRepository:
    """List, look at, pause, resume, limit. The caller owns the transaction; nothing here commits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self, names: Collection[str] | None = None) -> list[QueueSummary]:
        """Return the queues that hold live jobs, are paused or limited, in name order: one statement.

        Args:
            names: only these; ``None`` is all.
        """
        queued, running = Job.status == JobStatus.QUEUED, Job.status == JobStatus.PROCESSING
        due = and_(queued, or_(Job.scheduled_at.is_(None), Job.scheduled_at == PARKED))
        oldest = cast(func.extract("epoch", ASKED_AT - func.min(case((due, Job.queued_at)))), Double)
        live = (
            select(
                Job.queue.label("name"),
                func.count(case((due, 1))).label("waiting"),
                (func.count(case((queued, 1))) - func.count(case((due, 1)))).label("scheduled"),
                func.count(case((running, 1))).label("running"),
                oldest.label("oldest"),
            )
            .where(in_state(JobStatus.QUEUED, JobStatus.PROCESSING), func.coalesce(Job.worker_id, "") != CALLER)
            .group_by(Job.queue)
            .cte("live")
        )
        name = func.coalesce(live.c.name, Queue.name)
        statement = (
            select(
                name.label("name"),
                Queue.paused_at,
                Queue.paused_by,
                Queue.pause_reason,
                Queue.max_running,
                Queue.max_per_minute,
                func.coalesce(live.c.waiting, 0).label("waiting"),
                func.coalesce(live.c.scheduled, 0).label("scheduled"),
                func.coalesce(live.c.running, 0).label("running"),
                live.c.oldest.label("oldest_waiting_seconds"),
            )
            .select_from(live)
            .join(Queue, Queue.name == live.c.name, full=True)
            .order_by(name)
        )
        if names is not None:
            statement = statement.where(name.in_(names))
        with translated():
            return [
                QueueSummary.model_validate(dict(row)) for row in (await self._session.execute(statement)).mappings()
            ]

    async def get(self, name: str) -> QueueState:
        """Return what decides about a queue's next start: one statement. A queue without a row is free."""
        asked = select(literal(name).label("name")).subquery("asked")
        here = and_(in_state(JobStatus.PROCESSING), Job.queue == name, Job.worker_id != CALLER)
        longest = select(Job.id).where(here).order_by(Job.started_at, Job.id).limit(_MOST_HOLDERS)
        missing = func.greatest(0.0, 1.0 - tokens_at(ASKED_AT))
        statement = (
            select(
                asked.c.name,
                Queue.paused_at,
                Queue.paused_by,
                Queue.pause_reason,
                Queue.max_running,
                Queue.max_per_minute,
                select(func.count()).select_from(Job).where(here).scalar_subquery().label("running"),
                func.array(longest.scalar_subquery()).label("holders"),
                case((Queue.max_per_minute.is_not(None), missing * 60.0 / Queue.max_per_minute)).label(
                    "next_start_seconds"
                ),
                ASKED_AT.label("now"),
            )
            .select_from(asked)
            .outerjoin(Queue, Queue.name == asked.c.name)
        )
        with translated():
            return QueueState.model_validate(dict((await self._session.execute(statement)).mappings().one()))

    async def pause(self, name: str, reason: str | None = None, by: str = "unknown") -> None:
        """Let no job of the queue start from the commit on; running ones go on. Pausing again tells the newer reason.

        Args:
            name: a queue, whether a job names it already or not.
            reason: why, for people; at most 500 characters.
            by: who, likewise.

        Raises:
            pydantic.ValidationError: no queue can have this name, or a text is too long.
        """
        told = {
            "paused_at": NOW,
            "paused_by": _AUTHOR.validate_python(by),
            "pause_reason": _REASON.validate_python(reason),
        }
        with translated():
            await self._session.execute(
                insert(Queue)
                .values(name=_NAME.validate_python(name), **told)
                .on_conflict_do_update(index_elements=[Queue.name], set_=told)
            )

    async def resume(self, name: str) -> bool:
        """Let the queue's jobs start again; return whether it was paused.

        What was parked meanwhile comes back at the stager's next turn, or at once through
        :meth:`repositories.jobs.JobRepository.release_parked`.

        Raises:
            pydantic.ValidationError: no queue can have this name.
        """
        mine = Queue.name == _NAME.validate_python(name)
        with translated():
            resumed: str | None = await self._session.scalar(
                update(Queue)
                .where(mine, Queue.paused_at.is_not(None))
                .values(paused_at=None, paused_by=None, pause_reason=None)
                .returning(Queue.name)
                .execution_options(synchronize_session=False)
            )
            await self._forget(mine)
            return resumed is not None

    async def set_limits(
        self, name: str, *, max_running: int | Keep | None = KEEP, max_per_minute: int | Keep | None = KEEP
    ) -> QueueSettings:
        """Limit a queue from the commit on, over all workers; running jobs count, and none is stopped.

        Args:
            name: a queue, whether a job names it already or not.
            max_running: at most so many at a time (1 to 100,000); ``None``: no limit.
            max_per_minute: at most so many starts in a minute (1 to 600,000); ``None``: no limit. After a while without
                starts a tenth of it, and at least one job, may start at once and on top of it.

        Returns:
            How the queue is set now.

        Raises:
            pydantic.ValidationError: no queue can have this name.
            ConflictError: a limit is out of its range.
        """
        mine = Queue.name == _NAME.validate_python(name)
        with translated():
            await self._session.execute(insert(Queue).values(name=name).on_conflict_do_nothing())
            changes: dict[str, Any] = {}
            if max_running is not KEEP:
                changes["max_running"] = max_running
            if max_per_minute is not KEEP:
                rate = literal(max_per_minute, Integer)
                # A new bucket is full; an old one keeps what it holds, as far as the new one has room for it.
                changes |= {
                    "max_per_minute": max_per_minute,
                    "tokens": case(
                        (rate.is_not(None), func.least(burst_of(rate), func.coalesce(tokens_at(NOW), burst_of(rate))))
                    ),
                    "refilled_at": case((rate.is_not(None), NOW)),
                }
            if changes:
                await self._session.execute(
                    update(Queue).where(mine).values(changes).execution_options(synchronize_session=False)
                )
            row = (
                await self._session.execute(
                    select(*(getattr(Queue, field) for field in QueueSettings.model_fields)).where(mine)
                )
            ).mappings()
            found = QueueSettings.model_validate(dict(row.one()))
            await self._forget(mine)
            return found

    async def _forget(self, mine: ColumnElement[bool]) -> None:
        """Delete the queue's row if nothing sets the queue apart any more."""
        await self._session.execute(
            delete(Queue).where(mine, not_(restricted())).execution_options(synchronize_session=False)
        )
