"""Which queued jobs may start: pauses, limits and job types; and what keeps the others back until they may.

The claim itself starts only jobs of unrestricted queues (:func:`unrestricted`), which costs them neither a lock nor a
statement. What it left over goes through :meth:`Admitting.admit`, which locks the rows of the queues concerned, so that
no two workers count the same free slot or spend the same token.

What may not start is *parked*: it stays queued, with ``scheduled_at`` at ``infinity``, and out of Redis. The stager of
every worker takes back what may run by now (:meth:`Admitting.release_parked`).

Exact: a claim that begins after a pause or a limit was committed keeps it. A claim that was already under way then may
still start its batch; a limit counts these from the next claim on.
"""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Double, case, cast, func, literal, literal_column, or_, select, text, update
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import InstrumentedAttribute

from repositories.errors import translated
from repositories.jobs.core import ASKED_AT, JobStatements, check_batch, in_state, named, standing
from repositories.models import CALLER, SUSPECT_FROM, Job, Queue
from repositories.queue_names import DEFAULT_QUEUE
from repositories.schemas import MAX_BATCH
from repositories.states import JobStatus

BURST = 0.1
"""The part of ``max_per_minute`` that may start at once after a while without starts; at least one job."""

PARKED = literal_column("'infinity'::timestamptz", TIMESTAMP(timezone=True))


class Waiting(NamedTuple):
    """A queued job as the queue needs it: which function runs it, and where in which queue's order it stands."""

    job_id: UUID
    type: str
    priority: int
    queue: str = DEFAULT_QUEUE


class Admission(NamedTuple):
    """What became of the asked jobs. One that is in neither list is not to be started now by anybody who asks.

    Attributes:
        start: to be claimed in this transaction; slots and tokens are taken, and the rows are locked.
        parked: out of Redis with them, until the stager hands them over again.
    """

    start: list[UUID]
    parked: list[UUID]


class _Room(NamedTuple):
    """How many jobs of a queue may start now; ``None`` is no bound. ``tokens`` are those at the time ``at``."""

    paused: bool
    slots: int | None
    tokens: float | None
    at: datetime

    @property
    def jobs(self) -> int:
        if self.paused:
            return 0
        bounds = [MAX_BATCH, self.slots, None if self.tokens is None else int(self.tokens)]
        return max(0, min(bound for bound in bounds if bound is not None))


class Admitting(JobStatements):
    """Admit, park, release."""

    async def admit(self, ids: Collection[UUID], types: Collection[str] | None = None) -> Admission:
        """Decide about jobs that the claim left over, and park those that may not start.

        Locks first the queues' rows, in name order, until the caller's transaction ends: claim ``start`` in it, and let
        it be short.

        Args:
            ids: at most ``MAX_BATCH``.
            types: job types that the caller can run; ``None`` is all.

        Returns:
            Of each queue as many as its limits allow, in queue order. A job that was cancelled, claimed or scheduled
            meanwhile is in neither list.
        """
        check_batch(len(ids), "admit")
        with translated():
            rooms = await self._rooms(ids)
            candidates = await self.session.execute(
                select(Job.id, Job.type, Job.queue)
                .where(
                    named(ids),
                    standing([JobStatus.QUEUED]),
                    or_(Job.scheduled_at.is_(None), Job.scheduled_at <= ASKED_AT),
                )
                .order_by(Job.priority, Job.queued_at, Job.id)
                .with_for_update(skip_locked=True)
            )
            admission, taken = Admission([], []), dict.fromkeys(rooms, 0)
            for job_id, job_type, queue in candidates:
                if (types is not None and job_type not in types) or (
                    queue in rooms and taken[queue] >= rooms[queue].jobs
                ):
                    admission.parked.append(job_id)
                    continue
                admission.start.append(job_id)
                if queue in rooms:
                    taken[queue] += 1
            await self._spend(rooms, taken)
            if admission.parked:
                await self.park(admission.parked)
            return admission

    async def park(self, ids: Collection[UUID]) -> list[UUID]:
        """Keep queued jobs out of Redis until the stager finds that they may run; return those that are parked now.

        Whoever parks a job takes its message out of Redis *before* the commit: after it another worker may already have
        handed the job over again.

        Args:
            ids: at most ``MAX_BATCH``.
        """
        check_batch(len(ids), "park")
        found = select(Job.id).where(named(ids), standing([JobStatus.QUEUED])).order_by(Job.id).with_for_update().cte()
        with translated():
            parked = await self.session.scalars(
                update(Job)
                .where(Job.id == found.c.id)
                .values(scheduled_at=PARKED)
                .returning(Job.id)
                .execution_options(synchronize_session=False)
            )
            return list(parked)

    async def release_parked(
        self,
        types: Collection[str] | None = None,
        queues: Collection[str] | None = None,
        limit: int = MAX_BATCH,
    ) -> list[Waiting]:
        """Take back parked jobs that may run by now: the caller hands them over after its commit.

        From each queue that is not paused come as many as its limits leave room for, first those that stand first.
        Whether they start is decided once more by :meth:`admit`.

        Args:
            types: job types that the caller can run; ``None`` is all.
            queues: only these; ``None`` is all.
            limit: at most so many jobs, 1 to ``MAX_BATCH``.
        """
        check_batch(limit, "release")
        with translated():
            rows = await self.session.execute(
                _RELEASE,
                {
                    "types": None if types is None else sorted(types),
                    "queues": None if queues is None else sorted(queues),
                    "limit": limit,
                    "burst": BURST,
                    "suspect_from": SUSPECT_FROM,
                },
            )
            return [Waiting(*row) for row in rows]

    async def _rooms(self, ids: Collection[UUID]) -> dict[str, _Room]:
        """Lock the restricted queues of these jobs, and see how much room each has."""
        asked = select(Job.queue).where(named(ids), standing([JobStatus.QUEUED]))
        locked = await self.session.scalars(
            select(Queue.name).where(Queue.name.in_(asked), restricted()).order_by(Queue.name).with_for_update(of=Queue)
        )
        names = list(locked)
        if not names:
            return {}
        # A statement of its own: only one that begins once the lock is held sees what its last holder committed.
        rows = await self.session.execute(
            select(
                Queue.name,
                Queue.paused_at.is_not(None),
                case((Queue.max_running.is_not(None), Queue.max_running - running_in_queue())),
                tokens_at(ASKED_AT),
                ASKED_AT,
            ).where(Queue.name.in_(names))
        )
        return {name: _Room(*room) for name, *room in rows}

    async def _spend(self, rooms: dict[str, _Room], taken: dict[str, int]) -> None:
        for name, room in rooms.items():
            if room.tokens is not None and taken[name]:
                await self.session.execute(
                    update(Queue)
                    .where(Queue.name == name)
                    .values(tokens=room.tokens - taken[name], refilled_at=room.at)
                    .execution_options(synchronize_session=False)
                )


def paused() -> ColumnElement[bool]:
    """The queues' rows that say that the queue is paused."""
    return Queue.paused_at.is_not(None)


def restricted() -> ColumnElement[bool]:
    """The queues' rows that keep jobs back: paused, or limited."""
    return or_(paused(), Queue.max_running.is_not(None), Queue.max_per_minute.is_not(None))


def unrestricted() -> ColumnElement[bool]:
    """The jobs whose queue is neither paused nor limited: what a claim may start without :meth:`Admitting.admit`.

    The restricted names are read once a statement, however many jobs it is about.
    """
    return Job.queue.not_in(select(Queue.name).where(restricted()))


def not_paused() -> ColumnElement[bool]:
    """The jobs whose queue is not paused; read like :func:`unrestricted`."""
    return Job.queue.not_in(select(Queue.name).where(paused()))


def running_in_queue() -> ColumnElement[int]:
    """How many jobs of ``queues.name`` workers run now; callers' own jobs stand in no queue."""
    return (
        select(func.count())
        .select_from(Job)
        .where(in_state(JobStatus.PROCESSING), Job.queue == Queue.name, Job.worker_id != CALLER)
        .correlate(Queue)
        .scalar_subquery()
    )


def burst_of(max_per_minute: ColumnElement[int] | InstrumentedAttribute[int | None]) -> ColumnElement[float | None]:
    """How many tokens the bucket of such a rate holds at most."""
    return case(
        (max_per_minute.is_not(None), func.greatest(1.0, cast(max_per_minute, Double) * literal(BURST, Double)))
    )


def tokens_at(now: ColumnElement[datetime]) -> ColumnElement[float | None]:
    """How many tokens the bucket of a ``queues`` row holds at ``now``: it fills evenly, ``max_per_minute`` a minute."""
    passed = func.greatest(0.0, cast(func.extract("epoch", now - Queue.refilled_at), Double))
    filled = Queue.tokens + passed * cast(Queue.max_per_minute, Double) / literal(60.0, Double)
    return case((Queue.max_per_minute.is_not(None), func.least(burst_of(Queue.max_per_minute), filled)))


# A lane is a queue and a job type: each is found by one look into ix_jobs_parked, however many jobs are parked in it.
_RELEASE = text("""
WITH RECURSIVE lanes AS (
    (
        SELECT queue, type FROM jobs
        WHERE status = 'queued' AND scheduled_at = 'infinity'::timestamptz
      AND suspicion < :suspect_from
        ORDER BY queue, type LIMIT 1
    )
    UNION ALL
    SELECT following.queue, following.type
    FROM lanes CROSS JOIN LATERAL (
        SELECT queue, type FROM jobs
        WHERE status = 'queued' AND scheduled_at = 'infinity'::timestamptz
      AND suspicion < :suspect_from
          AND (jobs.queue, jobs.type) > (lanes.queue, lanes.type)
        ORDER BY queue, type LIMIT 1
    ) AS following
), mine AS (
    SELECT queue, type FROM lanes
    WHERE (CAST(:types AS text[]) IS NULL OR type = ANY (CAST(:types AS text[])))
      AND (CAST(:queues AS text[]) IS NULL OR queue = ANY (CAST(:queues AS text[])))
), rooms AS (
    SELECT lane.queue, GREATEST(0, LEAST(
        CAST(:limit AS integer),
        max_running - running.jobs - staged.jobs,
        CASE WHEN max_per_minute IS NOT NULL THEN CAST(floor(LEAST(
            GREATEST(1, max_per_minute * :burst),
            tokens + max_per_minute / 60.0
                     * GREATEST(0, extract(epoch FROM statement_timestamp() - refilled_at))
        )) AS integer) - staged.jobs END
    )) AS room
    FROM (SELECT DISTINCT queue FROM mine) AS lane
    LEFT JOIN queues ON queues.name = lane.queue
    LEFT JOIN LATERAL (
        SELECT CAST(count(*) AS integer) AS jobs FROM jobs
        WHERE status = 'processing' AND jobs.queue = lane.queue AND worker_id <> 'caller'
    ) AS running ON max_running IS NOT NULL
    LEFT JOIN LATERAL (  -- handed over and not yet started: they come first
        SELECT CAST(count(*) AS integer) AS jobs FROM (
            SELECT FROM jobs WHERE status = 'queued' AND scheduled_at IS NULL AND jobs.queue = lane.queue LIMIT :limit
        ) AS handed_over
    ) AS staged ON max_running IS NOT NULL OR max_per_minute IS NOT NULL
    WHERE paused_at IS NULL
), picked AS (
    SELECT id FROM (
        SELECT job.id, room, priority, queued_at,
               row_number() OVER (PARTITION BY queue ORDER BY priority, queued_at, job.id) AS place
        FROM rooms JOIN mine USING (queue) CROSS JOIN LATERAL (
            SELECT id, priority, queued_at FROM jobs
            WHERE status = 'queued' AND scheduled_at = 'infinity'::timestamptz
      AND suspicion < :suspect_from
              AND jobs.queue = mine.queue AND jobs.type = mine.type
            ORDER BY priority, queued_at, id LIMIT room
        ) AS job
    ) AS ranked
    WHERE place <= room
    ORDER BY priority, queued_at, id LIMIT :limit
), free AS (
    SELECT id FROM jobs
    WHERE id IN (SELECT id FROM picked) AND status = 'queued' AND scheduled_at = 'infinity'::timestamptz
      AND suspicion < :suspect_from
    ORDER BY id FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET scheduled_at = NULL FROM free WHERE jobs.id = free.id
RETURNING jobs.id, jobs.type, jobs.priority, jobs.queue
""")
