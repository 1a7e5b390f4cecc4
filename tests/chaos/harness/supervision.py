"""Worker processes in slots: killed, stopped, terminated and replaced. Every exit is kept, with who asked for it.

Each process connects to PostgreSQL as a role of its own, so that the audit can tell who wrote what.
"""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url

from tests.chaos.harness.engine import JOURNAL
from worker.settings import Settings
from worker.supervisor import SUPERVISED

_PROJECT = Path(__file__).parents[3]
_STARTED = "worker.started"
_RESTART_SECONDS = 0.3


@dataclass
class WorkerProcess:
    """One worker process of the run. Times are seconds since the epoch.

    Attributes:
        role: the PostgreSQL role it connects as.
        asked, asked_at: the signal that the harness ended it with, and when; ``None`` if nobody asked for its exit.
    """

    slot: int
    number: int
    role: str
    log: Path
    journal: Path
    process: asyncio.subprocess.Process
    started_at: float
    asked: signal.Signals | None = None
    asked_at: float | None = None
    ended_at: float | None = None
    exit_status: int | None = None

    @property
    def pid(self) -> int:
        """Its process id; the product makes it a part of the worker id."""
        return self.process.pid

    @property
    def was_ready(self) -> bool:
        """Whether it said that it had started."""
        return _STARTED in self.log.read_text(errors="replace")

    def __str__(self) -> str:
        return f"process {self.number} (slot {self.slot}, pid {self.pid}, {self.log.name})"


def role_name(number: int) -> str:
    """The role of the process with this number (from 0)."""
    return f"chaos_worker_{number}"


class Fleet:
    """Keeps a number of workers running.

    Args:
        folder: for logs and journals.
        urls: PostgreSQL (as any role) and Redis, as the workers reach them.
        environment: the workers' further settings.
        roles: how many roles there are; more processes than that are not started.

    Attributes:
        history: every process there was, in the order of their starts.
    """

    def __init__(self, folder: Path, urls: tuple[str, str], environment: Mapping[str, str], roles: int) -> None:
        self._folder = folder
        self._database_url, self._redis_url = urls
        ours = {name.upper() for name in Settings.model_fields}
        self._environment = {name: value for name, value in os.environ.items() if name not in ours} | dict(environment)
        self._roles = roles
        self._stopping = asyncio.Event()
        self._numbers = itertools.count()
        self._current: dict[int, WorkerProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self.history: list[WorkerProcess] = []

    async def start(self, workers: int) -> None:
        """Start so many workers, each in a slot of its own."""
        self._keepers = [asyncio.create_task(self._keep(slot), name=f"slot-{slot}") for slot in range(workers)]

    def signal(self, slot: int, number: signal.Signals) -> WorkerProcess | None:
        """Send a signal to whoever is in the slot; one that ends it is noted as asked for."""
        worker = self._current.get(slot)
        if worker is None or worker.process.returncode is not None:
            return None
        if number in {signal.SIGKILL, signal.SIGTERM}:
            worker.asked, worker.asked_at = number, time.time()
        worker.process.send_signal(number)
        return worker

    def continue_all(self) -> None:
        """Continue every worker that is stopped."""
        for slot in self._current:
            self.signal(slot, signal.SIGCONT)

    async def stop(self, within: float) -> list[WorkerProcess]:
        """Terminate every worker; return those that had to be killed because they did not end ``within`` seconds."""
        self._stopping.set()
        self.continue_all()
        for slot in self._current:
            self.signal(slot, signal.SIGTERM)
        if not self._keepers:
            return []
        _, late = await asyncio.wait(self._keepers, timeout=within)
        hanging = list(self._current.values()) if late else []
        for worker in hanging:
            worker.process.kill()
        if late:
            await asyncio.wait(late)
        for keeper in self._keepers:
            keeper.result()
        return hanging

    async def _keep(self, slot: int) -> None:
        while not self._stopping.is_set():
            worker = await self._spawn(slot)
            self._current[slot] = worker
            if self._stopping.is_set():
                self.signal(slot, signal.SIGTERM)
            worker.exit_status = await worker.process.wait()
            worker.ended_at = time.time()
            del self._current[slot]
            if worker.asked is None:
                await asyncio.sleep(_RESTART_SECONDS)  # as any supervisor does, so that a crash loop burns no CPU

    async def _spawn(self, slot: int) -> WorkerProcess:
        number = next(self._numbers)
        if number >= self._roles:
            raise RuntimeError(f"{number} worker processes ended: see {self._folder}/worker-*.log")
        role = role_name(number)
        log, journal = self._folder / f"worker-{number}.log", self._folder / f"effects-{number}.jsonl"
        environment = self._environment | {
            "DATABASE_URL": make_url(self._database_url)
            .set(username=quote(role))
            .render_as_string(hide_password=False),
            "REDIS_URL": self._redis_url,
            JOURNAL: str(journal),
            SUPERVISED: "1",  # it stops by itself if this process dies
        }
        started_at = time.time()
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.chaos.worker_process"),
                cwd=_PROJECT,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = WorkerProcess(slot, number, role, log, journal, process, started_at)
        self.history.append(worker)
        return worker
