"""Tasks that note what they ran, outside PostgreSQL, and a worker that runs them in this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from repositories.models import JobItem
from repositories.schemas import ItemOutcome, JobError, NewItem, NewJob
from worker.batches import Batches
from worker.errors import JobFailedError, RetryAfterError, Snooze
from worker.run import Run, Runtime, Task

Tasks = dict[str, Callable[[Run], Awaitable[dict[str, Any]]]]


class Workshop:
    """Tasks that note what they run. ``gate`` holds every ``held`` job until it is set."""

    def __init__(self) -> None:
        self.ran: list[UUID] = []
        self.started_at: dict[UUID, float] = {}
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def noop(self, run: Run) -> dict[str, Any]:
        self.started_at[run.job.id] = time.time()
        self.ran.append(run.job.id)
        return {}

    async def held(self, run: Run) -> dict[str, Any]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.entered.set()
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return await self.noop(run)

    async def short(self, run: Run) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return await self.noop(run)

    async def unrecordable(self, run: Run) -> dict[str, Any]:
        return {"unrecordable": True}

    async def no_json(self, run: Run) -> dict[str, Any]:
        return {"at": object()}

    async def snooze(self, run: Run) -> dict[str, Any]:
        raise Snooze(timedelta(minutes=5))

    async def refused(self, run: Run) -> dict[str, Any]:
        raise RetryAfterError(timedelta(minutes=7), JobError(code="rate_limited", message="come again"))

    async def hopeless(self, run: Run) -> dict[str, Any]:
        raise JobFailedError("hopeless", "it can never work")

    @property
    def tasks(self) -> Tasks:
        names = ("noop", "held", "short", "unrecordable", "no_json", "snooze", "refused", "hopeless")
        return {name: getattr(self, name) for name in names}


def jobs(kind: str, count: int = 1, **fields: Any) -> list[NewJob]:
    return [NewJob(type=kind, payload={}, **fields) for _ in range(count)]


@asynccontextmanager
async def working(runtime: Runtime, *queues: str) -> AsyncIterator[Batches]:
    async with Batches(runtime, queues or ("default",)) as batches:
        yield batches


def doing(count: int, handle: Callable[[JobItem], Awaitable[ItemOutcome]]) -> Task:
    """A task whose job has so many items, each of which is handed to ``handle``."""

    async def run_items(run: Run) -> dict[str, Any]:
        async def expand() -> list[NewItem]:
            return [NewItem(position=at, key=str(at), spec={}) for at in range(count)]

        await run.each(await run.items(expand), handle)
        return {}

    return run_items
