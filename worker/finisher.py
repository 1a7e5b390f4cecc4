"""Gathering how attempts ended, so that many are written together.

While one group is being written the next one gathers, and a lone end waits for nobody. An end that PostgreSQL cannot
take now is kept, with its lease, until it can: finished work is never done twice because of an outage.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import structlog

from repositories.jobs import DirectJobs
from worker.ending import end_all
from worker.recording import GROUP, Ended, record_at_last
from worker.run import Runtime

log = structlog.get_logger(__name__)


class Finisher:
    """Writes ends in groups, in the background, while the block lasts; leaving it writes what is left.

    Args:
        runtime: where to write; leases of jobs whose end is on the record are released.
        direct: the shorter ways; as many groups are written at a time.
        capacity: ends that may wait, 1 or more: whoever claims jobs looks at :attr:`full` first.
        on_room: called when there is room again.
        close_seconds: how long leaving the block waits for PostgreSQL. What is not written then is rescued.
    """

    def __init__(
        self,
        runtime: Runtime,
        direct: Sequence[DirectJobs],
        capacity: int,
        on_room: Callable[[], None],
        close_seconds: float = 10.0,
    ) -> None:
        self._runtime = runtime
        self._direct = direct
        self._capacity = capacity
        self._on_room = on_room
        self._close_seconds = close_seconds
        self._waiting: deque[Ended] = deque()
        self._more = asyncio.Event()
        self._closing = False
        self._in_flight = 0
        self._writers: list[asyncio.Task[None]] = []

    @property
    def full(self) -> bool:
        """Whether so many ends wait that no more jobs should be claimed."""
        return len(self._waiting) + self._in_flight >= self._capacity

    def add(self, ended: Ended) -> None:
        """Have an end written with the next group."""
        self._waiting.append(ended)
        self._more.set()

    async def _write(self, direct: DirectJobs) -> None:
        while True:
            await self._more.wait()
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
                self._in_flight += len(group)
                try:
                    await record_at_last(self._runtime, group, direct)
                finally:
                    self._in_flight -= len(group)
                    self._runtime.leases.release([ended.run.held for ended in group])
                self._on_room()
            if self._closing:
                return
            self._more.clear()

    async def __aenter__(self) -> Self:
        self._writers = [
            asyncio.create_task(self._write(direct), name=f"finisher-{number}")
            for number, direct in enumerate(self._direct)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._more.set()
        _, late = await asyncio.wait(self._writers, timeout=self._close_seconds)
        await end_all(late)
        if late:
            log.warning("job.end_given_up", jobs=len(self._waiting) + self._in_flight, next="they are rescued")
        for result in await asyncio.gather(*self._writers, return_exceptions=True):
            if result is not None and not isinstance(result, asyncio.CancelledError):
                raise result
