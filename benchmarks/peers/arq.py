"""Stock ARQ: ``enqueue_job`` one by one (it has no bulk call), ``arq.Worker`` as it is. It records nothing."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.constants import default_queue_name
from arq.worker import Worker, func

from benchmarks.peers.wire import CarryOut, Job, serve, setting


class Client:
    """Enqueues through ``ArqRedis``."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """One call a job: ARQ has no other."""
        for job in jobs:
            await self._redis.enqueue_job("task", job.number, job.seconds)

    async def left(self) -> int:
        """ARQ takes a job off the queue when it is over."""
        return int(await self._redis.zcard(default_queue_name))

    async def wrong(self, jobs: int) -> int:
        """Nothing is recorded."""
        del jobs
        return 0


class Arq:
    """Stock ARQ."""

    async def prepare(self) -> None:
        """It keeps everything in Redis."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client on ARQ's own pool."""
        redis = await create_pool(RedisSettings.from_dsn(setting("REDIS_URL")))
        try:
            yield Client(redis)
        finally:
            await redis.aclose(close_connection_pool=True)

    def work(self, carry_out: CarryOut) -> None:
        """``arq.Worker`` as the ``arq`` command makes it."""

        async def task(ctx: dict[Any, Any], number: int, seconds: float) -> None:
            del ctx
            await carry_out(number, seconds)

        Worker(
            [func(task, name="task", keep_result=0)],
            redis_settings=RedisSettings.from_dsn(setting("REDIS_URL")),
            max_jobs=int(setting("CONCURRENCY")),
        ).run()


if __name__ == "__main__":
    serve(Arq())
