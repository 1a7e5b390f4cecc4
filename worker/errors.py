"""What a task may raise, and what each of it says of the job.

A task never writes a status: what it raises is how the attempt ends (:mod:`worker.ends`), or how one item does.
"""

from datetime import timedelta

from sqlalchemy.exc import DBAPIError

from repositories.errors import DatabaseStateError
from repositories.schemas import JobError
from worker.engines.base import EngineRefusedError, EngineUnavailableError, WorkspaceUnknownError
from worker.recorder import AttemptLostError
from worker.storage import StorageUnavailableError


class JobFailedError(Exception):
    """The job can never succeed as it is; it fails at once, whatever attempts are left. ``error`` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.error = JobError(code=code, message=message)

    def __str__(self) -> str:
        return self.error.message


class CancelRequestedError(Exception):
    """Somebody asked to cancel the job; raised at an item boundary."""


class Snooze(Exception):  # noqa: N818 - not an error: the task asks to be run again later
    """Run the job again later: what it waits for is not there yet. Counts as no failure; finished items are kept.

    Args:
        delay: more than zero.
        reason: for the log.
    """

    def __init__(self, delay: timedelta, reason: str = "snooze") -> None:
        if delay <= timedelta(0):
            raise ValueError(f"delay must be more than zero, not {delay}")
        super().__init__(reason)
        self.delay = delay
        self.reason = reason


class RetryAfterError(Exception):
    """The work went wrong, and whoever refused it said when to come again. Counts as a failure like any other.

    Args:
        delay: what a ``Retry-After`` said; more than zero, and bounded to an hour.
        error: for the record.
    """

    def __init__(self, delay: timedelta, error: JobError) -> None:
        super().__init__(error.message)
        self.delay = min(max(delay, timedelta(seconds=0.1)), timedelta(hours=1))
        self.error = error


class ItemLeftError(Exception):
    """An item was not begun, or not ended, because the run is over; it stays as it is for the next attempt."""


class UnansweredError(Exception):
    """Some items found no answer from an engine that answers others; it counts as a failure of the attempt."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.error = JobError(code=code, message=message)


# What no single item is to blame for.
STOPS_THE_JOB = (
    AttemptLostError,
    CancelRequestedError,
    DatabaseStateError,
    EngineRefusedError,
    EngineUnavailableError,
    JobFailedError,
    RetryAfterError,
    Snooze,
    StorageUnavailableError,
    WorkspaceUnknownError,
)


def told(error: Exception) -> JobError:
    """An unexpected error as the record tells it. A database's own text holds SQL and values: only its name is told."""
    text = type(error.orig).__name__ if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    return JobError(code="unexpected_error", message=text[:1_000])
