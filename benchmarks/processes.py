"""A system's script as a process: started, told what to do, listened to, and stopped.

Every wait has a bound; what the process printed besides is in its log, whose end stands in the error.
"""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.environments import python_of
from benchmarks.systems import System

PROJECT = Path(__file__).parent.parent
READY_SECONDS = 60.0
COMMAND_SECONDS = 300.0
STOP_SECONDS = 30.0
# One line holds what a worker started in REPORT_SECONDS, or every time of a stream.
_LINE_BYTES = 64 * 1024 * 1024


class SystemFailedError(Exception):
    """A system's process ended, refused a command, or did not answer in time."""


async def launch(system: System, role: str, log: Path, environment: dict[str, str]) -> Process:
    """Start a system's script; ``environment`` is added to what every process needs."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            str(python_of(system)),
            *("-P", "-m", f"benchmarks.peers.{system.name}", role),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            cwd=log.parent,  # not the project's folder: its .env is not the benchmark's
            env=inherited | {"PYTHONPATH": str(PROJECT)} | environment,
            limit=_LINE_BYTES,
        )


class Script:
    """A running script."""

    def __init__(self, system: System, process: Process, log: Path) -> None:
        self.system = system
        self.process = process
        self._log = log

    async def line(self, seconds: float) -> dict[str, Any]:
        """Return the next line.

        Raises:
            SystemFailedError: the process ended, or said nothing for ``seconds``.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                text = await self.process.stdout.readline()
        except TimeoutError:
            raise self.failure(f"said nothing for {seconds:.0f} s") from None
        if not text:
            raise self.failure("ended")
        line: dict[str, Any] = json.loads(text)
        if "error" in line:
            raise self.failure(line["error"])
        return line

    async def tell(self, line: str) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    def failure(self, what: str) -> SystemFailedError:
        """The error that says ``what`` happened to this process, with the end of its log."""
        log = self._log.read_text(errors="replace").strip()[-500:]
        return SystemFailedError(f"{self.system.name}: {what}" + (f"; its log ends:\n{log}" if log else ""))

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        with suppress(ProcessLookupError):
            self.process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        await self.process.wait()


class Driver(Script):
    """The script that enqueues and reads the record."""

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have one command carried out, and return the answer."""
        await self.tell(json.dumps({"do": do} | arguments))
        return await self.line(COMMAND_SECONDS)


class Workload:
    """What all workers of one measurement carried out, as they told it.

    Attributes:
        starts: for each job, every start of it: when, and in which process.
        last_end: when the last job ended.
        gone: the processes that tell no more.
    """

    def __init__(self) -> None:
        self.starts: dict[int, list[tuple[float, int]]] = {}
        self._ended: dict[int, int] = {}
        self.last_end = 0.0
        self.gone: set[int] = set()
        self._news = asyncio.Condition()

    @property
    def ended(self) -> int:
        """How many ends were told, by all workers together."""
        return sum(self._ended.values())

    @property
    def first_start(self) -> float:
        """When the first job started."""
        return min(started[0][0] for started in self.starts.values())

    async def note(self, pid: int, line: dict[str, Any]) -> None:
        """Take in one line of a worker."""
        async with self._news:
            for number, at in line["started"]:
                self.starts.setdefault(number, []).append((at, pid))
            self._ended[pid] = line["ended"]
            self.last_end = max(self.last_end, line["last_end"])
            self._news.notify_all()

    async def miss(self, pid: int) -> None:
        """Note that a worker tells no more."""
        async with self._news:
            self.gone.add(pid)
            self._news.notify_all()

    async def until_quiet(self, jobs: int, seconds: float) -> None:
        """Return once ``jobs`` jobs have ended, all workers are gone, or nothing has ended for ``seconds``."""
        progress = True
        while progress and self.ended < jobs:
            seen, gone = self.ended, len(self.gone)
            await self.until(lambda: self.ended > seen or len(self.gone) > gone, seconds)  # noqa: B023 - awaited at once
            progress = self.ended > seen

    async def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``true()``, at most ``seconds``; return whether it came true."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(true)
        return true()


class WorkerScript(Script):
    """A worker process; what it carries out is noted in ``workload``."""

    def __init__(self, system: System, process: Process, log: Path, workload: Workload) -> None:
        super().__init__(system, process, log)
        self._workload = workload
        self._listener: asyncio.Task[None] | None = None
        self.went_at = 0.0

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    async def go(self) -> None:
        """Let it begin."""
        self._listener = asyncio.create_task(self._listen())
        await self.tell("go")

    async def release(self) -> None:
        """End every sleep of its jobs."""
        await self.tell("release")

    async def kill(self) -> None:
        """``kill -9``."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        """As every script, and let the listener end."""
        await super().stop()
        if self._listener is not None:
            await self._listener

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while text := await self.process.stdout.readline():
            if text.endswith(b"\n"):  # a killed process may leave half a line
                await self._workload.note(self.pid, json.loads(text))
        await self._workload.miss(self.pid)
