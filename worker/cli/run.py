"""``worker run`` and ``worker dev``: workers on the servers that are set, or on embedded ones."""

import asyncio
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer
from redis.exceptions import RedisError

from repositories.database import DatabaseManager
from repositories.migrations import upgrade
from worker.cli.context import connected_settings, data_dir, environment, err, out, own_servers, run
from worker.queue import QueueUnavailableError
from worker.runner import Runner
from worker.settings import Settings, load_settings, require
from worker.supervisor import Supervisor, stop_with_supervisor
from worker.telemetry import configure_logging

Processes = Annotated[int, typer.Option("--processes", "-p", min=1, max=64, help="How many worker processes.")]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", min=1, max=500, help="Jobs that one process runs at a time.")
]


def run_workers(processes: Processes = 1, concurrency: Concurrency = None) -> None:
    """Run workers until SIGTERM or Ctrl-C.

    They then finish running jobs within SHUTDOWN_GRACE_SECONDS and put the rest back into the queue; a second signal
    puts them back at once. SIGHUP replaces the processes of `--processes N` one by one while jobs go on. The stock
    command runs jobs, too, one by one: `arq worker.main.WorkerSettings`.
    """
    settings = connected_settings()
    if concurrency is not None:
        settings = settings.model_copy(update={"worker_concurrency": concurrency})
    configure_logging(settings.log_level, settings.log_format)
    if processes == 1:
        _work(settings)
    else:
        run(_supervise(settings, processes))


def _work(settings: Settings) -> None:
    """Be a worker process."""
    stop_with_supervisor()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # ARQ's constructor asks for it
    try:
        Runner(settings, command=(sys.executable, *sys.orig_argv[1:])).run()
    except RedisError as error:  # at the start; later it waits for Redis
        raise QueueUnavailableError(type(error).__name__) from error
    finally:
        loop.close()


async def _supervise(settings: Settings, processes: int) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    told = environment(settings) | {"WORKER_CONCURRENCY": str(settings.worker_concurrency)}
    rolling: set[asyncio.Task[None]] = set()
    async with Supervisor(
        processes, told, settings.shutdown_grace_seconds, max_rss_bytes=settings.max_rss_bytes
    ) as supervisor:

        def stop() -> None:
            if asked.is_set():
                supervisor.hurry()
            asked.set()

        def roll() -> None:
            if not rolling:  # one at a time
                task = asyncio.create_task(supervisor.replace_all())
                rolling.add(task)
                task.add_done_callback(rolling.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, roll)
        await asked.wait()
        for task in rolling:
            task.cancel()


def dev(processes: Processes = 2, concurrency: Concurrency = None) -> None:
    """Start embedded PostgreSQL and Redis with workers, until Ctrl-C.

    Data is kept between runs. Meanwhile `worker upload`, `worker ask` and `worker jobs` in this folder use these
    servers. DATABASE_URL or REDIS_URL in the environment replaces either server.
    """
    settings = load_settings()
    if concurrency is not None:
        settings = settings.model_copy(update={"worker_concurrency": concurrency})
    configure_logging(settings.log_level, settings.log_format)
    with own_servers(settings) as connected:
        run(migrate(connected))
        out.print(f"PostgreSQL and Redis are up; data in {data_dir(connected)}", soft_wrap=True)
        out.print("In another terminal: worker upload FOLDER --workspace NAME --wait")
        err.print("Ctrl-C stops everything; what is queued is kept.", style="dim")
        with suppress(KeyboardInterrupt):
            run(_supervise(connected, processes))


async def migrate(settings: Settings) -> None:
    """Bring the schema up to date."""
    url = require(settings.migration_url, "DATABASE_DIRECT_URL")
    async with DatabaseManager(url, pool_size=2) as database:
        await upgrade(database.engine)
