"""procrastinate on psycopg 3, with LISTEN/NOTIFY; stalled jobs are retried by the periodic task its manual gives."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
from procrastinate import JobContext

from benchmarks.peers.wire import CarryOut, Job, serve, setting


def make_app(carry_out: CarryOut | None) -> tuple[procrastinate.App, Any]:
    """The app and its task, as procrastinate's quickstart writes them."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=setting("DATABASE_URL"), max_size=12))

    @app.task(name="task")
    async def task(number: int, seconds: float) -> None:
        if carry_out is not None:
            await carry_out(number, seconds)

    # Source: its manual, "Retry stalled jobs"; each minute, instead of each ten as written there.
    @app.periodic(cron="* * * * *")
    @app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
    async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
        del timestamp
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.retry_job(job)
        del context

    return app, task


class Client:
    """Defers in batches."""

    def __init__(self, app: procrastinate.App, task: Any) -> None:
        self._app = app
        self._task = task

    async def enqueue(self, jobs: Sequence[Job]) -> None:
        """Its bulk call."""
        await self._task.batch_defer_async(*({"number": job.number, "seconds": job.seconds} for job in jobs))

    async def left(self) -> int:
        """Jobs of ours that neither succeeded nor failed."""
        return await self._count("status IN ('todo', 'doing')")

    async def wrong(self, jobs: int) -> int:
        """Jobs that did not succeed."""
        return jobs - await self._count("status = 'succeeded'")

    async def _count(self, condition: str) -> int:
        query = f"SELECT count(*) AS jobs FROM procrastinate_jobs WHERE task_name = 'task' AND {condition}"  # noqa: S608 - a constant
        return int((await self._app.connector.execute_query_one_async(query))["jobs"])


class Procrastinate:
    """procrastinate."""

    async def prepare(self) -> None:
        """Its own schema."""
        app, _ = make_app(None)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client on its own pool."""
        app, task = make_app(None)
        async with app.open_async():
            yield Client(app, task)

    def work(self, carry_out: CarryOut) -> None:
        """Its worker with its own defaults."""

        async def run() -> None:
            app, _ = make_app(carry_out)
            async with app.open_async():
                await app.run_worker_async(concurrency=int(setting("CONCURRENCY")))

        asyncio.run(run())


if __name__ == "__main__":
    serve(Procrastinate())
