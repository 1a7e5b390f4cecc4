"""Worker processes under one parent: started, started again when they crash, replaced, and stopped together.

Each child is a process of its own (``worker run --processes 1``). It holds the read end of a pipe whose other end is
here, so when the supervisor is killed without a word its children notice, put their jobs back and stop. Over another
pipe it says that it takes jobs: a child is replaced (because it grew over its bound, or everybody is) only once its
successor does, and drains first.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil
import structlog

SUPERVISED = "WORKER_SUPERVISED"
READY = "WORKER_READY_FD"
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY_SECONDS = 30.0
_KILL_AFTER_GRACE_SECONDS = 10.0
_READY_SECONDS = 60.0
_LOOK_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Child:
    process: asyncio.subprocess.Process
    ready: asyncio.Event
    started: float = field(default_factory=time.monotonic)
    asked: bool = False

    @property
    def rss_bytes(self) -> int:
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:  # it has just ended
            return 0

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    def ask_to_stop(self) -> None:
        """Have it drain. Once: a child that is asked again hands its jobs back at once."""
        if not self.asked:
            self.asked = True
            self.send(signal.SIGTERM)


@dataclass(eq=False)
class _Slot:
    """One of the processes that are to run, whichever child is it at the moment."""

    child: _Child | None = None
    replace: asyncio.Event = field(default_factory=asyncio.Event)
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    draining: asyncio.Task[None] | None = None


class Supervisor:
    """Keeps a number of worker processes running while the block lasts.

    Args:
        processes: how many (1 or more).
        environment: variables the children get besides this process's own: where the servers are.
        grace_seconds: how long children may finish running jobs after SIGTERM; ten seconds later they are killed.
        max_rss_bytes: a child that holds more memory is replaced; ``None``: no bound.
        quiet: the children's log lines go nowhere.
    """

    def __init__(
        self,
        processes: int,
        environment: Mapping[str, str],
        grace_seconds: float,
        *,
        max_rss_bytes: int | None = None,
        quiet: bool = False,
    ) -> None:
        self._environment = os.environ | dict(environment) | {SUPERVISED: "1"}
        self._grace_seconds = grace_seconds
        self._max_rss_bytes = max_rss_bytes
        self._quiet = quiet
        self._stopping = asyncio.Event()
        self._slots = [_Slot() for _ in range(processes)]
        self._retiring: set[_Child] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def stop(self) -> None:
        """Stop every child: SIGTERM, the grace period, then SIGKILL."""
        self._stopping.set()
        for child in self._children():
            child.ask_to_stop()
        _, late = await asyncio.wait(self._tasks, timeout=self._grace_seconds + _KILL_AFTER_GRACE_SECONDS)
        if late:
            for child in self._children():
                self._kill(child)
            await asyncio.wait(late)

    def hurry(self) -> None:
        """Have every child that was asked to stop hand its jobs back at once."""
        for child in self._children():
            if child.asked:
                child.send(signal.SIGTERM)

    async def replace_all(self) -> None:
        """Replace every child, one after the other: a rolling restart. Jobs go on all the time."""
        for slot in self._slots:
            slot.replaced.clear()
            slot.replace.set()
            await slot.replaced.wait()

    def _children(self) -> list[_Child]:
        return [*self._retiring, *(slot.child for slot in self._slots if slot.child is not None)]

    def _kill(self, child: _Child) -> None:
        log.warning("process.killed", pid=child.process.pid, grace_seconds=self._grace_seconds)
        child.send(signal.SIGKILL)

    async def _keep(self, slot: _Slot) -> None:
        crashes = 0
        while not self._stopping.is_set():
            try:
                slot.child = slot.child or await self._start()
            except OSError as error:  # no memory or no handles left: that may pass
                crashes += 1
                delay = _pause_after(crashes)
                log.error("process.not_started", reason=str(error), restart_seconds=delay)  # noqa: TRY400 - says it all
                await self._unless_stopping(delay)
                continue
            if self._stopping.is_set():  # it was asked to stop while this one was being started
                slot.child.ask_to_stop()
            child = slot.child
            if await self._ended_before_replacement(slot, child):
                slot.child = None
                slot.replaced.set()
                if self._stopping.is_set():
                    break
                crashes = 0 if time.monotonic() - child.started > _HEALTHY_SECONDS else crashes + 1
                delay = _pause_after(crashes)
                log.warning(
                    "process.exited",
                    pid=child.process.pid,
                    exit_status=child.process.returncode,
                    restart_seconds=delay,
                )
                await self._unless_stopping(delay)
            else:
                await self._replace(slot, child)
        if slot.child is not None:  # it was asked to stop while this one was being replaced, or had just taken over
            slot.child.ask_to_stop()
            await slot.child.process.wait()
        if slot.draining is not None:
            await slot.draining

    async def _ended_before_replacement(self, slot: _Slot, child: _Child) -> bool:
        ended = asyncio.ensure_future(child.process.wait())
        asked = asyncio.ensure_future(self._may_be_replaced(slot))
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (ended, asked):
            waiter.cancel()
        return child.process.returncode is not None or (
            self._stopping.is_set() and await child.process.wait() is not None
        )

    async def _may_be_replaced(self, slot: _Slot) -> None:
        await slot.replace.wait()
        if slot.draining is not None:  # never more than two processes for one: a child may drain for an hour
            await asyncio.wait({slot.draining})

    async def _replace(self, slot: _Slot, old: _Child) -> None:
        """Start a successor, and let the old child drain once that takes jobs; without one the old child stays."""
        try:
            new = await self._start()
        except OSError as error:
            slot.replace.clear()
            slot.replaced.set()
            log.error("process.not_forked", pid=old.process.pid, reason=str(error))  # noqa: TRY400 - says it all
            return
        self._retiring.add(new)
        if self._stopping.is_set():
            new.ask_to_stop()
        ended = asyncio.ensure_future(new.process.wait())
        ready = asyncio.ensure_future(new.ready.wait())
        await asyncio.wait({ended, ready}, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (ended, ready):
            waiter.cancel()
        self._retiring.discard(new)
        slot.replace.clear()  # not sooner: meanwhile the old child may have been found too large again
        if new.ready.is_set():
            slot.child = new
            self._retiring.add(old)
            old.ask_to_stop()
            log.info("process.replaced", pid=old.process.pid, successor_pid=new.process.pid)
            slot.draining = asyncio.create_task(self._drain(slot, old))
            return
        if not self._stopping.is_set():
            log.error("process.not_replaced", pid=old.process.pid, reason="its successor did not start")
        new.send(signal.SIGKILL)
        await new.process.wait()
        slot.replaced.set()

    async def _drain(self, slot: _Slot, old: _Child) -> None:
        try:
            async with asyncio.timeout(self._grace_seconds + _KILL_AFTER_GRACE_SECONDS):
                await old.process.wait()
        except TimeoutError:
            self._kill(old)
            await old.process.wait()
        self._retiring.discard(old)
        slot.replaced.set()

    async def _watch_memory(self, limit: int) -> None:
        while await self._unless_stopping(_LOOK_SECONDS):
            for slot in self._slots:
                child = slot.child
                if child is not None and not slot.replace.is_set() and (rss := child.rss_bytes) > limit:
                    log.warning("process.too_large", pid=child.process.pid, rss_bytes=rss, max_rss_bytes=limit)
                    slot.replace.set()

    async def _unless_stopping(self, seconds: float) -> bool:
        """Wait; return whether the supervisor is to go on."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False

    async def _start(self) -> _Child:
        output = asyncio.subprocess.DEVNULL if self._quiet else None
        reader, writer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "worker", "run", "--processes", "1"),
                env=self._environment | {READY: str(writer)},
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writer,),
                # The terminal's Ctrl-C goes to the supervisor alone, which passes it on as SIGTERM.
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        child = _Child(process, asyncio.Event())
        loop = asyncio.get_running_loop()

        def told() -> None:
            if os.read(reader, 1):
                child.ready.set()
            loop.remove_reader(reader)  # also when the other end was closed without a word
            os.close(reader)

        loop.add_reader(reader, told)
        return child

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        if self._max_rss_bytes is not None:
            self._tasks.append(asyncio.create_task(self._watch_memory(self._max_rss_bytes)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _pause_after(crashes: int) -> float:
    return _BACKOFF_SECONDS[min(crashes, len(_BACKOFF_SECONDS) - 1)]


def stop_with_supervisor() -> None:
    """In a child: ask this process to stop when the supervisor is gone. Without a supervisor, do nothing."""
    if SUPERVISED not in os.environ:
        return

    def watch() -> None:
        # Returns nothing when the other end of the pipe is closed, however its owner ended. Not through sys.stdin: a
        # thread that holds its lock at the end of the process is a fatal error of the interpreter.
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


def tell_supervisor() -> None:
    """In a child: say that it takes jobs now. Without a supervisor, do nothing."""
    if number := os.environ.pop(READY, None):
        descriptor = int(number)
        os.write(descriptor, b"1")
        os.close(descriptor)
