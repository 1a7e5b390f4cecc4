"""How an attempt ends: whatever a task did becomes one :data:`End`, which :mod:`worker.recording` writes down."""

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from repositories.errors import DatabaseStateError
from repositories.schemas import JobError
from worker.engines.base import EngineRefusedError, EngineUnavailableError
from worker.errors import (
    CancelRequestedError,
    JobFailedError,
    RetryAfterError,
    Snooze,
    UnansweredError,
    told,
)
from worker.recorder import AttemptLostError
from worker.run import Run
from worker.storage import StorageUnavailableError, StoredBytesMissingError

AWAY_SECONDS = 5.0
_LONGEST_AWAY_SECONDS = 300.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Completed:
    """The task returned."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The job can never succeed as it is."""

    error: JobError


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The work went wrong; it counts, and is tried again while attempts are left. ``delay``: as the other side said."""

    error: JobError
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """Not the work's fault (engine away, snooze, shutdown): back into the queue, nothing counted.

    ``is_outage``: what the work needs is away; if that lasts longer than ``ENGINE_OUTAGE_HOURS``, the job fails.
    """

    delay: timedelta
    reason: str
    is_outage: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was asked for."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Another attempt owns the job: nothing may be written."""


End = Completed | Failed | TryAgain | HandedBack | Cancelled | Lost


async def attempt(run: Run) -> End:
    """Run the job's task and say how it ended; only a cancellation passes through.

    Whoever calls it keeps the job's time limit: :func:`timed_out` is the end of an attempt that was stopped for it.
    """
    try:
        return Completed(await run.runtime.tasks[run.job.type](run))
    except _SAID as said:
        return _as_said(said)
    except EngineRefusedError as error:
        return Failed(JobError(code=error.code, message=error.message))
    except (EngineUnavailableError, StorageUnavailableError) as error:
        return HandedBack(_until_back(error), str(error), is_outage=True)
    except DatabaseStateError as error:
        return HandedBack(_until_back(error), str(error))
    except StoredBytesMissingError as error:
        return TryAgain(JobError(code="bytes_missing", message=str(error)))
    except Exception as error:  # noqa: BLE001 - whatever a task raises becomes an entry of the job's errors
        return _unexpected(error)


def _until_back(error: Exception) -> timedelta:
    """How long to leave alone what is away: as long as it says, or else a few seconds; with jitter."""
    asked = error.retry_after if isinstance(error, EngineUnavailableError) else None
    seconds = AWAY_SECONDS if asked is None else max(1.0, min(asked, _LONGEST_AWAY_SECONDS))
    return timedelta(seconds=seconds * (0.5 + random.random()))  # noqa: S311 - jitter


def timed_out(run: Run) -> End:
    """The end of an attempt that took too long."""
    message = f"the attempt took longer than its {run.job.timeout_seconds} seconds; finished items are kept"
    return TryAgain(JobError(code="timeout", message=message))


_SAID = (JobFailedError, RetryAfterError, UnansweredError, CancelRequestedError, AttemptLostError, Snooze)


def _as_said(said: Exception) -> End:
    """The end that a task asked for by what it raised."""
    match said:
        case JobFailedError(error=error):
            return Failed(error)
        case RetryAfterError(error=error, delay=delay):
            return TryAgain(error, delay)
        case UnansweredError(error=error):
            return TryAgain(error)
        case CancelRequestedError():
            return Cancelled()
        case Snooze(delay=delay, reason=reason):
            return HandedBack(delay, reason)
        case _:
            return Lost()


def _unexpected(error: Exception) -> TryAgain:
    log.error("job.error", exc_info=error)
    return TryAgain(told(error))
