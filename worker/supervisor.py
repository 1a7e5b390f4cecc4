"""Worker processes under one parent: started, started again when they crash, and stopped together.

Each child is a process of its own (``worker run --processes 1``). It holds the read end of a pipe whose other end is
here, so when the supervisor is killed without a word its children notice, put their jobs back and stop.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import structlog

SUPERVISED = "WORKER_SUPERVISED"
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY_SECONDS = 30.0
_KILL_AFTER_GRACE_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps a number of worker processes running while the block lasts.

    Args:
        processes: how many (1 or more).
        environment: variables the children get besides this process's own: where the servers are.
        grace_seconds: how long children may finish running jobs after SIGTERM; ten seconds later they are killed.
        quiet: the children's log lines go nowhere.
    """

    def __init__(
        self, processes: int, environment: Mapping[str, str], grace_seconds: float, *, quiet: bool = False
    ) -> None:
        self._processes = processes
        self._environment = os.environ | dict(environment) | {SUPERVISED: "1"}
        self._grace_seconds = grace_seconds
        self._quiet = quiet
        self._stopping = asyncio.Event()
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def stop(self) -> None:
        """Stop every child: SIGTERM, the grace period, then SIGKILL."""
        self._stopping.set()
        for child in self._children.values():
            _signal(child, signal.SIGTERM)
        _, late = await asyncio.wait(self._keepers, timeout=self._grace_seconds + _KILL_AFTER_GRACE_SECONDS)
        if late:
            for child in self._children.values():
                log.warning("process.killed", pid=child.pid, grace_seconds=self._grace_seconds)
                _signal(child, signal.SIGKILL)
            await asyncio.wait(late)

    async def _keep(self, slot: int) -> None:
        crashes = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            child = await self._start()
            self._children[slot] = child
            code = await child.wait()
            del self._children[slot]
            if self._stopping.is_set():
                return
            crashes = 0 if time.monotonic() - started > _HEALTHY_SECONDS else crashes + 1
            delay = _BACKOFF_SECONDS[min(crashes, len(_BACKOFF_SECONDS) - 1)]
            log.warning("process.exited", pid=child.pid, exit_status=code, restart_seconds=delay)
            await asyncio.sleep(delay)

    async def _start(self) -> asyncio.subprocess.Process:
        output = asyncio.subprocess.DEVNULL if self._quiet else None
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "worker", "run", "--processes", "1"),
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            # The terminal's Ctrl-C goes to the supervisor alone, which passes it on as SIGTERM.
            start_new_session=True,
        )

    async def __aenter__(self) -> Self:
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in range(self._processes)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if child.returncode is None:
        child.send_signal(number)


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
