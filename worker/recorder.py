"""Writing items down as they finish, in groups that form by themselves.

While one group is being written the next one gathers; a lone item waits for nobody. A write of a lost attempt changes
nothing, and ends the run. Progress goes to hot status at most four times a second.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from repositories.database import DatabaseManager
from repositories.errors import ConflictError, DatabaseStateError, InvalidValueError, RepositoryError
from repositories.hot_status import HotStatus, JobStatusView
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.schemas import MAX_BATCH, Held, ItemOutcome, JobError
from repositories.states import ItemStatus
from worker.masking import without_secrets
from worker.server_wait import ServerWait

PROGRESS_SECONDS = 0.25
"""Hot status is told of progress no oftener than this."""

CLOSE_SECONDS = 5.0
"""How long a cancelled attempt waits for PostgreSQL to take what has finished."""

NOT_RECORDABLE = "result_not_recordable"
"""Code of a job or an item whose result PostgreSQL can never store."""

log = structlog.get_logger(__name__)


class AttemptLostError(Exception):
    """Another attempt owns the job: whatever this one does from here on is refused. ``held`` names the lost attempt."""

    def __init__(self, held: Held) -> None:
        super().__init__(held)
        self.held = held

    def __str__(self) -> str:
        return f"attempt {self.held.attempt} no longer owns job {self.held.job_id}"


class ItemRecorder:
    """Records the outcomes handed to :meth:`add`; leaving the block writes what is left, also when it was cancelled.

    A group that PostgreSQL does not take now waits and is written later. Leaving raises :class:`AttemptLostError` if
    the attempt no longer owns the job; if it is left by a cancellation, what cannot be written within
    :data:`CLOSE_SECONDS` raises :class:`repositories.errors.DatabaseStateError`.
    """

    def __init__(self, database: DatabaseManager, held: Held, hot: HotStatus | None = None) -> None:
        self._database = database
        self._held = held
        self._hot = hot
        self._untold = True  # the item list itself is new to hot status
        self._told_at = -PROGRESS_SECONDS
        self._gathered: list[ItemOutcome] = []
        self._more = asyncio.Event()
        self._closing = False
        self._ready = asyncio.Event()
        self._ready.set()
        self._patient_until = math.inf
        self._writer: asyncio.Task[None] | None = None
        self._parent: asyncio.Task[object] | None = None

    def add(self, outcome: ItemOutcome) -> None:
        """Have ``outcome`` written with the next group, its error without secrets."""
        if outcome.error is not None:
            outcome = outcome.model_copy(update={"error": without_secrets(outcome.error)})
        self._gathered.append(outcome)
        self._more.set()

    async def _write(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_until_telling()):
                    await self._more.wait()
            self._more.clear()
            while self._gathered:
                group, self._gathered = self._gathered[:MAX_BATCH], self._gathered[MAX_BATCH:]
                await self._record(group)
                self._untold = True
            if self._closing:  # whatever ends the attempt tells the rest
                return
            if self._seconds_until_telling() == 0:
                await self._tell(self._hot)

    async def _record(self, group: Sequence[ItemOutcome]) -> None:
        """Write a group, however long PostgreSQL refuses for a reason of its own state.

        What it can never store is part of one item: the group is halved until that one is alone, and it fails.
        """
        wait = ServerWait("items.waiting", "items.recovered", job_id=str(self._held.job_id), items=len(group))
        while True:
            try:
                async with self._database.get_transaction() as session:
                    if not await ItemRepository(session).record(self._held, group):
                        raise AttemptLostError(self._held)
            except DatabaseStateError as error:
                if time.monotonic() >= self._patient_until:
                    raise
                self._ready.clear()
                await wait.after(error)
            except (ConflictError, InvalidValueError) as error:
                await self._apart(group, error)
                return
            else:
                self._ready.set()
                wait.over()
                return

    async def _apart(self, group: Sequence[ItemOutcome], error: RepositoryError) -> None:
        if len(group) > 1:
            middle = len(group) // 2
            await self._record(group[:middle])
            await self._record(group[middle:])
            return
        (outcome,) = group
        if outcome.error is not None and outcome.error.code == NOT_RECORDABLE:
            raise error
        log.error("item.not_recordable", job_id=str(self._held.job_id), position=outcome.position, reason=str(error))
        why = JobError(code=NOT_RECORDABLE, message=f"what became of it cannot be written: {error}")
        await self._record([ItemOutcome(position=outcome.position, status=ItemStatus.FAILED, error=why)])

    async def ready(self) -> None:
        """Return once outcomes can be recorded: nothing is begun, and paid for, while PostgreSQL takes none."""
        await self._ready.wait()

    def _seconds_until_telling(self) -> float | None:
        if self._hot is None or not self._untold:
            return None
        return max(0.0, self._told_at + PROGRESS_SECONDS - time.monotonic())

    async def _tell(self, hot: HotStatus | None) -> None:
        """Write the job's counts and progress, as they are on the record, to hot status."""
        if hot is None:
            return
        self._told_at, self._untold = time.monotonic(), False
        if not await hot.watched([self._held.job_id]):
            return
        since = hot.mark
        with suppress(DatabaseStateError):  # if PostgreSQL stays away, the next group of items says so
            async with self._database.get_session() as session:
                jobs = await JobRepository(session).snapshot([self._held.job_id])
            await hot.write([JobStatusView.of(job) for job in jobs], since=since)

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write(), name="item-recorder")
        self._parent = asyncio.current_task()
        # A writer that cannot write stops the work that it would have to write down.
        self._writer.add_done_callback(self._stop_parent_on_error)
        return self

    def _stop_parent_on_error(self, writer: "asyncio.Task[None]") -> None:
        if not writer.cancelled() and writer.exception() is not None and not self._closing and self._parent is not None:
            self._parent.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer = self._writer
        if writer is None:
            return
        failed = writer.done() and writer.exception() is not None
        self._closing = True
        self._more.set()
        if isinstance(error, asyncio.CancelledError):  # shutdown, a lost attempt or one whose time is up
            self._patient_until = time.monotonic() + CLOSE_SECONDS
        if failed and isinstance(error, asyncio.CancelledError) and self._parent is not None:
            self._parent.uncancel()  # it was our own doing: the writer's error is what the caller must see
        interrupted = False
        while not writer.done():
            try:
                await asyncio.wait({writer})
            except asyncio.CancelledError:  # shutdown: what has finished is still written, and then we go
                interrupted = True
                self._patient_until = min(self._patient_until, time.monotonic() + CLOSE_SECONDS)
        writer.result()
        if interrupted:
            raise asyncio.CancelledError
