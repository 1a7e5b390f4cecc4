"""The tables, as SQLAlchemy maps them. What must always be true of a row is a CHECK constraint here.

``jobs`` is the truth about a job; ``job_items`` is one row a document or question of it; ``queues`` says which queues
are paused or limited. Workspaces, what stands in them and the local engine's store are in
:mod:`repositories.workspace_models`, the statistics in :mod:`repositories.statistics_models`, locks in
:mod:`repositories.lock_models`; importing this module maps every table.

Rows are changed by set-based statements of the repositories, never through these objects.
"""

from datetime import MAXYEAR, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from repositories.lock_models import Lock
from repositories.mapping import ITEM_STATUS, NAMING, STATUS, Base, one_of
from repositories.queue_names import DEFAULT_QUEUE, QUEUE_NAME
from repositories.states import ItemStatus, JobStatus
from repositories.statistics_models import DayOfStatistics, HourOfCreation, HourOfStatistics
from repositories.workspace_models import Passage, StoredDocument, Workspace, WorkspaceDocument

__all__ = [
    "CALLER",
    "ITEM_STATUS",
    "NAMING",
    "STATUS",
    "Base",
    "DayOfStatistics",
    "HourOfCreation",
    "HourOfStatistics",
    "Job",
    "JobItem",
    "Lock",
    "Passage",
    "StoredDocument",
    "Workspace",
    "WorkspaceDocument",
]

SUSPECT_FROM = 2
"""From so many leases lost beside other jobs on, a job is run alone: one may be an accident of the machine's."""

CALLER = "caller"  # worker_id of a job that its caller drives


class Job(Base):
    """One job. Its status changes only through :class:`repositories.jobs.JobRepository`.

    Times are the database's clock. ``started_at`` is the start of the latest attempt. ``version`` counts transitions
    and edits, never progress. ``errors`` has an entry for each failed or lost attempt: attempt, at, code, message.
    ``away_since`` is since when the job has been put back, without any progress, because what it needs is away, and
    ``away_reason`` what that is; they stay as they are while it runs again.
    """

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    # Plain text: a newer client may enqueue a type that this code does not know, and it must stay readable.
    type: Mapped[str]
    status: Mapped[JobStatus]
    queue: Mapped[str] = mapped_column(server_default=DEFAULT_QUEUE)
    priority: Mapped[int] = mapped_column(server_default="5")
    workspace_id: Mapped[str | None]
    payload: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    job_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    progress: Mapped[float] = mapped_column(server_default="0")
    items_total: Mapped[int] = mapped_column(server_default="0")
    items_done: Mapped[int] = mapped_column(server_default="0")
    items_failed: Mapped[int] = mapped_column(server_default="0")
    items_skipped: Mapped[int] = mapped_column(server_default="0")
    attempt: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default="3")
    crashes: Mapped[int] = mapped_column(server_default="0")
    max_crashes: Mapped[int] = mapped_column(server_default="5")
    suspicion: Mapped[int] = mapped_column(server_default="0")
    isolated: Mapped[bool] = mapped_column(server_default=text("false"))
    away_since: Mapped[datetime | None]
    away_reason: Mapped[str | None]
    worker_id: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    queue_position: Mapped[int | None]
    scheduled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    timeout_seconds: Mapped[int] = mapped_column(server_default="3600")
    idempotency_key: Mapped[str | None]
    depends_on: Mapped[list[UUID]] = mapped_column(server_default=text("'{}'"))
    parents_left: Mapped[int] = mapped_column(server_default="0")
    has_dependents: Mapped[bool] = mapped_column(server_default=text("false"))
    on_parent_failure: Mapped[str] = mapped_column(server_default="fail")
    retry_of: Mapped[UUID | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    errors: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'"))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    version: Mapped[int] = mapped_column(server_default="1")

    # Only read, and only where a caller asks for it: items are written by ItemRepository.
    items: Mapped[list["JobItem"]] = relationship(viewonly=True, lazy="raise", order_by="JobItem.position")

    # No CHECK looks into a JSON column: all of them run at every update, heartbeats included, and would unpack it.
    __table_args__ = (
        CheckConstraint(one_of("status", JobStatus), name="status_known"),
        CheckConstraint("progress BETWEEN 0 AND 100", name="progress_in_range"),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority_in_range"),
        CheckConstraint("timeout_seconds BETWEEN 1 AND 604800", name="timeout_in_range"),
        CheckConstraint("max_attempts BETWEEN 1 AND 100 AND max_crashes BETWEEN 1 AND 100", name="tries_in_range"),
        CheckConstraint(
            "items_done >= 0 AND items_failed >= 0 AND items_skipped >= 0 "
            "AND items_done + items_failed + items_skipped <= items_total",
            name="items_add_up",
        ),
        CheckConstraint(
            "(status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)",
            name="final_has_completed_at",
        ),
        CheckConstraint(
            "(status = 'processing') = (lease_expires_at IS NOT NULL)",
            name="processing_has_lease",
        ),
        CheckConstraint(
            "status <> 'processing' OR (worker_id IS NOT NULL AND attempt > 0)", name="processing_has_owner"
        ),
        CheckConstraint("status <> 'queued' OR payload IS NOT NULL", name="queued_has_payload"),
        CheckConstraint("status = 'pending' OR parents_left = 0", name="only_pending_waits"),
        CheckConstraint("attempt >= 0 AND failures >= 0 AND crashes >= 0 AND version >= 1", name="counts_in_range"),
        CheckConstraint("parents_left BETWEEN 0 AND cardinality(depends_on)", name="parents_left_in_range"),
        CheckConstraint("on_parent_failure IN ('fail', 'release')", name="on_parent_failure_known"),
        CheckConstraint("cardinality(depends_on) = 0 OR payload IS NOT NULL", name="dependent_has_payload"),
        CheckConstraint("NOT id = ANY (depends_on)", name="waits_for_others"),
        CheckConstraint("queue_position >= 1", name="queue_position_in_range"),
        CheckConstraint("status <> 'queued' OR queued_at IS NOT NULL", name="queued_has_time"),
        CheckConstraint("status <> 'processing' OR started_at IS NOT NULL", name="processing_has_start"),
        CheckConstraint(
            "status <> 'processing' OR (payload IS NULL) = (worker_id = 'caller')", name="caller_drives_no_payload"
        ),
        CheckConstraint("cancel_reason IS NULL OR cancel_requested_at IS NOT NULL", name="cancel_reason_has_request"),
        # Partial: most jobs have no key, and a full index would take an entry of every version of every row.
        Index(
            "uq_jobs_idempotency_key",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # Partial indexes over live rows only: they stay small however many jobs are finished, and no index covers a
        # column that heartbeats and progress write, so those updates stay HOT.
        Index(
            "ix_jobs_queue_order",
            "queue",
            "priority",
            "queued_at",
            "id",
            postgresql_where=text("status = 'queued' AND scheduled_at IS NULL"),
        ),
        Index(
            "ix_jobs_scheduled",
            "scheduled_at",
            postgresql_where=text("status = 'queued' AND scheduled_at IS NOT NULL"),
        ),
        # What is parked waits for its queue or for a worker that knows its type, so it is looked for by both.
        Index(
            "ix_jobs_parked",
            "queue",
            "type",
            "priority",
            "queued_at",
            "id",
            postgresql_where=text("status = 'queued' AND scheduled_at = 'infinity'::timestamptz"),
        ),
        # Each worker looks every second whether one waits to be run alone; there are few, among many that are parked.
        Index("ix_jobs_suspects", "id", postgresql_where=text(f"status = 'queued' AND suspicion >= {SUSPECT_FROM}")),
        Index("ix_jobs_processing", "id", postgresql_where=text("status = 'processing'")),
        Index(
            "ix_jobs_dependents",
            "depends_on",
            postgresql_using="gin",
            postgresql_where=text("status IN ('pending', 'queued') AND cardinality(depends_on) > 0"),
        ),
        # Lists are pages in this order; the two partial ones find the few among the many that completed.
        Index("ix_jobs_created", "created_at", "id"),
        Index("ix_jobs_workspace_created", "workspace_id", "created_at", "id"),
        Index(
            "ix_jobs_live_created",
            "created_at",
            "id",
            postgresql_where=text("status IN ('pending', 'queued', 'processing')"),
        ),
        Index("ix_jobs_failed_created", "created_at", "id", postgresql_where=text("status IN ('failed', 'cancelled')")),
        Index(
            "ix_jobs_workspace_live",
            "workspace_id",
            "created_at",
            "id",
            postgresql_where=text("status IN ('pending', 'queued', 'processing')"),
        ),
        Index(
            "ix_jobs_workspace_failed",
            "workspace_id",
            "created_at",
            "id",
            postgresql_where=text("status IN ('failed', 'cancelled')"),
        ),
        Index("ix_jobs_type_created", "type", "created_at", "id"),
        Index("ix_jobs_completed_at", "completed_at", postgresql_where=text("completed_at IS NOT NULL")),
        {"postgresql_with": {"fillfactor": 80}},  # room on the page for the HOT updates of a job's life
    )

    @property
    def is_completed(self) -> bool:
        """Whether the job is in a final state, whichever."""
        return self.status.is_final

    @property
    def is_suspect(self) -> bool:
        """Whether the job is to be run alone, because leases were lost while it ran beside others."""
        return (self.suspicion or 0) >= SUSPECT_FROM  # a row that was not written yet has none

    @property
    def is_parked(self) -> bool:
        """Whether the job is kept out of Redis until its queue or a worker can take it; no time is set for that."""
        return self.scheduled_at is not None and self.scheduled_at.year == MAXYEAR

    @property
    def error(self) -> str | None:
        """The message of the latest entry of ``errors``."""
        return str(self.errors[-1]["message"]) if self.errors else None

    @property
    def duration_seconds(self) -> float | None:
        """Seconds from the start of the latest attempt to the end; ``None`` before both are known."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()

    def dict(self) -> dict[str, Any]:
        """Return the row as plain values under their public names (``metadata``, not ``job_metadata``)."""
        row = {
            "metadata" if name == "job_metadata" else name: getattr(self, name)
            for name in self.__mapper__.columns.keys()  # noqa: SIM118 - not a dict: it iterates columns
        }
        return row | {"error": self.error}

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.type} {self.status} attempt={self.attempt}>"


class JobItem(Base):
    """One document or question of a job. ``spec`` says what it is; ``result`` and ``timings`` what became of it.

    ``timings`` maps a phase to seconds. ``attempt`` is the attempt that wrote the row's present state. ``crashes``
    counts how often the engine died while it read this one.
    """

    __tablename__ = "job_items"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    status: Mapped[ItemStatus] = mapped_column(server_default=str(ItemStatus.PENDING))
    attempt: Mapped[int]
    spec: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    crashes: Mapped[int] = mapped_column(server_default="0")
    timings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("status", ItemStatus), name="status_known"),
        CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name="finished_has_time"),
        CheckConstraint(
            "(status = 'failed') = (error_code IS NOT NULL AND error IS NOT NULL)", name="failed_has_error"
        ),
    )


class Queue(Base):
    """What sets a queue apart: a pause, limits. A queue without any of them has no row.

    ``tokens`` and ``refilled_at`` are the rate limit's token bucket as of ``refilled_at``
    (``repositories/jobs/admission.py`` says how it fills).
    """

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None]
    pause_reason: Mapped[str | None]
    max_running: Mapped[int | None]
    max_per_minute: Mapped[int | None]
    tokens: Mapped[float | None] = mapped_column(Double)
    refilled_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(f"name ~ '{QUEUE_NAME}'", name="name_spelled"),
        CheckConstraint("(paused_at IS NULL) = (paused_by IS NULL)", name="pause_has_author"),
        CheckConstraint("pause_reason IS NULL OR paused_at IS NOT NULL", name="reason_has_pause"),
        CheckConstraint("max_running BETWEEN 1 AND 100000", name="max_running_in_range"),
        CheckConstraint("max_per_minute BETWEEN 1 AND 600000", name="max_per_minute_in_range"),
        CheckConstraint(
            "(max_per_minute IS NULL) = (tokens IS NULL) AND (tokens IS NULL) = (refilled_at IS NULL)",
            name="rate_has_bucket",
        ),
        CheckConstraint("tokens >= 0", name="tokens_in_range"),
    )
