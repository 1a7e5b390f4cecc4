"""What is known of a job at a glance: the part of its row that fits a small hash, and back.

A view is made from a row of PostgreSQL (:meth:`JobStatusView.of`) or from a hash in Redis (:func:`from_hash`); how new
it is, is its :data:`Order`. Payload, result, metadata and the list of errors are not in it: they are on the record.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import func

from repositories.models import Job
from repositories.states import JobStatus

MAX_ERROR_CHARS: Final = 1_000
"""Of a longer message of an error a view holds the beginning."""

Order = tuple[str, str, str, str, str]
"""How new a view is, as Redis compares it: version, items finished, progress, items in all, errors. ``""``: not known.

``version`` counts transitions and edits; between two of them the others only grow.
"""

GONE: Final[Order] = (str(2**53), "", "", "", "")
"""Newer than any version: the job was deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatusView:
    """A job as its watchers see it: fields of :class:`repositories.models.Job` by the same names, and the latest error.

    Attributes:
        error_count: how many entries ``errors`` has.
        error_code: the code of the latest.
        error: its message, cut to ``MAX_ERROR_CHARS``.
    """

    id: UUID
    type: str
    status: JobStatus
    version: int
    queue: str
    workspace_id: str | None = None
    worker_id: str | None = None
    attempt: int
    progress: float
    items_total: int
    items_done: int
    items_failed: int
    items_skipped: int
    created_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error_count: int = 0
    error_code: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, row: Any) -> "JobStatusView":
        """Make a view of a ``Job``, or of any row with the columns of ``STATUS_COLUMNS``."""
        values = {name: getattr(row, name) for name in _NAMES if name not in _OF_ERRORS}
        if isinstance(row, Job):
            last: Mapping[str, Any] = row.errors[-1] if row.errors else {}
            count, code, message = len(row.errors), last.get("code"), last.get("message")
        else:
            count, code, message = row.error_count, row.error_code, row.error
        return cls(**values, error_count=count, error_code=code, error=message and message[:MAX_ERROR_CHARS])

    @property
    def items_finished(self) -> int:
        """How many items are done, failed or skipped."""
        return self.items_done + self.items_failed + self.items_skipped

    @property
    def order(self) -> Order:
        """How new it is."""
        finished, progress = str(self.items_finished), repr(self.progress)
        return str(self.version), finished, progress, str(self.items_total), str(self.error_count)

    def to_fields(self) -> list[str]:
        """Return what a hash holds besides the order: field, value, field, value; what is ``None`` is left out."""
        values = ((name, getattr(self, name)) for name in FIELDS if name not in _IN_ORDER)
        return [part for name, value in values if value is not None for part in (name, _written(value))]


_NAMES: Final = tuple(field.name for field in fields(JobStatusView))
_OF_ERRORS: Final = ("error_count", "error_code", "error")
_IN_ORDER: Final = frozenset({"version", "progress", "items_total", "error_count"})
_COUNTS: Final = ("items_done", "items_failed", "items_skipped")
_COUNTED: Final = frozenset(_COUNTS)

FIELDS: Final = _NAMES
"""The fields of a hash, in the order in which a reader asks for them."""

ERROR_COLUMNS: Final = (
    func.jsonb_array_length(Job.errors).label("error_count"),
    Job.errors[-1]["code"].astext.label("error_code"),
    func.left(Job.errors[-1]["message"].astext, MAX_ERROR_CHARS).label("error"),
)
"""What of the errors is in a view."""

STATUS_COLUMNS: Final = (
    *(getattr(Job, name) for name in _NAMES if name not in _OF_ERRORS),
    *ERROR_COLUMNS,
)
"""What to select, or to return from an update, for :meth:`JobStatusView.of`."""


class JobStatusChange(NamedTuple):
    """What a transition changed of a job, for whoever does not have its whole row at hand.

    Attributes:
        job_id: which job.
        version: the version the row has now.
        changed: fields of :class:`JobStatusView` with their new values, ``None`` to clear one; of the three counts of
            finished items all or none. ``status`` is always among them: a transition is the first of its version, and
            that alone says how new it is.
    """

    job_id: UUID
    version: int
    changed: Mapping[str, Any]

    @property
    def ends(self) -> bool:
        """Whether the job is final now."""
        status = self.changed.get("status")
        return isinstance(status, JobStatus) and status.is_final

    def order(self) -> Order:
        """How new it is, as far as it is known.

        Raises:
            ValueError: see :meth:`check`.
        """
        self.check()
        changed = self.changed
        counts = [changed[name] for name in _COUNTS if name in changed]
        return (
            str(self.version),
            str(sum(counts)) if counts else "",
            _written(changed.get("progress", "")),
            _written(changed.get("items_total", "")),
            _written(changed.get("error_count", "")),
        )

    def check(self) -> None:
        """Return if it can be written.

        Raises:
            ValueError: a field that no view has, or that does not change; only some of the three counts; no status.
        """
        names = self.changed.keys()
        if not names <= _CHANGING:
            raise ValueError(
                f"job {self.job_id}: {sorted(names - _CHANGING)} cannot be changed; expected {sorted(_CHANGING)}"
            )
        if not (names >= _COUNTED or names.isdisjoint(_COUNTED)):
            raise ValueError(f"job {self.job_id}: {', '.join(_COUNTS)} change together, or none of them")
        if "status" not in names:
            raise ValueError(f"job {self.job_id}: a change without a status is none of a transition: write its view")

    def to_fields(self) -> list[str]:
        """Return what is to be written besides the order: field, value, ...; an empty value clears."""
        parts: list[str] = []
        for name, value in self.changed.items():
            if name not in _IN_ORDER:
                parts += (name, "" if value is None else _written(value))
        return parts


_CHANGING: Final = frozenset(_NAMES) - {"id", "type", "queue", "workspace_id", "created_at", "version"}


def _written(value: Any) -> str:
    kind = type(value)
    if kind is int or kind is float:
        return repr(value)
    if kind is datetime:
        return str(value.isoformat())
    return str(value)[:MAX_ERROR_CHARS]


def _text(raw: bytes) -> str:
    return raw.decode()


def _number(raw: bytes) -> int:
    return int(raw)


_READERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "id": lambda raw: UUID(raw.decode()),
    "status": lambda raw: JobStatus(raw.decode()),
    "progress": float,
    **dict.fromkeys(("version", "attempt", "items_total", *_COUNTS, "error_count"), _number),
    **dict.fromkeys(
        ("created_at", "queued_at", "started_at", "completed_at"), lambda raw: datetime.fromisoformat(raw.decode())
    ),
}
_OPTIONAL: Final = frozenset(
    {"workspace_id", "worker_id", "queued_at", "started_at", "completed_at", "error_code", "error"}
)


def from_hash(job_id: UUID, values: Sequence[bytes | None]) -> JobStatusView | None:
    """Return the view that stands in a hash; ``None`` if it is not whole, another job's, or not ours.

    Args:
        job_id: whose hash it should be.
        values: of ``FIELDS``, in that order.
    """
    read: dict[str, Any] = {}
    try:
        for name, raw in zip(FIELDS, values, strict=True):
            if raw:
                read[name] = _READERS.get(name, _text)(raw)
            elif name not in _OPTIONAL:
                return None
        return JobStatusView(**read) if read["id"] == job_id else None
    except ValueError:  # also what is no UTF-8, no number, no such state
        return None
