"""saq on Redis with hiredis. A job has a heartbeat, so that a dead worker's is found; finished ones are not kept."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import saq

from benchmarks.peers.wire import CarryOut, Job, serve, setting

# A user who wants a killed worker's jobs back sets one; without it saq waits for the job's timeout.
HEARTBEAT_SECONDS = 10


class Client:
    """Enqueues through ``saq.Queue``."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """All at once: it has no bulk call, and bounds how many are under way (20)."""
        await asyncio.gather(*(self._one(job) for job in jobs))

    async def _one(self, job: Job) -> None:
        heartbeat = HEARTBEAT_SECONDS if job.seconds else 0
        await self._queue.enqueue(
            "task", number=job.number, seconds=job.seconds, timeout=3600, heartbeat=heartbeat, retries=10, ttl=-1
        )

    async def left(self) -> int:
        """Its own count of incomplete jobs."""
        return int(await self._queue.count("incomplete"))

    async def wrong(self, jobs: int) -> int:
        """Nothing is kept."""
        del jobs
        return 0


class Saq:
    """saq."""

    async def prepare(self) -> None:
        """It keeps everything in Redis."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client on its own pool."""
        queue = saq.Queue.from_url(setting("REDIS_URL"))
        try:
            yield Client(queue)
        finally:
            await queue.disconnect()

    def work(self, carry_out: CarryOut) -> None:
        """Its worker, sweeping each second; the task beats as its manual says."""

        async def task(context: Any, *, number: int, seconds: float) -> None:
            beats = asyncio.create_task(_beat(context["job"])) if seconds else None
            try:
                await carry_out(number, seconds)
            finally:
                if beats is not None:
                    beats.cancel()

        async def run() -> None:
            queue = saq.Queue.from_url(setting("REDIS_URL"))
            concurrency = int(setting("CONCURRENCY"))
            await saq.Worker(queue, [("task", task)], concurrency=concurrency, timers={"sweep": 1}).start()
            await queue.disconnect()

        asyncio.run(run())


async def _beat(job: Any) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS / 4)
        await job.update()


if __name__ == "__main__":
    serve(Saq())
