"""This project: the production path, with one more job type that does nothing."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text

from benchmarks.peers.wire import CarryOut, Job, serve, setting
from repositories.database import DatabaseManager
from repositories.migrations import upgrade
from repositories.schemas import NewJob
from worker.client import JobClient, open_client
from worker.run import Run
from worker.runner import Runner
from worker.settings import Settings, load_settings
from worker.tasks import TASKS

JOB_TYPE = "bench_noop"


def make_settings() -> Settings:
    """The defaults, logs included, but for the servers and the concurrency."""
    return load_settings(
        database_url=setting("DATABASE_URL").replace("postgresql:", "postgresql+asyncpg:", 1),
        redis_url=setting("REDIS_URL"),
        worker_concurrency=int(setting("CONCURRENCY")),
    )


class Client:
    """Enqueues through ``JobClient``; reads the record with SQL."""

    def __init__(self, client: JobClient, database: DatabaseManager) -> None:
        self._client = client
        self._database = database

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """Its bulk call."""
        await self._client.enqueue_many(
            [NewJob(type=JOB_TYPE, payload={"number": job.number, "seconds": job.seconds}) for job in jobs]
        )

    async def left(self) -> int:
        """Rows that are not final."""
        return await self._count("completed_at IS NULL")

    async def wrong(self, jobs: int) -> int:
        """Rows that are not completed by their first attempt, with every time, in order."""
        right = (
            "status = 'completed' AND attempt = 1 AND failures = 0 AND crashes = 0 AND worker_id IS NOT NULL "
            "AND created_at <= started_at AND started_at <= completed_at AND queued_at IS NOT NULL AND progress = 100"
        )
        return jobs - await self._count(right)

    async def _count(self, condition: str) -> int:
        async with self._database.get_session() as session:
            counted = await session.scalar(text(f"SELECT count(*) FROM jobs WHERE {condition}"))  # noqa: S608 - a constant
        return int(counted or 0)


class Ours:
    """This project."""

    async def prepare(self) -> None:
        """Its own migrations."""
        async with DatabaseManager(_database_url()) as database:
            await upgrade(database.engine)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client as other services open it."""
        async with open_client(make_settings()) as client, DatabaseManager(_database_url(), pool_size=1) as database:
            yield Client(client, database)

    def work(self, carry_out: CarryOut) -> None:
        """The worker that ``worker run`` starts."""

        async def noop(run: Run) -> dict[str, Any]:
            payload = run.job.payload or {}
            await carry_out(payload["number"], payload["seconds"])
            return {}

        Runner(make_settings(), {**TASKS, JOB_TYPE: noop}).run()


def _database_url() -> str:
    return str(make_settings().database_url.get_secret_value())  # type: ignore[union-attr]


if __name__ == "__main__":
    serve(Ours())
