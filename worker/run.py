"""A job in the hands of one attempt, as its task sees it.

A task talks to its job through :class:`Run`: it asks for the items that are left, hands each to a function, and returns
a result. It never writes a status itself; what it raises says how the attempt ends (:mod:`worker.ends`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from repositories.database import DatabaseManager
from repositories.hot_status import HotStatus
from repositories.items import ItemRepository
from repositories.jobs import ClaimedJob
from repositories.models import JobItem
from repositories.schemas import Held, ItemOutcome, NewItem
from repositories.states import ItemStatus
from worker.engines.base import Engine, Work
from worker.errors import STOPS_THE_JOB, CancelRequestedError, ItemLeftError, JobFailedError, told
from worker.item_slots import MOST_ASIDE, ItemSlots
from worker.leases import LeaseKeeper
from worker.queue import JobQueue
from worker.recorder import AttemptLostError, ItemRecorder
from worker.retries import RetryPolicy
from worker.settings import Settings
from worker.tally import Tally
from worker.uploads.opening import Sources

log = structlog.get_logger(__name__)

Task = Callable[["Run"], Awaitable[dict[str, Any]]]
PayloadT = TypeVar("PayloadT", bound=BaseModel)


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
    _tally: Tally | None = field(default=None, repr=False)

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

    async def each(
        self,
        items: Sequence[JobItem],
        handle: Callable[[JobItem], Awaitable[ItemOutcome]],
        slug: str | None = None,
    ) -> None:
        """Hand every item to ``handle``, a few at a time, and record what it returns.

        An error that concerns the whole job (:data:`worker.errors.STOPS_THE_JOB`) ends the run once the items in flight
        have ended. Any other is the item's own: the others go on, the next attempt tries it again, and on the last one
        it fails. Where the engine does not answer :data:`worker.tally.AWAY_IN_A_ROW` times without an item that ends
        well in between, it is looked for: while it is away the run ends, and nothing is counted.

        Args:
            items: what is left to do.
            handle: does one, and says how it ended.
            slug: the workspace's, where the language model may have to be asked whether it answers.

        Raises:
            CancelRequestedError: cancellation was asked for; no further item was begun.
            AttemptLostError: another attempt owns the job.
            EngineUnavailableError: the engine is away.
        """
        left, tally = deque(items), Tally()
        self._tally = tally
        most = self.runtime.settings.item_concurrency
        slots = ItemSlots(most)
        if self.runtime.engine.embeds_in_groups:
            most += MOST_ASIDE
        health = partial(self.runtime.engine.health, Work.of(self.job.type), slug)

        async with ItemRecorder(self.runtime.database, self.held, self.runtime.hot) as recorder:
            while left and not (self.cancel_requested or tally.is_stopped):
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(most, len(items))):
                        group.create_task(self._work(left, tally, recorder, handle, slots))
                if not self.cancel_requested:
                    left.extend(await tally.again(health))
            if not self.cancel_requested:
                tally.settle(recorder, is_last_attempt=self.is_last_attempt)
        if tally.error is not None:
            raise tally.error
        if self.cancel_requested:
            raise CancelRequestedError

    async def _work(
        self,
        left: deque[JobItem],
        tally: Tally,
        recorder: ItemRecorder,
        handle: Callable[[JobItem], Awaitable[ItemOutcome]],
        slots: ItemSlots,
    ) -> None:
        """Do one item after another until none is left, or the run is over."""
        while left and not self.is_over:
            async with slots.hold():
                await recorder.ready()
                if not left or self.is_over:
                    break
                item = left.popleft()
                try:
                    outcome = await self._one(item, handle)
                    recorder.add(outcome)
                    tally.note_outcome(outcome)
                except ItemLeftError:
                    left.append(item)
                except Exception as error:  # noqa: BLE001 - raised in the end, once what finished is on the record
                    tally.note_error(item, error)

    @property
    def has_progressed(self) -> bool:
        """Whether this attempt recorded how an item ended."""
        return self._tally is not None and self._tally.recorded > 0

    @property
    def is_over(self) -> bool:
        """Whether no further item is begun: cancellation was asked for, or something stopped the job."""
        return self.cancel_requested or (self._tally is not None and self._tally.is_over)

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
