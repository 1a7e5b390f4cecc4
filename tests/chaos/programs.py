"""The project's commands as real processes: started, told from each other by what they log, and gone after the test."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import until
from worker.cli.context import environment
from worker.settings import Settings

START_SECONDS = 30.0

Line = dict[str, Any]


class Programs:
    """Starts ``python -m ...`` on a test's servers; all of them write JSON lines into one file.

    Args:
        settings: where the servers are.
        log: the file.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        ours = {name.upper() for name in Settings.model_fields}
        outside = {name: value for name, value in os.environ.items() if name not in ours}
        self._environment = outside | environment(settings) | {"LOG_FORMAT": "json"}
        self._log = log
        self._started: list[psutil.Process] = []

    async def start(self, *command: str, **environment: str) -> asyncio.subprocess.Process:
        """Start a program, with settings of its own."""
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", *command),
                env=self._environment | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(psutil.Process(process.pid))
        return process

    def lines(self, event: str, **fields: object) -> list[Line]:
        """What was logged so far under this name and with these fields, in the order of writing."""
        found = []
        for text in self._log.read_text().splitlines():
            line = json.loads(text) if text.startswith("{") else {}
            if line.get("event") == event and fields.items() <= line.items():
                found.append(line)
        return found

    async def workers(self, count: int) -> list[int]:
        """Return the process ids of the workers that were started, once there are so many, in the order of starting."""
        await until(lambda: self._are_logged("worker.started", count), START_SECONDS)
        return [pid_of(line["worker_id"]) for line in self.lines("worker.started")]

    async def line(self, event: str, seconds: float = START_SECONDS, **fields: object) -> Line:
        """Return the first such line, once it is there."""
        await until(lambda: self._are_logged(event, 1, **fields), seconds)
        return self.lines(event, **fields)[0]

    async def _are_logged(self, event: str, count: int, **fields: object) -> bool:
        return len(self.lines(event, **fields)) >= count

    async def end(self) -> None:
        """Kill whatever still runs, children first found, and show the log of a failing test."""
        family = [one for process in self._started if process.is_running() for one in _family(process)]
        for process in family:
            if process.is_running():
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, family, 10)
        print(self._log.read_text() if self._log.exists() else "")  # noqa: T201 - pytest shows it when the test fails


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def pid_of(worker_id: str) -> int:
    """The process that bears this worker id: host, process id, four characters."""
    return int(worker_id.rsplit("-", 2)[1])
