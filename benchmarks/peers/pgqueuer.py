"""pgqueuer on asyncpg and uvloop, as its ``pgq`` command runs; its batch size is the harness's concurrency."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pgqueuer
import uvloop
from pgqueuer.models import Job as TakenJob

from benchmarks.peers.wire import CarryOut, Job, serve, setting


class Client:
    """Enqueues through ``Queries``."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._queries = pgqueuer.Queries(pgqueuer.AsyncpgDriver(connection))

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """Its bulk call: lists instead of single values."""
        payloads: list[bytes | None] = [json.dumps(job).encode() for job in jobs]
        await self._queries.enqueue(["task"] * len(jobs), payloads, [0] * len(jobs))

    async def left(self) -> int:
        """A job that is over leaves the table for the log."""
        return int(await self._connection.fetchval("SELECT count(*) FROM pgqueuer"))

    async def wrong(self, jobs: int) -> int:
        """Jobs without a ``successful`` entry in its log."""
        logged = "SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful'"
        return jobs - int(await self._connection.fetchval(logged))


class PgQueuer:
    """pgqueuer."""

    async def prepare(self) -> None:
        """Its own installation."""
        connection = await asyncpg.connect(setting("DATABASE_URL"))
        await pgqueuer.Queries(pgqueuer.AsyncpgDriver(connection)).install()
        await connection.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client on one connection."""
        connection = await asyncpg.connect(setting("DATABASE_URL"))
        try:
            yield Client(connection)
        finally:
            await connection.close()

    def work(self, carry_out: CarryOut) -> None:
        """A ``PgQueuer`` with one entrypoint, under its own supervisor."""

        @asynccontextmanager
        async def factory() -> AsyncIterator[pgqueuer.PgQueuer]:
            connection = await asyncpg.connect(setting("DATABASE_URL"))
            worker = pgqueuer.PgQueuer(pgqueuer.AsyncpgDriver(connection))

            @worker.entrypoint("task")
            async def task(job: TakenJob) -> None:
                number, seconds = json.loads(job.payload or b"[]")
                await carry_out(number, seconds)

            yield worker
            await connection.close()

        uvloop.run(pgqueuer.run(factory, batch_size=int(setting("CONCURRENCY"))))


if __name__ == "__main__":
    serve(PgQueuer())
