"""What every transition of a job shares: naming the rows, locking them in order, and saying why one did not move.

A transition is one conditional, set-based statement: it names the states it may come from (``states.py``) and, where it
is fenced, the attempt. There is no read-then-write. Rows are locked in id order, because finish, lease extension,
rescue and cancel touch the same rows from many workers, and unordered they deadlock.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Text,
    Update,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.orm.util import AliasedClass

from repositories.base import BaseRepository
from repositories.errors import InvalidTransitionError, NotFoundError
from repositories.hot_status import ERROR_COLUMNS, HotStatus, JobStatusChange
from repositories.models import Job
from repositories.prepared import Prepared
from repositories.schemas import MAX_BATCH, Held, JobCreate, JobUpdate, Outcome
from repositories.states import FINAL, JobStatus, Verb, sources

NOW = func.clock_timestamp()  # not now(): that is the start of the caller's transaction
ASKED_AT = func.statement_timestamp()  # the same in conditions: fixed within a statement, so an index can be asked

_MOVED = (
    Job.id,
    Job.status,
    Job.has_dependents,
    Job.version,
    Job.progress,
    Job.items_total,
    Job.items_done,
    Job.items_failed,
    Job.items_skipped,
    Job.queued_at,
    Job.completed_at,
    *ERROR_COLUMNS,
)
"""All of a status that can have changed since the job was claimed: what is told of an end is the whole of it."""


_STATUS = {str(status): status for status in JobStatus}  # looked up for every job that moves: a call takes longer


class JobStatements(BaseRepository[Job, JobCreate, JobUpdate]):
    """The base of the transition classes; holds no transition itself."""

    def __init__(self, session: AsyncSession, hot: HotStatus | None = None, *, tells: bool = True) -> None:
        super().__init__(Job, session)
        self._hot = hot
        self._tells = tells

    def _note(self, moved: Iterable[UUID]) -> None:
        """Have the hot status of these jobs written once the caller's transaction is committed."""
        if self._hot is not None:
            self._hot.note(self.session, moved)

    async def _apply(self, transition: Update | Prepared, parameters: dict[str, Any] | None = None) -> Outcome:
        """Execute a transition, made with :func:`moving`, and settle the dependents of the jobs that it ended."""
        rows: Iterable[Any]
        if isinstance(transition, Prepared):
            rows = await transition.rows(self.session, parameters or {})
        else:
            rows = await self.session.execute(transition, parameters)
        outcome, parents = moved_by(rows)
        if self._tells:
            self._note(outcome.moved)
        outcome.released = await self._settle({job_id: outcome.moved[job_id] for job_id in parents})
        return outcome

    async def _settle(self, ended: Mapping[UUID, JobStatus]) -> list[UUID]:
        """Release or fail the jobs that wait for these, down the whole chain.

        A completed job releases its children. One that failed or was cancelled fails them, or releases those that were
        written with ``on_parent_failure="release"``.

        Returns:
            The ids of children that are now queued.
        """
        released: list[UUID] = []
        if completed := [job_id for job_id, status in ended.items() if status is JobStatus.COMPLETED]:
            released += await self._release(completed)
        lost = [job_id for job_id, status in ended.items() if status is not JobStatus.COMPLETED]
        while lost:
            released += await self._release(lost, Job.on_parent_failure == "release")
            lost = await self._abandon(lost)
        return released

    async def _release(self, parents: Sequence[UUID], *only: ColumnElement[bool]) -> list[UUID]:
        """Count ended parents off their waiting children; a child without any left is queued."""
        waiting = _children(parents, [JobStatus.PENDING], *only)
        # The arithmetic is on the row as it is once locked, so two parents that finish at once both count.
        left = Job.parents_left - waiting.c.parents
        rows = await self.session.execute(
            update(Job)
            .where(Job.id == waiting.c.id, standing(sources(Verb.RELEASE, JobStatus.QUEUED)))
            .values(
                parents_left=left,
                status=case((left <= 0, JobStatus.QUEUED), else_=Job.status),
                queued_at=case((left <= 0, NOW), else_=Job.queued_at),
                version=Job.version + 1,
                updated_at=NOW,
            )
            .returning(Job.id, Job.status)
            .execution_options(synchronize_session=False)
        )
        counted = rows.all()
        self._note(row.id for row in counted)
        return [row.id for row in counted if row.status is JobStatus.QUEUED]

    async def _wait_again(self, parents: Sequence[UUID]) -> None:
        """Let children that still wait for others wait for these parents too, which had ended and run again.

        Without it such a parent would be counted off twice, and a child released while another parent still runs.
        """
        waiting = _children(parents, [JobStatus.PENDING])
        moved = await self.session.scalars(
            update(Job)
            .where(Job.id == waiting.c.id, standing([JobStatus.PENDING]))
            .values(parents_left=Job.parents_left + waiting.c.parents, version=Job.version + 1, updated_at=NOW)
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
        self._note(moved)

    async def _wait_for_live_parents(self, children: Sequence[UUID]) -> list[UUID]:
        """Let just retried jobs wait for those of their parents that have not ended; return the ones that wait."""
        wanted = select(func.unnest(Job.depends_on)).where(named(children))
        # Locked first, in a statement of their own: the count below sees every parent that ended meanwhile.
        await self.session.execute(select(Job.id).where(Job.id.in_(wanted)).order_by(Job.id).with_for_update())
        parent = aliased(Job)
        live = (
            select(func.count())
            .where(parent.id == any_(Job.depends_on), parent.status.not_in(sorted(FINAL)))
            .correlate(Job)
            .scalar_subquery()
        )
        waiting = await self.session.scalars(
            update(Job)
            .where(named(children), standing([JobStatus.QUEUED]), live > 0)
            .values(status=JobStatus.PENDING, parents_left=live, queued_at=None)
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
        return list(waiting)

    async def _abandon(self, parents: Sequence[UUID]) -> list[UUID]:
        """Fail the children that cannot run without ``parents``; return those that have children of their own."""
        allowed = sources(Verb.ABANDON, JobStatus.FAILED)
        waiting = _children(parents, allowed, Job.on_parent_failure == "fail")
        rows = await self.session.execute(
            update(Job)
            .where(Job.id == waiting.c.id, standing(allowed))
            .values(
                final_values(JobStatus.FAILED)
                | {
                    "parents_left": 0,
                    "errors": with_error("parent_failed", "a job that this one depends on did not complete"),
                }
            )
            .returning(Job.id, Job.has_dependents)
            .execution_options(synchronize_session=False)
        )
        failed = rows.all()
        self._note(row.id for row in failed)
        return [row.id for row in failed if row.has_dependents]

    async def _refuse(self, outcome: Outcome, asked: Mapping[UUID, tuple[JobStatus, int | None]]) -> Outcome:
        """Say for each asked job that did not move why it was left alone; asks the database only if there is one.

        Args:
            outcome: what moved; the refusals are added to it.
            asked: id to the state asked for, and the attempt the caller holds (``None`` where the verb is not fenced).
        """
        missed = [job_id for job_id in asked if job_id not in outcome.moved]
        if not missed:
            return outcome
        rows = await self.session.execute(select(Job.id, Job.status, Job.attempt).where(Job.id.in_(missed)))
        found = {job_id: (status, attempt) for job_id, status, attempt in rows}
        for job_id in missed:
            wanted, held_attempt = asked[job_id]
            if job_id not in found:
                outcome.refused[job_id] = NotFoundError("job", job_id)
                continue
            status, attempt = found[job_id]
            outcome.refused[job_id] = InvalidTransitionError(job_id, status, wanted, attempt, held_attempt)
        return outcome


def moving(transition: Update) -> Update:
    """A transition that returns what :func:`moved_by` reads."""
    return transition.returning(*_MOVED).execution_options(synchronize_session=False)


def moved_by(rows: Iterable[Any]) -> tuple[Outcome, list[UUID]]:
    """Read what a transition of :func:`moving` did, and which of the jobs that it ended others depend on."""
    outcome, parents = Outcome(), list[UUID]()
    for job_id, told, has_dependents, version, progress, total, done, failed, skipped, *times_and_errors in rows:
        queued_at, completed_at, errors, code, message = times_and_errors
        status = _STATUS[told]
        outcome.moved[job_id] = status
        changed = {
            "status": status,
            "progress": progress,
            "items_total": total,
            "items_done": done,
            "items_failed": failed,
            "items_skipped": skipped,
            "queued_at": queued_at,
            "completed_at": completed_at,
            "error_count": errors,
            "error_code": code,
            "error": message,
        }
        outcome.changes.append(JobStatusChange(job_id, version, changed))
        if has_dependents and status.is_final:
            parents.append(job_id)
    return outcome, parents


def check_batch(size: int, verb: str) -> None:
    """Refuse a batch longer than ``MAX_BATCH``.

    Raises:
        ValueError: it is longer.
    """
    if size > MAX_BATCH:
        raise ValueError(f"cannot {verb} {size} jobs at once: at most {MAX_BATCH}")


def standing(states: Collection[str]) -> ColumnElement[bool]:
    """The rows in one of these states, told so that no index serves: where the ids already say which rows.

    An index of all queued rows looks cheap to a planner whose statistics are of a moment when there were few, and is
    then walked once for each id. The same holds for the index of a job type (:func:`unindexed`).
    """
    return unindexed(cast(Job.status, Text)).in_(_spelled(states))


def unindexed(value: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[str]:
    """The same text, told so that no index serves it."""
    return value + literal_column("''", Text)


def _spelled(states: Iterable[str]) -> list[ColumnElement[str]]:
    return [literal_column(f"'{JobStatus(state)}'", Text) for state in states]


def in_state(*states: str, job: type[Job] | AliasedClass[Job] = Job) -> ColumnElement[bool]:
    """The rows in one of these states, spelled out in the statement: a partial index serves no parameter."""
    return job.status.in_(_spelled(states))


def queued_and_due(job: type[Job] | AliasedClass[Job] = Job) -> ColumnElement[bool]:
    """The jobs that stand in a queue: what is scheduled for later does not. Spelled as the partial index has it."""
    return and_(in_state(JobStatus.QUEUED, job=job), job.scheduled_at.is_(None))


def _children(parents: Sequence[UUID], states: Sequence[str], *only: ColumnElement[bool]) -> CTE:
    """Lock, in id order, the jobs in ``states`` that depend on ``parents``, with how many of these each has."""
    ended = literal(list(parents), ARRAY(Uuid))
    parent = func.unnest(Job.depends_on).column_valued("parent")
    return (
        select(Job.id, select(func.count()).where(parent == any_(ended)).scalar_subquery().label("parents"))
        # The first two conditions are those of the partial index.
        .where(
            in_state(*states),
            func.cardinality(Job.depends_on) > literal_column("0"),
            Job.depends_on.overlap(ended),
            *only,
        )
        .order_by(Job.id)
        .with_for_update()
        .cte("waiting")
    )


def named(ids: Collection[UUID]) -> ColumnElement[bool]:
    """The rows with these ids. One array, not a list of parameters: the statement is prepared once for every size."""
    return Job.id == any_(literal(list(ids), ARRAY(Uuid)))


def array_of(name: str, kind: Any) -> ColumnElement[Any]:
    """The array parameter ``name``, told so that the planner does not look into it.

    Otherwise it finds a plan for one id cheaper than the one it keeps for any number, and plans the statement anew each
    time: half a millisecond, more than claiming a job takes.
    """
    return cast(select(bindparam(name, type_=ARRAY(kind))).scalar_subquery(), ARRAY(kind))


def held_rows(**extra: Any) -> Any:
    """The held jobs as a table ``mine`` (id, attempt, and any extra columns by their types); see :func:`as_arrays`."""
    kinds = {"id": Uuid, "attempt": Integer} | extra
    arrays = [array_of(f"mine_{name}", kind) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    return func.unnest(*arrays).table_valued(*columns, name="mine").render_derived()


def as_arrays(held: Sequence[Held], **extra: Sequence[Any]) -> dict[str, Any]:
    """The parameters of a statement that was made with :func:`held_rows`."""
    arrays = {"id": [job.job_id for job in held], "attempt": [job.attempt for job in held]} | extra
    return {f"mine_{name}": values for name, values in arrays.items()}


def owned(
    mine: Any, allowed: Sequence[str], *also: Any, only: Sequence[ColumnElement[bool]] = (), skip_locked: bool = False
) -> CTE:
    """Lock, in id order, the rows of ``mine`` whose attempt still owns them; ``also``: further columns of ``mine``."""
    return (
        select(Job.id, *also)
        .join(mine, and_(Job.id == mine.c.id, Job.attempt == mine.c.attempt))
        .where(standing(allowed), *only)
        .order_by(Job.id)
        .with_for_update(of=Job, skip_locked=skip_locked)
        .cte("owned")
    )


def with_cancellation() -> ColumnElement[Any]:
    """The job's ``errors`` with an entry that says that it was cancelled, and why if a reason was given."""
    return with_error("cancelled", func.concat("Job cancelled", literal(": ") + Job.cancel_reason))


def final_values(to: JobStatus | ColumnElement[Any]) -> dict[str, Any]:
    """What every move to a final state writes."""
    return {
        "status": to,
        "completed_at": NOW,
        "lease_expires_at": None,
        "scheduled_at": None,
        "version": Job.version + 1,
        "updated_at": NOW,
    }


def with_error(code: Any, message: Any) -> ColumnElement[Any]:
    """The job's ``errors`` with one more entry, of its present attempt."""
    entry = func.jsonb_build_array(
        func.jsonb_build_object(
            "attempt", Job.attempt, "at", NOW, "code", cast(code, Text), "message", cast(message, Text), type_=JSONB
        ),
        type_=JSONB,
    )
    return Job.errors.op("||", return_type=JSONB())(entry)
