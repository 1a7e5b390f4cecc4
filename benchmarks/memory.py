"""Does a worker's memory stay flat? One worker process drains jobs that do nothing, in waves, and its size is printed.

``python -m benchmarks.memory --jobs 1000000`` starts a PostgreSQL and a Redis of its own in a temporary folder.
A million jobs take about 1 GB of disk. More is enqueued as soon as few are left, so the worker is never idle. The first
row has what every worker needs once (connections, prepared statements, caches): what counts is whether later rows grow.
"""

import argparse
import asyncio
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psutil
from sqlalchemy import text

from benchmarks.servers import Servers, bench_servers
from benchmarks.usage import peak_rss_bytes
from repositories.database import DatabaseManager
from repositories.migrations import upgrade
from repositories.schemas import NewJob
from worker.client import JobClient, open_client
from worker.document_settings import MIB
from worker.run import Run
from worker.runner import Runner
from worker.settings import Settings, load_settings

EVERY = 50_000
WAVE = 10_000
JOB_TYPE = "bench_noop"
_POLL_SECONDS = 0.05
_STALLED_SECONDS = 60.0


class Look(NamedTuple):
    """What was seen after so many jobs."""

    jobs: int
    seconds: float
    rss_bytes: int


def settings_for(servers: Servers, concurrency: int = 500) -> Settings:
    """The defaults, but for the servers and the concurrency."""
    return load_settings(
        database_url=servers.database_url.replace("postgresql:", "postgresql+asyncpg:", 1),
        redis_url=servers.redis_url,
        worker_concurrency=concurrency,
    )


async def noop(run: Run) -> dict[str, Any]:
    """The job: nothing at all."""
    del run
    return {}


def work() -> None:
    """Be the worker; where the servers are stands in the environment."""
    Runner(load_settings(), {JOB_TYPE: noop}).run()


@asynccontextmanager
async def worker_process(settings: Settings, module: str = "benchmarks.memory") -> AsyncIterator[Process]:
    """A worker in a process of its own, whose log goes nowhere, until the block ends: ``python -m module --work``."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    told = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "WORKER_CONCURRENCY": str(settings.worker_concurrency),
        "LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--work"), env=os.environ | told, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def unfinished(database: DatabaseManager) -> int:
    """How many jobs are not final."""
    async with database.get_session() as session:
        return int(await session.scalar(text("SELECT count(*) FROM jobs WHERE completed_at IS NULL")) or 0)


async def drain(client: JobClient, database: DatabaseManager, worker: Process, jobs: int) -> list[Look]:
    """Enqueue and drain so many jobs, and look at the worker's size after every :data:`EVERY`.

    Raises:
        RuntimeError: the worker ended.
        TimeoutError: nothing was done for a minute.
    """
    program = psutil.Process(worker.pid)
    began = moved = time.monotonic()
    looks, enqueued, done = list[Look](), 0, 0
    while done < jobs:
        if worker.returncode is not None:
            raise RuntimeError(f"the worker ended with status {worker.returncode}")
        if enqueued < jobs and enqueued - done < WAVE // 2:
            count = min(WAVE, jobs - enqueued)
            await client.enqueue_many([NewJob(type=JOB_TYPE, payload={}) for _ in range(count)])
            enqueued += count
        before, done = done, enqueued - await unfinished(database)
        if done > before:
            moved = time.monotonic()
        elif time.monotonic() - moved > _STALLED_SECONDS:
            raise TimeoutError(f"no job ended for {_STALLED_SECONDS:.0f} s: {done} of {jobs} are done")
        if done // EVERY > before // EVERY or done == jobs:
            looks.append(Look(done, time.monotonic() - began, program.memory_info().rss))
            show(looks)
        await asyncio.sleep(_POLL_SECONDS)
    return looks


def show(looks: list[Look]) -> None:
    """Print the newest row."""
    look, first = looks[-1], looks[0]
    grown = (look.rss_bytes - first.rss_bytes) / MIB
    pace = look.jobs / look.seconds
    print(f"{look.jobs:>9,} {look.rss_bytes / MIB:>9.1f} {grown:>+9.1f} {pace:>8,.0f}", flush=True)


async def measure(jobs: int) -> None:
    """Run it once, on servers of its own."""
    with bench_servers(durable=False) as servers:
        settings = settings_for(servers)

        async def prepare() -> None:
            assert settings.database_url is not None
            async with DatabaseManager(settings.database_url.get_secret_value(), pool_size=1) as database:
                await upgrade(database.engine)

        await servers.empty("memory", prepare)
        assert settings.database_url is not None
        async with (
            open_client(settings) as client,
            DatabaseManager(settings.database_url.get_secret_value(), pool_size=1) as database,
            worker_process(settings) as worker,
        ):
            print(f"{'jobs':>9} {'RSS MiB':>9} {'grown':>9} {'jobs/s':>8}")
            looks = await drain(client, database, worker, jobs)
            peak = peak_rss_bytes(worker.pid) / MIB
    grown = looks[-1].rss_bytes - looks[0].rss_bytes
    later = max(looks[-1].jobs - looks[0].jobs, 1)
    print(f"peak {peak:.1f} MiB; since the first row {grown / MIB:+.1f} MiB, {grown / later:+.1f} bytes a job")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many, 1 or more (default 1,000,000)")
    parser.add_argument(
        "--work", action="store_true", help=argparse.SUPPRESS
    )  # what the worker process is started with
    arguments = parser.parse_args()
    if arguments.work:
        work()
    elif arguments.jobs < 1:
        parser.error("--jobs: 1 or more")
    else:
        asyncio.run(measure(arguments.jobs))


if __name__ == "__main__":
    main()
