"""What the reading methods of :class:`repositories.jobs.JobRepository` return beside jobs: shapes, and no logic."""

from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from repositories.states import JobStatus

ENOUGH = 5
"""The fewest jobs or items that a spread is told from."""


class WaitEstimate(BaseModel):
    """How long a job may still wait in its queue, and what that is reckoned from.

    Attributes:
        position: where it stands, from 1.
        seconds: ``position`` jobs at the pace of the latest ``finished`` ones; ``None`` if none finished of late.
        low_seconds, high_seconds: four times in five the wait is between them, if the pace stays as uneven as it was;
            ``None`` with fewer than :data:`ENOUGH` finished jobs to tell it from.
        finished: how many jobs of its queue finished within ``window_seconds``, by the database's clock.
        window_seconds: from the first start of these jobs until now; at most the window that was asked for.
    """

    job_id: UUID
    position: int
    seconds: float | None
    low_seconds: float | None = None
    high_seconds: float | None = None
    finished: int
    window_seconds: float


class RestEstimate(BaseModel):
    """How long a running job still needs, and what that is reckoned from.

    Attributes:
        items_left: documents or questions that have not ended.
        finished: the latest items of this attempt whose pace was taken.
        seconds: ``items_left`` at that pace.
        low_seconds, high_seconds: four times in five the rest takes between them.
    """

    job_id: UUID
    items_left: int
    finished: int
    seconds: float
    low_seconds: float
    high_seconds: float


class Durations(BaseModel):
    """Seconds from the start of the last attempt to the end; percentiles are within 5 % of the true ones."""

    jobs: int
    mean: float
    p50: float
    p95: float
    p99: float


class EndedJobs(BaseModel):
    """What ended between two times.

    Attributes:
        since, until: the first moment and the moment after the last.
        counts: job type to final state to how many ended so. A job that failed, was retried and completed in another
            hour counts there as well.
        per_hour: how many ended in an hour, on average.
        failure_rate: percent of the completed and failed that failed; ``None`` if there were none.
        durations: of those that had started; ``None`` if there were none.
        durations_by_type: the same for each job type.
    """

    since: datetime
    until: datetime
    counts: dict[str, dict[JobStatus, int]]
    per_hour: float
    failure_rate: float | None
    durations: Durations | None
    durations_by_type: dict[str, Durations]


class LiveJobs(BaseModel):
    """What is under way now.

    Attributes:
        counts: job type to state (pending, queued, processing) to how many there are.
        oldest_waiting_seconds: how long the job has waited that stands longest in a queue; ``None`` if none does.
    """

    workspace_id: str | None
    counts: dict[str, dict[JobStatus, int]]
    oldest_waiting_seconds: float | None


class WorkspaceSummary(BaseModel):
    """The jobs of one workspace. ``items_*`` add up those of all its jobs; times are ``None`` where there is none."""

    workspace_id: str
    jobs: int
    status_counts: dict[JobStatus, int]
    items_done: int
    items_failed: int
    items_skipped: int
    first_created_at: datetime
    last_created_at: datetime
    last_finished_at: datetime | None
    oldest_queued_at: datetime | None


class Expired(NamedTuple):
    """A job whose time of retention is over."""

    job_id: UUID
    type: str
    status: JobStatus
    workspace_id: str | None
    completed_at: datetime


class PastError(BaseModel):
    """An entry of a job's ``errors``: what went wrong, in which attempt, and when."""

    attempt: int
    at: datetime | None = None
    code: str
    message: str


class JobEvent(NamedTuple):
    """A point of a job's timeline; ``text`` says more where there is more to say."""

    at: datetime
    event: Literal["created", "queued", "started", "error", "cancel_requested", "ended"]
    attempt: int | None = None
    text: str | None = None


class JobHistory(BaseModel):
    """How a job came to where it stands.

    Attributes:
        attempts: how often it was started; ``failures`` of those ended in an error of the work, ``crashes`` with a lost
            lease. The others were handed back (shutdown, outage, snooze) or are the present one.
        errors: every error, oldest first.
        timeline: what happened when, in order. Only the latest start and the latest queueing are on the record.
    """

    job_id: UUID
    status: JobStatus
    attempts: int
    failures: int
    crashes: int
    errors: list[PastError]
    timeline: list[JobEvent]
