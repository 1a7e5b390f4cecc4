"""One attempt at one job: claim, run its task, record how it ended.

Whatever a task did becomes one :data:`End`, and one place writes it down. A task talks to its job through :class:`Run`:
it asks for the items that are left, hands each to a function, and returns a result. It never writes a status itself.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from arq.worker import Retry as ArqRetry
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError

from repositories.base import as_uuid
from repositories.database import DatabaseManager
from repositories.errors import DatabaseUnavailableError
from repositories.hot_status import HotStatus, JobStatusView
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.models import Job, JobItem
from repositories.schemas import Finish, Held, ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus, JobStatus
from worker.engines.base import Engine, EngineUnavailableError
from worker.leases import LeaseKeeper, Watcher
from worker.queue import JobQueue, QueueUnavailableError
from worker.recorder import AttemptLostError, ItemRecorder
from worker.settings import Settings
from worker.storage import Storage, StorageUnavailableError, StoredBytesMissingError

RETRY_BASE_SECONDS = 2.0
RETRY_CAP_SECONDS = 300.0
AWAY_SECONDS = 5.0

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


@dataclass(frozen=True)
class Completed:
    """The task returned."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job can never succeed as it is."""

    error: JobError


@dataclass(frozen=True)
class TryAgain:
    """The work went wrong; it counts, and is tried again while attempts are left."""

    error: JobError


@dataclass(frozen=True)
class PutBack:
    """Not the work's fault (engine away, shutdown): back into the queue, nothing counted."""

    delay: timedelta
    reason: str


@dataclass(frozen=True)
class Cancelled:
    """It was asked for."""


@dataclass(frozen=True)
class Lost:
    """Another attempt owns the job, or the record cannot be reached: nothing may be written."""

    reason: str


# What no single item is to blame for.
STOPS_THE_JOB = (
    AttemptLostError,
    DatabaseUnavailableError,
    EngineUnavailableError,
    JobFailedError,
    StorageUnavailableError,
)

End = Completed | Failed | TryAgain | PutBack | Cancelled | Lost


@dataclass
class Runtime:
    """What one worker process lends to the jobs it runs."""

    settings: Settings
    database: DatabaseManager
    queue: JobQueue
    storage: Storage
    engine: Engine
    leases: LeaseKeeper
    worker_id: str
    tasks: Mapping[str, Task]
    hot: HotStatus | None = None


@dataclass
class Run:
    """A job in the hands of one attempt: what its task sees."""

    job: Job
    held: Held
    runtime: Runtime
    cancel_requested: bool = False
    lost: bool = False
    _task: "asyncio.Task[End] | None" = field(default=None, repr=False)

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

        Raises:
            CancelRequestedError: cancellation was asked for; no further item was begun.
            AttemptLostError: another attempt owns the job.
        """
        left = iter(items)
        errors: list[Exception] = []

        async def work(recorder: ItemRecorder) -> None:
            for item in left:
                if self.cancel_requested or any(isinstance(error, STOPS_THE_JOB) for error in errors):
                    return
                try:
                    recorder.add(await self._one(item, handle))
                except Exception as error:  # noqa: BLE001 - raised below, once what finished is on the record
                    errors.append(error)

        recording = ItemRecorder(self.runtime.database, self.held, self.runtime.hot)
        async with recording as recorder, asyncio.TaskGroup() as group:
            for _ in range(min(self.runtime.settings.item_concurrency, len(items))):
                group.create_task(work(recorder))
        for error in sorted(errors, key=lambda error: not isinstance(error, STOPS_THE_JOB)):
            raise error
        if self.cancel_requested:
            raise CancelRequestedError

    async def _one(self, item: JobItem, handle: Callable[[JobItem], Awaitable[ItemOutcome]]) -> ItemOutcome:
        """Handle one item; on the last attempt an unexpected error is how it ended."""
        try:
            return await handle(item)
        except STOPS_THE_JOB:
            raise
        except Exception as error:
            if not self.is_last_attempt:
                raise
            log.exception("item.error", item=item.key)
            return ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=_told(error))

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
        if self._task is not None:
            self._task.cancel()

    def request_cancel(self) -> None:
        """Stop at the next item boundary."""
        self.cancel_requested = True


async def execute(runtime: Runtime, job_id_text: str) -> None:
    """Carry out one job, whose id ARQ delivered. Safe to call for any id at any time: the claim decides.

    Raises:
        arq.worker.Retry: PostgreSQL could not be reached to claim it; the message stays.
        asyncio.CancelledError: the worker shuts down; the job was put back, and the message stays.
    """
    job_id = as_uuid(job_id_text)
    if job_id is None:
        log.error("message.invalid", text=job_id_text[:64])
        return
    lease = timedelta(seconds=runtime.settings.lease_seconds)
    since = runtime.hot.mark if runtime.hot is not None else None
    try:
        async with runtime.database.get_transaction() as session:
            claimed = await JobRepository(session).claim([job_id], runtime.worker_id, lease)
    except DatabaseUnavailableError as error:
        log.warning("job.not_claimed", job_id=str(job_id), reason=error.reason)
        raise ArqRetry(defer=1) from None
    if not claimed:
        log.debug("job.not_claimable", job_id=str(job_id))
        return
    (job,) = claimed
    if runtime.hot is not None:
        await runtime.hot.write([JobStatusView.of(job)], since=since)
    run = Run(job, Held(job.id, job.attempt), runtime)
    bound = {"job_id": str(job.id), "job_type": job.type, "attempt": job.attempt}
    with structlog.contextvars.bound_contextvars(**bound):
        log.info("job.claimed", waited_seconds=_seconds_between(job.queued_at, job.started_at))
        started = time.monotonic()
        with runtime.leases.holding(run.held, Watcher(run.stop_as_lost, run.request_cancel)):
            run._task = asyncio.create_task(_attempt(run))  # noqa: SLF001 - the run and its executor are one module
            try:
                end = await run._task  # noqa: SLF001
            except asyncio.CancelledError:
                if not run.lost:
                    await _record(run, PutBack(timedelta(0), "shutdown"), started)
                    raise
                end = Lost("another attempt owns the job")
            await _record(run, end, started)


async def _attempt(run: Run) -> End:
    """Run the task and say how it ended; only a cancellation passes through."""
    job, runtime = run.job, run.runtime
    deadline = asyncio.timeout(job.timeout_seconds)
    try:
        async with deadline:
            return Completed(await runtime.tasks[job.type](run))
    except JobFailedError as error:
        return Failed(error.error)
    except CancelRequestedError:
        return Cancelled()
    except AttemptLostError:
        return Lost("another attempt owns the job")
    except (EngineUnavailableError, StorageUnavailableError, DatabaseUnavailableError) as error:
        # If it is PostgreSQL, and it stays away, this cannot be recorded: the lease runs out, and rescue does the same.
        return PutBack(timedelta(seconds=AWAY_SECONDS * (0.5 + random.random())), str(error))  # noqa: S311 - jitter
    except StoredBytesMissingError as error:
        return TryAgain(JobError(code="bytes_missing", message=str(error)))
    except TimeoutError as error:
        if deadline.expired():
            message = f"the attempt took longer than its {job.timeout_seconds} seconds; finished items are kept"
            return TryAgain(JobError(code="timeout", message=message))
        return _unexpected(error)
    except Exception as error:  # noqa: BLE001 - whatever a task raises becomes an entry of the job's errors
        return _unexpected(error)


def _unexpected(error: Exception) -> TryAgain:
    log.error("job.error", exc_info=error)
    return TryAgain(_told(error))


def _told(error: Exception) -> JobError:
    """An unexpected error as the record tells it. A database's own text holds SQL and values: only its name is told."""
    text = type(error.orig).__name__ if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    return JobError(code="unexpected_error", message=text[:1_000])


async def _record(run: Run, end: End, started: float) -> None:
    """Write the end down. If PostgreSQL is away, the lease runs out and the job is rescued: nothing is lost."""
    seconds = round(time.monotonic() - started, 3)
    if isinstance(end, Lost):
        log.warning("job.lost", reason=end.reason, seconds=seconds)
        return
    try:
        async with run.runtime.database.get_transaction() as session:
            jobs = JobRepository(session, run.runtime.hot)
            match end:
                case Completed(result):
                    outcome = await jobs.finish([Finish(run.held, JobStatus.COMPLETED, result)])
                case Failed(error):
                    outcome = await jobs.finish([Finish(run.held, JobStatus.FAILED, None, error)])
                case Cancelled():
                    outcome = await jobs.finish([Finish(run.held, JobStatus.CANCELLED)])
                case TryAgain(error) if run.is_last_attempt:
                    outcome = await jobs.finish([Finish(run.held, JobStatus.FAILED, None, error)])
                case TryAgain(error):
                    outcome = await jobs.put_back([run.held], retry_delay(run.job.failures), error)
                case PutBack(delay):
                    outcome = await jobs.put_back([run.held], delay)
            waiting = await jobs.waiting_among(outcome.released) if outcome.released else []
    except DatabaseUnavailableError as error:
        log.warning("job.end_not_recorded", end=type(end).__name__, reason=error.reason, seconds=seconds)
        return
    with suppress(QueueUnavailableError):  # the reconciler hands over what Redis does not hold
        await run.runtime.queue.hand_over(waiting)
    if refusal := outcome.refused.get(run.held.job_id):
        log.warning("job.end_refused", reason=str(refusal), seconds=seconds)
        return
    _log_end(end, outcome.moved[run.held.job_id], seconds)


def _log_end(end: End, status: JobStatus, seconds: float) -> None:
    match end:
        case Failed(error) | TryAgain(error):
            event = "job.failed" if status is JobStatus.FAILED else "job.retried"
            log.warning(event, code=error.code, error=error.message, seconds=seconds)
        case PutBack(delay, reason):
            log.info("job.put_back", reason=reason, delay_seconds=round(delay.total_seconds(), 1), seconds=seconds)
        case _:
            log.info("job.finished", status=str(status), seconds=seconds)


def retry_delay(failures: int) -> timedelta:
    """How long to wait after the n-th failure (from 0): exponential, with full jitter, at most 5 minutes.

    Source: full jitter spreads retries best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    ceiling = min(RETRY_CAP_SECONDS, RETRY_BASE_SECONDS * 2**failures)
    return timedelta(seconds=random.uniform(ceiling / 10, ceiling))  # noqa: S311 - jitter, not a secret


def _seconds_between(earlier: Any, later: Any) -> float | None:
    return None if earlier is None or later is None else round((later - earlier).total_seconds(), 3)
