"""What the harness and a system's script say to each other: JSON lines on standard input and output.

A script is started in one of two roles. As *driver* it answers commands one by one (``prepare``, ``enqueue``,
``stream``, ``left``, ``wrong``). As *worker* it says ``ready`` once everything is imported, begins at ``go``, and from
then on tells which jobs started and how many ended. Only the standard library is used: it runs in every environment.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

REPORT_SECONDS = 0.02
TICK_SECONDS = 0.01


class Job(NamedTuple):
    """A job of the benchmark: its number, and how long it sleeps (0: it does nothing)."""

    number: int
    seconds: float


class Enqueuer(Protocol):
    """A connected client of the system."""

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """Hand over ``jobs`` with the system's own bulk call, or its plain one for a single job."""

    async def left(self) -> int:
        """How many jobs are not over, by the system's own record."""

    async def wrong(self, jobs: int) -> int:
        """How many of ``jobs`` completed jobs are not recorded as the system promises to; 0 if it records nothing."""


class CarryOut(Protocol):
    """What every system's task calls: it notes the start, sleeps if it must, and notes the end."""

    async def __call__(self, number: int, seconds: float) -> None:
        """Carry out the job ``number``."""


class Peer(Protocol):
    """One system under test."""

    async def prepare(self) -> None:
        """Make what the system needs in an empty database."""

    def connected(self) -> AbstractAsyncContextManager[Enqueuer]:
        """A client, closed at the end of the block."""

    def work(self, carry_out: CarryOut) -> None:
        """Run a worker as the system's own command would, until SIGTERM."""


def setting(name: str) -> str:
    """What the harness tells by the environment: ``DATABASE_URL``, ``REDIS_URL``, ``CONCURRENCY``."""
    return os.environ[f"BENCH_{name}"]


# Lines for the harness leave by a descriptor of their own: what a system prints or logs goes to standard error.
_lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")


def serve(peer: Peer) -> None:
    """Play the role that the command line names, ``driver`` or ``worker``."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if sys.argv[1] == "driver":
        asyncio.run(_drive(peer))
    else:
        _work(peer)


def _say(line: dict[str, Any]) -> None:
    _lines.write(json.dumps(line, separators=(",", ":")) + "\n")
    _lines.flush()


async def _drive(peer: Peer) -> None:
    loop = asyncio.get_running_loop()

    async def command() -> dict[str, Any] | None:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        return json.loads(line) if line else None

    async def answer(coroutine: Coroutine[Any, Any, dict[str, Any]]) -> None:
        try:
            _say(await coroutine)
        except Exception as error:  # noqa: BLE001 - the harness raises it, with the system's name
            _say({"error": f"{type(error).__name__}: {error}"})

    _say({"ready": os.getpid()})
    while (given := await command()) is not None:
        if given["do"] == "prepare":
            await answer(_prepare(peer))
            continue
        async with peer.connected() as enqueuer:
            following: dict[str, Any] | None = given
            while following is not None:
                await answer(_obey(enqueuer, following))
                following = await command()
        return


async def _prepare(peer: Peer) -> dict[str, Any]:
    await peer.prepare()
    return {}


async def _obey(enqueuer: Enqueuer, given: dict[str, Any]) -> dict[str, Any]:
    match given["do"]:
        case "enqueue":
            jobs = [Job(number, given["seconds"]) for number in range(given["first"], given["first"] + given["jobs"])]
            began = time.monotonic()
            for start in range(0, len(jobs), given["chunk"]):
                await enqueuer.enqueue(jobs[start : start + given["chunk"]])
            return {"began": began, "ended": time.monotonic()}
        case "stream":
            return await _stream(enqueuer, given["first"], given["jobs"], given["rate"])
        case "left":
            return {"left": await enqueuer.left()}
        case "wrong":
            return {"wrong": await enqueuer.wrong(given["jobs"])}
        case unknown:
            raise ValueError(f"no such command: {unknown}")


async def _stream(enqueuer: Enqueuer, first: int, jobs: int, rate: float) -> dict[str, Any]:
    """Enqueue at a fixed rate, whatever the worker does; tell of each job when its ``enqueue`` had returned."""
    began = time.monotonic()
    sent = 0
    returned: list[float] = []
    while sent < jobs:
        due = min(jobs, int((time.monotonic() - began) * rate) + 1)
        if due > sent:
            await enqueuer.enqueue([Job(first + number, 0) for number in range(sent, due)])
            returned += [time.monotonic()] * (due - sent)
            sent = due
        await asyncio.sleep(TICK_SECONDS)
    return {"began": began, "ended": time.monotonic(), "returned": returned}


class _Carried:
    """What this worker carried out, told every ``REPORT_SECONDS`` from a thread."""

    def __init__(self) -> None:
        self.started: list[tuple[int, float]] = []
        self.ended = 0
        self.last_end = 0.0
        self._sleeping: set[asyncio.Future[None]] = set()

    async def __call__(self, number: int, seconds: float) -> None:
        self.started.append((number, time.monotonic()))
        if seconds:
            loop = asyncio.get_running_loop()
            released = loop.create_future()
            timer = loop.call_later(seconds, _release, released)
            self._sleeping.add(released)
            try:
                await released
            finally:
                timer.cancel()
                self._sleeping.discard(released)
        self.ended += 1
        self.last_end = time.monotonic()

    def tell(self) -> None:
        told, told_ends = 0, 0
        while True:
            started, ended = self.started[told:], self.ended
            if started or ended > told_ends:
                _say({"started": started, "ended": ended, "last_end": self.last_end})
                told, told_ends = told + len(started), ended
            time.sleep(REPORT_SECONDS)

    def listen(self) -> None:
        """End every sleep at the line ``release``."""
        for line in sys.stdin:
            if line.strip() == "release":
                for released in tuple(self._sleeping):
                    released.get_loop().call_soon_threadsafe(_release, released)


def _release(released: asyncio.Future[None]) -> None:
    if not released.done():
        released.set_result(None)


def _work(peer: Peer) -> None:
    carried = _Carried()
    _say({"ready": os.getpid()})
    if sys.stdin.readline().strip() != "go":
        return
    for duty in (carried.tell, carried.listen):
        threading.Thread(target=duty, daemon=True).start()
    peer.work(carried)
