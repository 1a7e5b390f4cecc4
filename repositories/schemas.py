"""What goes into the repositories and comes out of them, validated.

Names and shapes of ``JobCreate``, ``JobUpdate``, ``JobFilters``, ``PaginationParams``, ``PaginatedJobs``, ``Job`` and
``JobResponse`` are those that callers of the older service already use; ``NewJob``, ``Held``, ``Outcome`` and the item
shapes are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    computed_field,
    model_validator,
)
from uuid_utils.compat import uuid7

from repositories.queue_names import DEFAULT_QUEUE, QUEUE_NAME
from repositories.recordable import LONGEST_MESSAGE, cleaned, recordable
from repositories.states import ItemStatus, JobStatus

if TYPE_CHECKING:
    from repositories.errors import InvalidTransitionError, NotFoundError
    from repositories.hot_status import JobStatusChange

MAX_BATCH = 1_000
"""The most jobs or items that one set-based call takes."""

MAX_ITEMS = 100_000
"""The most items that one job may have."""


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character, which PostgreSQL cannot store")
    return text


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _schedulable(time: datetime) -> datetime:
    """The driver takes the ends of its calendar for PostgreSQL's infinities, one of which marks parked jobs."""
    try:
        moment = _utc(time).astimezone(UTC)
    except OverflowError:
        raise ValueError("no time that a calendar knows") from None
    if moment.year in {MINYEAR, MAXYEAR}:
        raise ValueError(f"must be after the year {MINYEAR} and before {MAXYEAR}: to hold jobs back, pause their queue")
    return moment


def _recordable(value: Any) -> Any:
    return recordable(value) if isinstance(value, Mapping) else value


Storable = AfterValidator(_storable)
UtcTime = Annotated[datetime, AfterValidator(_utc)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_recordable)]
ShortText = Annotated[str, Field(min_length=1, max_length=255), Storable]

# 1 to 64 letters, digits, dots, underscores and hyphens, of which the first is a letter or a digit.
QueueName = Annotated[str, Field(pattern=QUEUE_NAME)]


class JobCreate(BaseModel):
    """What a caller says of a new job; without a payload it is caller-driven and never handed to a worker."""

    type: ShortText
    workspace_id: ShortText | None = None
    metadata: JsonObject = Field(default_factory=dict)


class NewJob(JobCreate):
    """A job to be written.

    Attributes:
        id: made here, so that writing it twice is one job.
        payload: what the job type's task reads; ``None`` makes the job caller-driven.
        queue: which queue it stands in: 1 to 64 letters, digits, ``.``, ``_`` and ``-``. Naming one makes it.
        priority: 0 (first) to 9 (last).
        max_attempts: how many errors of the work end the job (1 to 100).
        timeout_seconds: how long one attempt may run (1 to 604,800).
        scheduled_at: not before this time, in the years 2 to 9998; without a zone it is UTC.
        depends_on: jobs that must complete first (at most 100).
        on_parent_failure: what becomes of this job if one of them fails or is cancelled: ``fail``, or ``release`` as
            if it had completed.
        idempotency_key: a second job with this key, type, workspace and payload is the first one; with another type,
            workspace or payload it is a ConflictError.
        retry_of: the job whose failed items this one tries again.
    """

    id: UUID = Field(default_factory=uuid7)
    queue: QueueName = DEFAULT_QUEUE
    priority: int = Field(default=5, ge=0, le=9)
    payload: JsonObject | None = None
    max_attempts: int = Field(default=3, ge=1, le=100)
    timeout_seconds: int = Field(default=3600, ge=1, le=604_800)
    scheduled_at: Annotated[datetime, AfterValidator(_schedulable)] | None = None
    depends_on: list[UUID] = Field(default_factory=list, max_length=100)
    on_parent_failure: Literal["fail", "release"] = "fail"
    idempotency_key: ShortText | None = None
    queue_position: int | None = Field(default=None, ge=1)
    retry_of: UUID | None = None

    @model_validator(mode="after")
    def _only_runnable_jobs_wait(self) -> Self:
        if self.depends_on and self.payload is None:
            raise ValueError(
                "depends_on needs a payload: a caller-driven job is started by its caller, not by its parents"
            )
        return self


class JobUpdate(BaseModel):
    """A caller's report on a job it drives itself; what is unset stays as it is."""

    status: JobStatus | None = None
    progress: float | None = Field(default=None, ge=0, le=100)
    result: JsonObject | None = None
    error: Annotated[str, BeforeValidator(lambda said: cleaned(said, LONGEST_MESSAGE))] | None = None
    metadata: JsonObject | None = None


class JobFilters(BaseModel):
    """Which jobs to list; all that is given must hold. A list means any of it. Times without a zone are UTC.

    Attributes:
        status, type, workspace_id, queue, worker_id: what the job has there; of ``worker_id``, the latest.
        created_after, finished_after: at this time or later. created_before, finished_before: before it.
        metadata: what the job's metadata contains: these keys with these values, at any depth.
        error_contains: text in an entry of ``errors`` (at most 200 characters); case does not matter.
    """

    model_config = ConfigDict(extra="forbid")

    status: JobStatus | list[JobStatus] | None = None
    type: str | Annotated[list[str], Field(max_length=20)] | None = None
    workspace_id: str | Annotated[list[str], Field(max_length=1_000)] | None = None
    queue: str | None = None
    worker_id: str | None = None
    created_after: UtcTime | None = None
    created_before: UtcTime | None = None
    finished_after: UtcTime | None = None
    finished_before: UtcTime | None = None
    metadata: JsonObject | None = None
    error_contains: Annotated[str, Field(max_length=200), Storable] | None = None


class JobSort(StrEnum):
    """The order of a list of jobs; jobs of the same moment stand in id order. The last two list only final jobs."""

    NEWEST = "newest"
    OLDEST = "oldest"
    LAST_FINISHED = "last_finished"
    FIRST_FINISHED = "first_finished"


class PaginationParams(BaseModel):
    """Which page: ``page`` from 1, ``size`` 1 to 100 rows."""

    page: int = Field(default=1, ge=1, le=1_000_000)
    size: int = Field(default=20, ge=1, le=100)

    @property
    def offset(self) -> int:
        """How many rows stand before the page."""
        return (self.page - 1) * self.size


class Job(BaseModel):
    """A job as callers read it: made from a row with ``Job.model_validate(row)``, and plain JSON from there on.

    Attributes:
        metadata: on a row this is ``job_metadata``.
        error: the message of the latest error.
    """

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    type: str
    status: JobStatus
    workspace_id: str | None = None
    progress: float = 0.0
    result: dict[str, Any] | None = None
    error: str | None = None
    # A mapped class has an attribute ``metadata`` of its own, so the row's name is looked for first.
    metadata: dict[str, Any] = Field(default_factory=dict, validation_alias=AliasChoices("job_metadata", "metadata"))
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None

    @property
    def is_completed(self) -> bool:
        """Whether the job is in a final state, whichever."""
        return self.status.is_final

    @property
    def duration_seconds(self) -> float | None:
        """Seconds from the start of the latest attempt to the end; ``None`` before both are known."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


class JobResponse(BaseModel):
    """What an HTTP API answers about one job.

    Attributes:
        job: the job, or its row.
        links: addresses by what is found there (``self``, ``cancel``).
        estimated_completion: when it will probably have ended; ``None`` if there is nothing to reckon that from.
    """

    job: Job
    links: dict[str, str] = Field(default_factory=dict)
    estimated_completion: datetime | None = None


class PaginatedJobs(BaseModel):
    """A page of jobs, which may be given as rows, and how many there are in all; ``pages`` is reckoned."""

    items: list[Job]
    total: int = Field(ge=0)
    page: int = Field(ge=1)
    size: int = Field(ge=1)

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above a property; pydantic asks for it
    @property
    def pages(self) -> int:
        """How many pages there are."""
        return -(-self.total // self.size)


class Held(NamedTuple):
    """A job as the attempt that runs it names it: the attempt (1 or more) is the fence."""

    job_id: UUID
    attempt: int


@dataclass
class Outcome:
    """What a set-based transition did. Refusals are data: one lost attempt never hides 499 finished jobs.

    Attributes:
        moved: each job that moved, with the state it is now in.
        refused: for each other id, the error that says why it was left alone.
        released: jobs that are queued because of it (dependents, retries), to be handed to ARQ after the commit.
        changes: what changed of the jobs that moved, for hot status; dependents are not among them.
    """

    moved: dict[UUID, JobStatus] = field(default_factory=dict)
    refused: "dict[UUID, NotFoundError | InvalidTransitionError]" = field(default_factory=dict)
    released: list[UUID] = field(default_factory=list)
    changes: "list[JobStatusChange]" = field(default_factory=list)


class JobError(BaseModel):
    """An entry of a job's ``errors``: a stable lower-case code for machines, a sentence for people."""

    code: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    message: Annotated[str, BeforeValidator(lambda said: cleaned(said, LONGEST_MESSAGE))]


class Finish(NamedTuple):
    """How an attempt ends its job: ``result`` for the record, ``error`` when ``to`` is ``failed``."""

    held: Held
    to: JobStatus
    result: dict[str, Any] | None = None
    error: JobError | None = None


class Outage(NamedTuple):
    """Why a job is put back although nothing is wrong with it: what it needs is away.

    Attributes:
        reason: what is away, and why, for people.
        limit: how long that may last without any progress; then the job fails.
        progressed: the attempt recorded items before, so the outage is a new one.
    """

    reason: str
    limit: timedelta
    progressed: bool = False


class PutBack(NamedTuple):
    """How an attempt returns its job: not before ``delay`` has passed.

    Attributes:
        held: the job and the attempt.
        delay: as for :meth:`repositories.jobs.JobRepository.put_back`; longer, the longer an outage lasts.
        error: if the work went wrong.
        outage: if what the work needs is away.
    """

    held: Held
    delay: timedelta = timedelta(0)
    error: JobError | None = None
    outage: Outage | None = None


class NewItem(BaseModel):
    """A document or question of a job, before anything was done: ``position`` from 0, ``spec`` says what it is."""

    position: int = Field(ge=0, lt=MAX_ITEMS)
    key: Annotated[str, Field(min_length=1, max_length=4_096), Storable]
    spec: dict[str, Any]


class ItemOutcome(BaseModel):
    """What became of one item. ``timings`` maps a phase to seconds."""

    position: int = Field(ge=0, lt=MAX_ITEMS)
    status: ItemStatus
    result: dict[str, Any] | None = None
    error: JobError | None = None
    timings: dict[str, float] = Field(default_factory=dict)


class Lease(NamedTuple):
    """What a worker learns of a job it holds when it extends the lease.

    ``extended`` is false where somebody else held the row locked: then the lease is as it was, and asked for again.
    """

    job_id: UUID
    cancel_requested: bool
    extended: bool = True


class JobStatistics(BaseModel):
    """Counts and durations of the jobs created in the last ``period_days`` days (seconds; rates in percent)."""

    period_days: int
    workspace_id: str | None
    total_jobs: int
    status_counts: dict[str, int]
    type_counts: dict[str, int]
    average_processing_time_seconds: float | None
    success_rate: float | None
