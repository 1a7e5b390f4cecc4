"""streaq on uvloop, with JSON instead of its default serializer. Results are not kept."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import streaq

from benchmarks.peers.wire import CarryOut, Job, serve, setting


def make_worker(carry_out: CarryOut | None) -> tuple[Any, Any]:
    """The worker and its task, as streaq's manual writes them."""
    worker: Any = streaq.Worker(
        redis_url=setting("REDIS_URL"),
        concurrency=int(setting("CONCURRENCY")),
        serializer=lambda value: json.dumps(value, default=repr),
        deserializer=json.loads,
        anyio_kwargs={"use_uvloop": True},
    )

    @worker.task(name="task", ttl=0, silent=True)
    async def task(number: int, seconds: float) -> None:
        if carry_out is not None:
            await carry_out(number, seconds)

    return worker, task


class Client:
    """Enqueues through ``Worker.enqueue_many``."""

    def __init__(self, worker: Any, task: Any) -> None:
        self._worker = worker
        self._task = task

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """Its bulk call: one pipeline."""
        await self._worker.enqueue_many([self._task.enqueue(job.number, job.seconds) for job in jobs])

    async def left(self) -> int:
        """What its streams and sorted sets hold."""
        return int(await self._worker.queue_size())

    async def wrong(self, jobs: int) -> int:
        """Nothing is kept."""
        del jobs
        return 0


class Streaq:
    """streaq."""

    async def prepare(self) -> None:
        """It keeps everything in Redis."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client: a worker that is not run."""
        worker, task = make_worker(None)
        async with worker:
            yield Client(worker, task)

    def work(self, carry_out: CarryOut) -> None:
        """Its worker."""
        worker, _ = make_worker(carry_out)
        anyio.run(worker.run_async, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    serve(Streaq())
