"""What one builds first: stock ARQ, a table of jobs, and one UPDATE a transition."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.constants import default_queue_name
from arq.worker import Worker, func

from benchmarks.peers.wire import CarryOut, Job, serve, setting

SCHEMA = """
CREATE TABLE naive_jobs (
    id bigint PRIMARY KEY,
    seconds float8 NOT NULL,
    status text NOT NULL DEFAULT 'queued',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    completed_at timestamptz
);
CREATE INDEX ON naive_jobs (status, created_at);
"""
START = "UPDATE naive_jobs SET status = 'processing', started_at = clock_timestamp() WHERE id = $1 RETURNING seconds"
FINISH = "UPDATE naive_jobs SET status = 'completed', completed_at = clock_timestamp() WHERE id = $1"


class Client:
    """Writes the row, then enqueues its id."""

    def __init__(self, pool: asyncpg.Pool, redis: ArqRedis) -> None:
        self._pool = pool
        self._redis = redis

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """All rows in one round trip; ARQ takes the ids one by one."""
        await self._pool.executemany("INSERT INTO naive_jobs (id, seconds) VALUES ($1, $2)", jobs)
        for job in jobs:
            await self._redis.enqueue_job("task", job.number)

    async def left(self) -> int:
        """By the table, and by the queue."""
        unfinished = await self._pool.fetchval("SELECT count(*) FROM naive_jobs WHERE status <> 'completed'")
        return max(int(unfinished), int(await self._redis.zcard(default_queue_name)))

    async def wrong(self, jobs: int) -> int:
        """Rows that are not completed with both times."""
        right = "status = 'completed' AND started_at IS NOT NULL AND completed_at IS NOT NULL"
        return jobs - int(await self._pool.fetchval(f"SELECT count(*) FROM naive_jobs WHERE {right}"))  # noqa: S608 - a constant


class Naive:
    """ARQ and a table."""

    async def prepare(self) -> None:
        """The table, with the index that everybody gives it."""
        connection = await asyncpg.connect(setting("DATABASE_URL"))
        await connection.execute(SCHEMA)
        await connection.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client with a pool of each."""
        redis = await create_pool(RedisSettings.from_dsn(setting("REDIS_URL")))
        async with asyncpg.create_pool(setting("DATABASE_URL"), min_size=1, max_size=4) as pool:
            yield Client(pool, redis)
        await redis.aclose(close_connection_pool=True)

    def work(self, carry_out: CarryOut) -> None:
        """``arq.Worker``; the task updates its row when it starts and when it ends."""

        async def startup(ctx: dict[Any, Any]) -> None:
            ctx["pool"] = await asyncpg.create_pool(setting("DATABASE_URL"), min_size=10, max_size=10)

        async def task(ctx: dict[Any, Any], number: int) -> None:
            pool: asyncpg.Pool = ctx["pool"]
            seconds = await pool.fetchval(START, number)
            await carry_out(number, seconds)
            await pool.execute(FINISH, number)

        Worker(
            [func(task, name="task", keep_result=0)],
            redis_settings=RedisSettings.from_dsn(setting("REDIS_URL")),
            max_jobs=int(setting("CONCURRENCY")),
            on_startup=startup,
        ).run()


if __name__ == "__main__":
    serve(Naive())
