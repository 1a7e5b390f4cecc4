"""A job in the hands of one attempt, as its task sees it.

A task talks to its job through :class:`Run`: it asks for the items that are left, hands each to a function, and returns
a result. It never writes a status itself; what it raises says how the attempt ends (:mod:`worker.ends`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError

from repositories.database import DatabaseManager
from repositories.errors import DatabaseUnavailableError
from repositories.hot_status import HotStatus
from repositories.items import ItemRepository
from repositories.jobs import ClaimedJob
from repositories.models import JobItem
from repositories.schemas import Held, ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus
from worker.engines.base import Engine, EngineRefusedError, EngineUnavailableError, WorkspaceUnknownError
from worker.leases import LeaseKeeper
from worker.queue import JobQueue
from worker.recorder import AttemptLostError, ItemRecorder
from worker.settings import Settings
from worker.storage import StorageUnavailableError
from worker.uploads.opening import Sources

log = structlog.get_logger(__name__)

Task = Callable[["Run"], Awaitable[dict[str, Any]]]
PayloadT = TypeVar("PayloadT", bound=BaseModel)


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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait after the n-th failure: exponential with full jitter.

    Attributes:
        base_seconds: the ceiling after the first failure; doubled with each further one.
        cap_seconds: no ceiling is higher.
    """

    base_seconds: float = 2.0
    cap_seconds: float = 300.0


DEFAULT_RETRIES = RetryPolicy()
"""For job types that have no policy of their own."""

# What no single item is to blame for.
STOPS_THE_JOB = (
    AttemptLostError,
    CancelRequestedError,
    DatabaseUnavailableError,
    EngineRefusedError,
    EngineUnavailableError,
    JobFailedError,
    RetryAfterError,
    Snooze,
    StorageUnavailableError,
    WorkspaceUnknownError,
)


AWAY_IN_A_ROW = 3
"""Items in a row that found the engine away, after which a run ends."""


@dataclass(slots=True)
class _Tally:
    """What became of the items of a run so far.

    Attributes:
        done: how many ended well.
        error: the first that concerns the whole job, or else the first of an item.
        unanswered: the items that found the engine away.
        away: how many did since the last item that ended well.
    """

    done: int = 0
    error: Exception | None = None
    unanswered: "list[tuple[JobItem, EngineUnavailableError]]" = field(default_factory=list)
    away: int = 0

    @property
    def is_over(self) -> bool:
        """Whether no further item should be begun."""
        return self.away >= AWAY_IN_A_ROW or isinstance(self.error, STOPS_THE_JOB)

    def note_outcome(self, outcome: ItemOutcome) -> None:
        """Note how an item ended. Only one that was done says that the engine answers."""
        if outcome.status is ItemStatus.DONE:
            self.done += 1
            self.away = 0

    def note_error(self, item: JobItem, error: Exception) -> None:
        """Note an error that an item met."""
        if isinstance(error, EngineUnavailableError):
            self.unanswered.append((item, error))
            self.away += 1
        elif self.error is None or (isinstance(error, STOPS_THE_JOB) and not isinstance(self.error, STOPS_THE_JOB)):
            self.error = error


class ItemLeftError(Exception):
    """An item was not begun, or not ended, because the run is over; it stays as it is for the next attempt."""


class UnansweredError(Exception):
    """Some items found no answer from an engine that answers others; it counts as a failure of the attempt."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.error = JobError(code=code, message=message)


def told(error: Exception) -> JobError:
    """An unexpected error as the record tells it. A database's own text holds SQL and values: only its name is told."""
    text = type(error.orig).__name__ if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    return JobError(code="unexpected_error", message=text[:1_000])


@dataclass
class Runtime:
    """What one worker process lends to the jobs it runs."""

    settings: Settings
    database: DatabaseManager
    queue: JobQueue
    sources: Sources
    engine: Engine
    leases: LeaseKeeper
    worker_id: str
    tasks: Mapping[str, Task]
    retries: Mapping[str, RetryPolicy] = field(default_factory=dict)
    hot: HotStatus | None = None


@dataclass(slots=True, eq=False)
class Run:
    """A job in the hands of one attempt: what its task sees.

    Attributes:
        job: as it was when it was claimed.
        held: the job and the attempt, as everything that is written names them.
        began: when it began (monotonic clock, seconds).
        task: what carries it out, for whoever has to stop it.
        cancel_requested: it is to stop at its next item boundary.
        lost: another attempt owns the job.
        limited: its queue has a limit, so its end makes room for another job of it.
        overdue: the attempt took longer than it may, and is being stopped.
    """

    job: ClaimedJob
    runtime: Runtime
    held: Held = field(init=False)
    began: float = field(default_factory=time.monotonic)
    task: "asyncio.Task[Any] | None" = field(default=None, repr=False)
    cancel_requested: bool = False
    lost: bool = False
    limited: bool = False
    overdue: bool = False
    _tally: _Tally | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.held = self.job.held

    @property
    def due(self) -> float:
        """When its time is up (monotonic clock, seconds)."""
        return self.began + self.job.timeout_seconds

    async def items(self, expand: Callable[[], Awaitable[Sequence[NewItem]]]) -> list[JobItem]:
        """Return the items that are left to do.

        The first attempt writes the list that ``expand`` makes; later attempts only read it.

        Raises:
            AttemptLostError: another attempt owns the job.
        """
        if self.job.items_total == 0:
            new = await expand()
            async with self.runtime.database.get_transaction() as session:
                if not await ItemRepository(session).expand(self.held, new):
                    raise AttemptLostError(self.held)
        async with self.runtime.database.get_session() as session:
            return await ItemRepository(session).pending(self.job.id)

    async def each(self, items: Sequence[JobItem], handle: Callable[[JobItem], Awaitable[ItemOutcome]]) -> None:
        """Hand every item to ``handle``, a few at a time, and record what it returns.

        An error that concerns the whole job (:data:`STOPS_THE_JOB`) ends the run once the items in flight have ended.
        Any other is the item's own: the others go on, the next attempt tries it again, and on the last one it fails.
        That the engine does not answer ends it if it happens :data:`AWAY_IN_A_ROW` times without an item that ends well
        in between; it is no failure while the engine is away, or the attempt did others well.

        Raises:
            CancelRequestedError: cancellation was asked for; no further item was begun.
            AttemptLostError: another attempt owns the job.
            EngineUnavailableError: the engine is away.
        """
        left, tally = deque(items), _Tally()
        self._tally = tally

        async def work(recorder: ItemRecorder) -> None:
            while left and not self.is_over:
                item = left.popleft()
                try:
                    outcome = await self._one(item, handle)
                    recorder.add(outcome)
                    tally.note_outcome(outcome)
                except ItemLeftError:
                    left.append(item)
                except Exception as error:  # noqa: BLE001 - raised below, once what finished is on the record
                    tally.note_error(item, error)

        async with ItemRecorder(self.runtime.database, self.held, self.runtime.hot) as recorder:
            goes_on = True
            while goes_on:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.runtime.settings.item_concurrency, len(items))):
                        group.create_task(work(recorder))
                goes_on = await self._decide(tally, recorder)
        if tally.error is not None:
            raise tally.error
        if self.cancel_requested:
            raise CancelRequestedError

    @property
    def is_over(self) -> bool:
        """Whether no further item is begun: cancellation was asked for, or something stopped the job."""
        return self.cancel_requested or (self._tally is not None and self._tally.is_over)

    async def _decide(self, tally: _Tally, recorder: ItemRecorder) -> bool:
        """Decide about items that found no answer: the engine is away, or one of them brings it down each time.

        It is away if it is not healthy now, or if this attempt did others well. Else these items count as a failure,
        and on the last attempt they have failed, and the others go on.

        Returns:
            Whether there may be more to do.
        """
        if not tally.unanswered or self.cancel_requested or isinstance(tally.error, STOPS_THE_JOB):
            return False
        _, error = tally.unanswered[-1]
        try:
            await self.runtime.engine.health()
        except EngineUnavailableError as away:
            tally.error = away
            return False
        if tally.done:
            tally.error = error
        elif not self.is_last_attempt:
            message = f"{len(tally.unanswered)} items found no answer, the last one: {error}"
            tally.error = UnansweredError(error.code, message)
        else:
            for item, reason in tally.unanswered:
                failure = JobError(code=reason.code, message=f"{item.key}: {reason.message}")
                recorder.add(ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=failure))
            tally.unanswered.clear()
            tally.away = 0
            return True
        return False

    async def _one(self, item: JobItem, handle: Callable[[JobItem], Awaitable[ItemOutcome]]) -> ItemOutcome:
        """Handle one item; on the last attempt an unexpected error is how it ended."""
        try:
            return await handle(item)
        except (*STOPS_THE_JOB, ItemLeftError):
            raise
        except Exception as error:
            if not self.is_last_attempt:
                raise
            log.exception("item.error", item=item.key)
            return ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=told(error))

    @property
    def is_last_attempt(self) -> bool:
        """Whether one more error of the work fails the job."""
        return self.job.failures + 1 >= self.job.max_attempts

    def payload(self, model: type[PayloadT]) -> PayloadT:
        """Return the job's payload as ``model``.

        Raises:
            JobFailedError: it is not one; the message names the field.
        """
        try:
            return model.model_validate(self.job.payload)
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "payload"
            raise JobFailedError("invalid_payload", f"the job cannot be read at {place}: {problem['msg']}") from None

    def fail_if_all_failed(self, failed: int, total: int) -> None:
        """End the job as failed if not one of its items could be done.

        Raises:
            JobFailedError: with the code ``all_items_failed``.
        """
        if total and failed == total:
            raise JobFailedError("all_items_failed", f"all {total} items failed: see the error of each")

    def stop_as_lost(self) -> None:
        """Stop at the next await: nothing this attempt writes would be taken."""
        self.lost = True
        if self.task is not None:
            self.task.cancel()

    def stop_as_overdue(self) -> None:
        """Stop at the next await: the job's time is up."""
        self.overdue = True
        if self.task is not None:
            self.task.cancel()

    def request_cancel(self) -> None:
        """Stop at the next item boundary."""
        self.cancel_requested = True
