"""``WorkerSettings``: what the stock ``arq`` command and ``worker run`` both start.

``arq worker.main.WorkerSettings`` is all it takes. The startup hook opens what jobs need and starts lease keeper,
rescue, stager and reconciler; the shutdown hook closes them again in the opposite order.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import structlog
from arq import cron, func
from arq.connections import ArqRedis
from arq.constants import default_queue_name, health_check_key_suffix
from arq.worker import Function

from repositories.database import DatabaseManager
from repositories.errors import DatabaseRefusedError, DatabaseStateError, SchemaOutdatedError
from repositories.hot_status import HotStatus
from repositories.migrations import check
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.anythingllm.reading import ParsersMissingError, Reading
from worker.engines.base import Engine
from worker.engines.local import LocalEngine
from worker.execution import execute
from worker.isolation import Isolation, is_isolated
from worker.leases import LeaseKeeper
from worker.loops import Loop, Loops, Upkeep
from worker.queue import (
    TRIED_AGAIN,
    JobQueue,
    connect_worker,
    deserialize,
    patience,
    queue_key,
    queue_of,
    redis_settings,
    serialize,
)
from worker.registry import BEAT, Presence, Registry
from worker.run import Runtime, Task
from worker.server_wait import ServerWait
from worker.settings import Settings, SettingsError, load_settings, require
from worker.tasks import RETRIES, TASKS
from worker.tasks.maintenance import cleanup, roll_up, sweep_documents, sweep_storage
from worker.telemetry import configure_logging
from worker.uploads.opening import make_sources

log = structlog.get_logger(__name__)

# The job's own timeout decides; ARQ's only has to be longer than any of them.
_ARQ_TIMEOUT = timedelta(days=8)
# ARQ counts how often it saw a message; our record counts attempts, and decides.
# A worker that slept over a cron's time must find that it ran, or it would run it again.
_CRON_KEPT_SECONDS = 3_600
_ARQ_MAX_TRIES = 1_000_000_000
_START_SECONDS = 30.0  # how long a worker that starts waits for a server that is starting, too, or full


def make_worker_id() -> str:
    """Name this process: host, process id, and four characters so that a reused process id is another worker."""
    # One that runs jobs alone is named for the worker that started it, and whose servers and rights it has.
    pid, alone = (os.getppid(), "-alone") if is_isolated() else (os.getpid(), "")
    return f"{socket.gethostname()[:40]}-{pid}-{uuid4().hex[:4]}{alone}"


def _arq_function(job_type: str) -> Function:
    async def run(ctx: dict[Any, Any], job_id: str) -> None:
        await execute(ctx["runtime"], job_id)

    run.__qualname__ = job_type
    return func(run, name=job_type, timeout=_ARQ_TIMEOUT, keep_result=0, max_tries=_ARQ_MAX_TRIES)


def make_engine(settings: Settings, database: DatabaseManager, redis: ArqRedis) -> Engine:
    """The engine that the settings choose; whoever gets it closes it.

    Raises:
        SettingsError: they ask for what is not installed.
    """
    if settings.anythingllm_url is None or settings.anythingllm_api_key is None:
        return LocalEngine(database, parse_seconds=settings.parser_seconds, max_parser_bytes=settings.parser_max_bytes)
    try:
        reading = Reading(
            settings.anythingllm_convert, seconds=settings.parser_seconds, max_bytes=settings.parser_max_bytes
        )
    except ParsersMissingError as error:
        raise SettingsError(str(error)) from None
    return AnythingLLMEngine(
        settings.anythingllm_url,
        settings.anythingllm_api_key,
        database,
        redis,
        timeout_seconds=settings.anythingllm_timeout,
        embed_timeout_seconds=settings.anythingllm_embed_timeout,
        uploads=settings.anythingllm_uploads,
        embeddings=settings.anythingllm_embeddings,
        reading=reading,
    )


async def _schema_checked(database: DatabaseManager) -> None:
    """Return once the schema was seen to be new enough; wait for a server that answers and takes nothing now.

    Raises:
        DatabaseStateError: nothing listens there, it refuses us, its schema is outdated, or it took nothing for
            :data:`_START_SECONDS`.
    """
    wait, until = ServerWait("worker.waiting", "worker.recovered"), time.monotonic() + _START_SECONDS
    while True:
        try:
            await check(database.engine)
        except (DatabaseRefusedError, SchemaOutdatedError):
            raise
        except DatabaseStateError as error:
            if isinstance(error.__cause__, OSError) or time.monotonic() >= until:
                raise
            await wait.after(error)
        else:
            wait.over()
            return


def _served(ctx: Mapping[Any, Any], settings: Settings) -> Sequence[str]:
    """The queues that this worker takes jobs from: a runner says it, a stock worker takes from one.

    Raises:
        SystemExit: it is a stock worker that was told others; nobody would take the jobs of those.
    """
    if "queues" in ctx:
        return tuple(ctx["queues"])
    name = queue_of(ctx["redis"].default_queue_name)
    served = () if name is None else (name,)
    if set(settings.worker_queues) == set(served):
        return served
    names, key = ", ".join(settings.worker_queues), ctx["redis"].default_queue_name
    raise SystemExit(
        f"arq: WORKER_QUEUES names {names}, and a stock ARQ worker takes jobs from one queue ({key}): "
        "start `worker run`, or one `arq` for each queue with WORKER_QUEUES=NAME"
    )


async def startup(ctx: dict[Any, Any]) -> None:
    """Open what jobs need. What is open is closed again if a later step fails."""
    settings: Settings = ctx.get("settings") or load_settings()
    tasks: Mapping[str, Task] = ctx.get("tasks") or TASKS
    queues = _served(ctx, settings)
    configure_logging(settings.log_level, settings.log_format)
    worker_id = make_worker_id()
    structlog.contextvars.bind_contextvars(worker_id=worker_id)
    database_url = require(settings.database_url, "DATABASE_URL")
    stack = AsyncExitStack()
    try:
        database = await stack.enter_async_context(
            DatabaseManager(
                database_url, pool_size=settings.database_pool_size, max_overflow=settings.database_max_overflow
            )
        )
        await _schema_checked(database)
        engine = make_engine(settings, database, ctx["redis"])
        stack.push_async_callback(engine.aclose)
        leases = LeaseKeeper(
            database_url,
            lease=timedelta(seconds=settings.lease_seconds),
            every=timedelta(seconds=settings.heartbeat_seconds),
        )
        await leases.start()
        stack.push_async_callback(leases.stop)
        queue = JobQueue(ctx["redis"])
        hot = HotStatus(ctx["redis"]) if settings.redis_enabled else None
        if hot is not None:
            stack.push_async_callback(hot.settled)
        upkeep = Upkeep(database, queue, lease=timedelta(seconds=settings.lease_seconds), types=tasks, hot=hot)
        presence = Presence(
            Registry(ctx["redis"]),
            worker_id,
            tasks,
            queues,
            settings.worker_concurrency,
            ctx.get("running", leases.count),
            engine.away,
        )
        sources = make_sources(settings)
        sources.storage.warn_if_open()
        runtime = ctx["runtime"] = Runtime(
            settings, database, queue, sources, engine, leases, worker_id, tasks, RETRIES, hot
        )
        if not is_isolated():  # a process that runs one job beside nothing leaves these to its parent
            isolation = Isolation(runtime, ctx.get("command") or (sys.executable, "-m", "worker", "run"))
            loops = Loops(
                Loop("rescue", timedelta(seconds=settings.rescue_seconds), upkeep.rescue),
                Loop("stage", timedelta(seconds=1), upkeep.stage),
                Loop("reconcile", timedelta(seconds=settings.reconcile_seconds), upkeep.reconcile),
                Loop("announce", BEAT, presence.beat),
                Loop("isolate", timedelta(seconds=1), isolation.look),
            )
            loops.start()
            stack.push_async_callback(presence.leave)
            stack.push_async_callback(isolation.stop)
            stack.push_async_callback(loops.stop)
    except BaseException:
        await stack.aclose()
        raise
    ctx["stack"] = stack
    log.info("worker.started", job_types=sorted(tasks), concurrency=settings.worker_concurrency)


async def shutdown(ctx: dict[Any, Any]) -> None:
    """Close what :func:`startup` opened; the jobs have ended or were put back by now."""
    if stack := ctx.pop("stack", None):
        structlog.contextvars.bind_contextvars(worker_id=ctx["runtime"].worker_id)
        await stack.aclose()
        log.info("worker.stopped")


def worker_settings(settings: Settings, tasks: Mapping[str, Task] = TASKS) -> dict[str, Any]:
    """What ARQ needs to make a worker: the functions, the hooks and where Redis is.

    Args:
        settings: where the servers are, and how much at a time.
        tasks: what the worker can do, by job type.

    Raises:
        SettingsError: ``REDIS_URL`` or ``DATABASE_URL`` is not set.
    """
    require(settings.database_url, "DATABASE_URL")
    redis_url, queue = require(settings.redis_url, "REDIS_URL"), queue_key(settings.worker_queues[0])
    return {
        "functions": [_arq_function(job_type) for job_type in tasks],
        "cron_jobs": [
            # Before the clean-up, which takes away what it counts.
            cron(roll_up, name="cron:roll_up", minute=7, second=0, timeout=600, keep_result=_CRON_KEPT_SECONDS),
            cron(cleanup, name="cron:cleanup", minute=17, second=0, timeout=3_600, keep_result=_CRON_KEPT_SECONDS),
            cron(
                sweep_storage,
                name="cron:sweep_storage",
                minute=37,
                second=0,
                timeout=3_600,
                keep_result=_CRON_KEPT_SECONDS,
            ),
            cron(
                sweep_documents,
                name="cron:sweep_documents",
                minute=set(range(3, 60, 10)),
                second=0,
                timeout=600,
                keep_result=_CRON_KEPT_SECONDS,
            ),
        ],
        "queue_name": queue,
        # For `arq --check`; a worker has its own client, which outlives what others put into a queue.
        "redis_settings": redis_settings(redis_url),
        "redis_pool": connect_worker(
            redis_url, settings.redis_pool_size, queue, retry=patience(), retry_on_error=list(TRIED_AGAIN)
        ),
        "on_startup": startup,
        "on_shutdown": shutdown,
        "job_serializer": serialize,
        "job_deserializer": deserialize,
        "max_jobs": settings.worker_concurrency,
        "max_tries": _ARQ_MAX_TRIES,
        "job_timeout": _ARQ_TIMEOUT,
        "keep_result": 0,
        "poll_delay": 0.1,
        # Running messages stay at the head of the queue: with ARQ's default of 100, a few busy workers hide all others.
        "queue_read_limit": 10_000,
        "job_completion_wait": settings.shutdown_grace_seconds,
        "health_check_interval": 30,
        # The same for a stock worker and ours, whose ARQ part watches another queue: `arq --check` finds either.
        "health_check_key": default_queue_name + health_check_key_suffix,
        "ctx": {"settings": settings, "tasks": tasks},
    }


def __getattr__(name: str) -> Any:
    """Make ``WorkerSettings`` when ARQ asks for it: importing this module reads nothing and opens nothing."""
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return worker_settings(load_settings())
    except SettingsError as error:
        raise SystemExit(f"arq: {error}") from None
