"""Claiming and carrying out many jobs at a time.

One call to Redis takes as many ids as there are free slots, one statement starts them all, and ends are written in
groups (:mod:`worker.finisher`). While one batch is being started the next is being taken; an idle worker waits to be
called, and looks for itself once a second in case a call was lost. Nothing here ends because PostgreSQL or Redis went
away: it waits until they are back.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import structlog

from repositories.errors import DatabaseStateError
from repositories.hot_status import JobStatusChange, Mark
from repositories.jobs import ClaimedJob, DirectJobs, JobRepository, Waiting
from repositories.lane import Lane
from worker.ending import end_all
from worker.ends import End, HandedBack, Lost, attempt, timed_out
from worker.finisher import Finisher
from worker.loops import Loop, Loops
from worker.queue import QueueUnavailableError
from worker.recording import Ended, started
from worker.run import Run, Runtime
from worker.server_wait import ServerWait

BATCH = 500
"""The most jobs of one claim."""

POLL_SECONDS = 1.0
LOOK_SECONDS = 0.25
"""How late an attempt whose time is up may be stopped."""

TELL_SECONDS = 0.1
"""How late hot status may learn that a job was started."""

_CLAIMERS = 2
_FINISHERS = 2
_CLAIM_SECONDS = 5.0  # how long a claim that is under way is waited for when the worker is to stop

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Batches:
    """Runs jobs while the block lasts; leaving it records what has ended. The first job finds everything warm.

    Args:
        runtime: what jobs are run with.
        queues: from which queues, at least one. Each look begins with another one, so that none starves.
    """

    def __init__(self, runtime: Runtime, queues: Sequence[str]) -> None:
        self._runtime = runtime
        self._queues = deque(queues)
        self._slots = runtime.settings.worker_concurrency
        self._reserved = 0
        self._running: set[Run] = set()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._taking = asyncio.Lock()
        self._claimers: list[asyncio.Task[None]] = []
        self._lanes = AsyncExitStack()
        self._to_claim = [runtime.database.lane() for _ in range(_CLAIMERS)]
        self._to_end = [runtime.database.lane() for _ in range(_FINISHERS)]
        self._finisher = Finisher(
            runtime,
            [DirectJobs(lane) for lane in self._to_end],
            capacity=max(2_000, 4 * self._slots),
            on_room=self._room.set,
        )
        self._untold: list[tuple[Mark | None, Run]] = []
        self._locked: list[Waiting] = []
        self._keepers = Loops(
            Loop("time", timedelta(seconds=LOOK_SECONDS), self._keep_time),
            Loop("tell", timedelta(seconds=TELL_SECONDS), self._tell_starts),
            Loop("hand back", timedelta(seconds=LOOK_SECONDS), self._hand_back),
        )
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """How many jobs are running now."""
        return len(self._running)

    async def stop(self, grace: Callable[[], Awaitable[None]]) -> None:
        """Take no more jobs; let running ones end until ``grace`` returns, then hand the rest back."""
        self._stopping.set()
        self._room.set()
        if self._claimers:
            # A claim that is under way ends in a moment, unless a server hangs: then what it claims is rescued.
            _, hanging = await asyncio.wait(self._claimers, timeout=_CLAIM_SECONDS)
            await end_all(hanging)
        patience = asyncio.ensure_future(grace())
        done = asyncio.ensure_future(self._idle.wait())
        await asyncio.wait({patience, done}, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (patience, done):
            waiter.cancel()
        await end_all([run.task for run in self._running if run.task is not None])

    async def _claim_forever(self, lane: Lane) -> None:
        jobs = DirectJobs(lane)
        while not self._stopping.is_set():
            ids: list[UUID] = []
            try:
                async with self._taking:
                    ids = await self._take(lane)
                if ids:
                    await self._start(jobs, ids)
            except Exception as error:  # a fault of ours must not end the worker: the reconciler sends the jobs again
                log.exception("claim.error", jobs=len(ids), exc_info=error)
                await asyncio.sleep(POLL_SECONDS)
            finally:
                self._reserved -= len(ids)
                self._room.set()

    async def _take(self, lane: Lane) -> list[UUID]:
        """Take a batch of ids and reserve their slots; empty when there was none, or the worker is to stop."""
        while not self._stopping.is_set():
            free = self._slots - self._reserved - len(self._running)
            if free <= 0 or self._finisher.full:
                self._room.clear()
                await self._room.wait()
                continue
            # Half of the slots at a time, so that one batch can be started while the next is taken.
            wanted = min(free, BATCH, max(1, -(-self._slots // _CLAIMERS)))
            ids = await self._patiently(partial(self._runtime.queue.take, self._order(), wanted))
            if ids:
                self._reserved += len(ids)
                return ids
            if ids is not None:
                await self._patiently(lane.stay_ready)
                await self._patiently(self._wait_for_work)
        return []

    def _order(self) -> Sequence[str]:
        self._queues.rotate(-1)
        return tuple(self._queues)

    async def _wait_for_work(self) -> None:
        """Wait to be called, for a second at most, or until the worker is to stop."""
        call = asyncio.ensure_future(self._runtime.queue.wait_for_work(tuple(self._queues), POLL_SECONDS))
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({call, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if call.done():
            call.result()
            return
        call.cancel()
        await asyncio.wait({call})
        await self._runtime.queue.wake(tuple(self._queues))  # the call may have been on its way to us: pass it on

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask until there is an answer; ``None`` if the worker is to stop before there is one."""
        wait = ServerWait("claim.waiting", "claim.recovered")
        while True:
            try:
                answer = await ask()
            except (QueueUnavailableError, DatabaseStateError) as error:
                if self._stopping.is_set():
                    return None
                await wait.after(error)
            else:
                wait.over()
                return answer

    async def _start(self, jobs: DirectJobs, ids: Sequence[UUID]) -> None:
        """Claim these jobs and start those that are ours now."""
        since = None if self._runtime.hot is None else self._runtime.hot.mark
        claimed = await self._patiently(self._known(ids, lambda left: jobs.claim(left, *self._as_us())))
        self._run(claimed or [], since)
        left = set(ids) - {job.id for job in claimed or []}
        if left and claimed is not None:
            self._run(await self._patiently(self._known(left, self._admit)) or [], since, limited=True)

    def _known(
        self, ids: Collection[UUID], claim: Callable[[Collection[UUID]], Awaitable[list[ClaimedJob]]]
    ) -> Callable[[], Awaitable[list[ClaimedJob]]]:
        """A claim that may be asked again: what an earlier try started although its answer was lost is ours, too.

        Nobody else would run it before its lease runs out, and then it would be rescued although no worker died.
        """
        tries = 0

        async def ask() -> list[ClaimedJob]:
            nonlocal tries
            ours: list[ClaimedJob] = []
            if tries:
                async with self._runtime.database.get_session() as session:
                    ours = await JobRepository(session).claimed_before(ids, self._runtime.worker_id)
                if ours:
                    log.warning("claim.answer_lost", jobs=len(ours))
            tries += 1
            left = set(ids) - {job.id for job in ours}
            return ours + (await claim(list(left)) if left else [])

        return ask

    async def _keep_time(self) -> None:
        """Stop attempts whose time is up. One look over all costs less than a timer for each."""
        now = time.monotonic()
        for run in [run for run in self._running if run.due < now]:
            if not run.overdue:
                log.warning("job.overdue", job_id=str(run.job.id), over_seconds=round(now - run.due, 1))
            run.stop_as_overdue()  # at every look: a cancellation can get lost

    async def _tell_starts(self) -> None:
        """Tell hot status what was started; what has ended meanwhile is told by its end alone."""
        untold, self._untold = self._untold, []
        if self._runtime.hot is None:
            return
        by_mark: dict[Mark | None, list[JobStatusChange]] = defaultdict(list)
        for since, run in untold:
            if run in self._running:
                by_mark[since].append(started(run.job))
        for since, changes in by_mark.items():
            await self._runtime.hot.advance(changes, since=since)

    async def _hand_back(self) -> None:
        """Hand over again what could not be claimed because somebody held its row for a moment."""
        locked, self._locked = self._locked, []
        if locked:
            await self._runtime.queue.hand_over(locked)

    def _run(self, jobs: Sequence[ClaimedJob], since: Mark | None, *, limited: bool = False) -> None:
        if not jobs:
            return
        runs = [Run(job, self._runtime, limited=limited) for job in jobs]
        self._runtime.leases.hold(runs)
        if self._runtime.hot is not None:
            self._untold += [(since, run) for run in runs]
        self._idle.clear()
        self._running.update(runs)
        for run in runs:
            run.task = asyncio.create_task(self._carry_out(run))
        log.debug("job.claimed", jobs=len(jobs), first_job_id=str(jobs[0].id))

    async def _admit(self, ids: Collection[UUID]) -> list[ClaimedJob]:
        """Deal with ids that the claim left over: what a limit lets start is claimed, the rest leaves Redis."""
        runtime = self._runtime
        async with runtime.database.get_transaction() as session:
            jobs = JobRepository(session)
            admission = await jobs.admit(ids, runtime.tasks)
            claimed = await jobs.claim(admission.start, *self._as_us(), admitted=True) if admission.start else []
            left = set(ids) - {job.id for job in claimed}
            locked = await jobs.waiting_among(left)
            # Before the commit: after it another worker may have handed a parked job over again.
            with suppress(QueueUnavailableError):
                await runtime.queue.forget(left - {job.job_id for job in locked})
        self._locked += locked
        return claimed

    def _as_us(self) -> tuple[str, timedelta, Collection[str]]:
        runtime = self._runtime
        return runtime.worker_id, timedelta(seconds=runtime.settings.lease_seconds), runtime.tasks

    async def _carry_out(self, run: Run) -> None:
        job = run.job
        structlog.contextvars.bind_contextvars(job_id=str(job.id), job_type=job.type, attempt=job.attempt)
        end: End
        try:
            end = await attempt(run)
        except asyncio.CancelledError:
            end = Lost() if run.lost else timed_out(run) if run.overdue else HandedBack(timedelta(0), "shutdown")
        self._ended(run, end)

    def _ended(self, run: Run, end: End) -> None:
        self._running.remove(run)
        self._room.set()
        if not self._running:
            self._idle.set()
        self._finisher.add(Ended(run, end))

    async def _warm_up(self) -> None:
        """Open the connections that claims and ends will take, and have their statements prepared there.

        What cannot be opened now is opened when it is needed: the worker has started, and outlives every outage.
        """
        claims = [DirectJobs(lane).claim([], *self._as_us()) for lane in self._to_claim]
        ends = [DirectJobs(lane).complete([], []) for lane in self._to_end]
        for answer in await asyncio.gather(*claims, *ends, return_exceptions=True):
            if isinstance(answer, DatabaseStateError):
                log.warning("worker.not_warm", reason=str(answer))
            elif isinstance(answer, BaseException):
                raise answer

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for lane in (*self._to_claim, *self._to_end):
                await opening.enter_async_context(lane)
            await self._warm_up()
            self._lanes = opening.pop_all()
        await self._finisher.__aenter__()
        self._claimers = [
            asyncio.create_task(self._claim_forever(lane), name=f"claimer-{number}")
            for number, lane in enumerate(self._to_claim)
        ]
        self._keepers.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def at_once() -> None:
            return

        async with self._lanes:
            await self.stop(at_once)
            await self._keepers.stop()
            await self._finisher.__aexit__(kind, error, trace)
