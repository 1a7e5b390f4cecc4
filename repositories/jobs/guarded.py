"""What the inherited writers may do to a job: a few fields are edited, the state machine's are not, and live jobs stay.

:class:`repositories.base.BaseRepository` would write any column. Here an edit may touch :class:`JobEdit`'s fields and
nothing else; for every other field the error says which method moves it. New jobs go through ``create_many``.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import ColumnElement, and_, case, delete, exists, or_, select

from repositories.base import MAX_ROWS
from repositories.errors import InUseError, InvalidValueError, ProtectedFieldError, translated
from repositories.filters import field_of
from repositories.jobs.create import Creating
from repositories.models import Job
from repositories.schemas import JobCreate, JobUpdate, NewJob, ShortText
from repositories.states import FINAL, JobStatus

_STATUS = "update_job_status for a job its caller drives, else claim, finish, cancel or retry"
_WRITTEN_BY = {
    "status": _STATUS,
    "attempt": "claim, which counts it",
    "worker_id": "claim",
    "lease_expires_at": "claim, and the lease's extension",
    "progress": "update_job_status, or the items' outcomes",
    "result": "update_job_status or finish",
    "error": "update_job_status or finish",
    "errors": "update_job_status or finish",
    "cancel_requested_at": "cancel_job",
    "cancel_reason": "cancel_job",
    "scheduled_at": "create the job with scheduled_at, or put it back with a time",
    "version": "update(..., version=) compares it, and each edit adds one",
    "failures": "retry, which starts the tries anew",
    **dict.fromkeys(("crashes", "suspicion"), "retry, which starts the tries anew"),
    "isolated": "claim_alone",
    **dict.fromkeys(("items_total", "items_done", "items_failed", "items_skipped"), "the items' outcomes"),
    **dict.fromkeys(
        ("created_at", "queued_at", "started_at", "completed_at", "updated_at"), "it is the database's clock"
    ),
}
_OTHER = "create another job"


class JobEdit(BaseModel):
    """What may be edited on a job, whatever its state. A new priority holds from the job's next hand-over to the queue.

    Attributes:
        metadata: takes the place of what was there; :meth:`JobRepository.update_job_status` merges instead.
        workspace_id: plain text, 1 to 255 characters, or ``None``.
        priority: 0 (first) to 9 (last).
        max_attempts, max_crashes: 1 to 100.
        timeout_seconds: 1 to 604,800; a running attempt keeps the one it began with.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    metadata: dict[str, Any] = Field(default_factory=dict)
    workspace_id: ShortText | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    max_crashes: Annotated[int, Field(ge=1, le=100)] = 5
    timeout_seconds: Annotated[int, Field(ge=1, le=604_800)] = 3600


class Guarded(Creating):
    """The inherited writers, as far as they may go."""

    async def create(self, obj_in: JobCreate | Mapping[str, Any], **kwargs: Any) -> Job:
        """Write one job, as ``create_many`` does: its payload and parents decide where it begins.

        Args:
            obj_in: a :class:`NewJob`, a ``JobCreate``, or their fields.
            kwargs: further fields of :class:`NewJob`.

        Raises:
            ProtectedFieldError: a field that only a transition writes.
            InvalidValueError: a field that no job has.
            pydantic.ValidationError: a field is out of its range.
            ConflictError: the idempotency key is taken.
            NotFoundError: a job it depends on does not exist.
        """
        (job,) = await self.bulk_create([obj_in], **kwargs)
        return job

    async def bulk_create(self, objects: Sequence[JobCreate | Mapping[str, Any]], **kwargs: Any) -> list[Job]:
        """Write many jobs, at most ``MAX_ROWS``, as ``create_many`` does; see :meth:`create`."""
        if len(objects) > MAX_ROWS:
            raise InvalidValueError("rows", f"{len(objects)} are too many for one call: at most {MAX_ROWS}")
        return await self.create_many([_new_job(given, kwargs) for given in objects])

    def _edits(self, obj_in: BaseModel | Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        new = obj_in.model_dump(exclude_unset=True) if isinstance(obj_in, BaseModel) else dict(obj_in)
        named = {_public_name(name): value for name, value in {**new, **extra}.items()}
        for name in named:
            if name not in JobEdit.model_fields:
                raise ProtectedFieldError("job", name, _WRITTEN_BY.get(name, _OTHER))
        try:
            edit = JobEdit.model_validate(named)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            field, given = str(problem["loc"][0]), reprlib.repr(problem["input"])
            raise InvalidValueError(field, f"{problem['msg']}, not {given}") from None
        return super()._edits(edit, {})

    async def update(
        self,
        id: Any,  # noqa: A002 - the public name of the parameter
        obj_in: JobUpdate | Mapping[str, Any],
        *,
        version: int | None = None,
        **kwargs: Any,
    ) -> Job:
        """See :meth:`repositories.base.BaseRepository.update`; what may be edited is :class:`JobEdit`'s."""
        job = await super().update(id, obj_in, version=version, **kwargs)
        self._note([job.id])
        return job

    async def _freshen(self, keys: Sequence[Any]) -> int:
        """Every edit of many rows comes by here."""
        self._note(keys)
        return await super()._freshen(keys)

    async def _delete(self, *where: ColumnElement[bool]) -> int:
        """Delete jobs unless one of them is needed: then none. One statement, a second one only to say which."""
        running = Job.status == JobStatus.PROCESSING
        awaited = and_(Job.has_dependents, Job.status.not_in(sorted(FINAL)))
        found = (
            select(Job.id, or_(running, awaited).label("needed"))
            .where(*where)
            .order_by(Job.id)
            .with_for_update()
            .cte("found")
        )
        with translated():
            gone = await self.session.scalars(
                delete(Job)
                .where(Job.id.in_(select(found.c.id)), ~exists().where(found.c.needed))
                .returning(Job.id)
                .execution_options(synchronize_session="fetch")
            )
            if deleted := gone.all():
                self._note(deleted)
                return len(deleted)
            # The rows are still locked, so what was in the way stands there yet.
            reason = case((running, "it is processing"), else_="other jobs wait for it")
            needed = await self.session.execute(
                select(Job.id, reason).where(*where, or_(running, awaited)).order_by(Job.id).limit(1)
            )
            for job_id, why in needed:
                raise InUseError("job", job_id, why, "cancel_job it, then delete it when it is final")
            return 0


def _public_name(name: str) -> str:
    """The name callers use; ``error`` is one of theirs, though the column is ``errors``."""
    return name if name == "error" else field_of(Job, name, InvalidValueError).name


def _new_job(given: JobCreate | Mapping[str, Any], extra: Mapping[str, Any]) -> NewJob:
    if isinstance(given, NewJob) and not extra:
        return given
    fields = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else dict(given)
    if isinstance(given, NewJob):
        fields["id"] = given.id  # made by its default, and the caller knows it already
    named = {**fields, **extra}
    for name in named.keys() - NewJob.model_fields.keys():
        public = _public_name(name)
        if public not in NewJob.model_fields:
            raise ProtectedFieldError("job", public, _WRITTEN_BY.get(public, _OTHER))
        named[public] = named.pop(name)
    return NewJob.model_validate(named)
