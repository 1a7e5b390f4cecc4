"""The worker process: an ARQ worker that takes our jobs in batches.

:class:`Runner` keeps what users know of ARQ (functions, cron jobs, hooks, health key) and replaces how jobs are taken
and finished (:mod:`worker.batches`). ARQ's own machinery goes on beside it for cron jobs, on a queue of their own, so
that they never wait behind the backlog. It never exits because PostgreSQL or Redis went away.
"""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from signal import Signals

import structlog
from arq.worker import Worker, get_kwargs
from redis.exceptions import RedisError

from worker.batches import Batches
from worker.ending import end_all
from worker.isolation import is_isolated, run_alone
from worker.main import worker_settings
from worker.queue import SIDE_QUEUE, connect_worker
from worker.run import Runtime, Task
from worker.settings import Settings, require
from worker.supervisor import tell_supervisor
from worker.tasks import TASKS

_POLL_SECONDS = 0.5  # cron jobs are timed in seconds
_COLLECT_AFTER = (50_000, 20, 20)  # allocations, and then collections of each younger generation

log = structlog.get_logger(__name__)


class Runner(Worker):
    """Runs jobs until SIGTERM or SIGINT; a second one hands running jobs back at once.

    Args:
        settings: where the servers are, how many jobs at a time, and from which queues.
        tasks: what it can do, by job type; other types are left to workers that know them.
        command: this process's own program and arguments, for the process that runs jobs alone; ``worker run`` if not
            given.
    """

    def __init__(
        self, settings: Settings, tasks: Mapping[str, Task] = TASKS, command: Sequence[str] | None = None
    ) -> None:
        self._settings = settings
        self._command = command
        self._asked: asyncio.Event | None = None
        self._urged: asyncio.Event | None = None
        self._batches: Batches | None = None
        redis = connect_worker(require(settings.redis_url, "REDIS_URL"), settings.redis_pool_size, SIDE_QUEUE)
        values = get_kwargs(worker_settings(settings, tasks))
        values.pop("redis_settings", None)
        super().__init__(**values | {"redis_pool": redis, "queue_name": SIDE_QUEUE})  # type: ignore[arg-type]
        # Only cron jobs run through ARQ here: the mark of one whose worker was killed need not outlast our longest job.
        self.in_progress_timeout_s = 10 + max(cron.timeout_s or 0 for cron in self.cron_jobs)

    async def main(self) -> None:
        """Run until asked to stop; then let jobs end within the grace period, and hand the rest back.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer at the start.
            RedisError: Redis does not answer at the start.
        """
        self._asked, self._urged = asyncio.Event(), asyncio.Event()
        self.ctx |= {"redis": self.pool, "running": self._running, "queues": self._settings.worker_queues}
        self.ctx["command"] = self._command
        await self.pool.ping()
        if self.on_startup is not None:
            await self.on_startup(self.ctx)
        _spare_the_collector()
        runtime: Runtime = self.ctx["runtime"]
        if is_isolated():
            await self._alone(runtime, self._asked)
            return
        async with Batches(runtime, self._settings.worker_queues) as batches:
            self._batches = batches
            crons = asyncio.create_task(self._run_crons(self._asked), name="crons")
            tell_supervisor()
            await self._asked.wait()
            log.info("worker.stopping", jobs=batches.running, grace_seconds=self._settings.shutdown_grace_seconds)
            await batches.stop(self._grace)
            await end_all({crons})

    async def _alone(self, runtime: Runtime, asked: asyncio.Event) -> None:
        """Run what is to be run alone, until there is nothing left or it is asked to stop."""
        jobs = asyncio.create_task(run_alone(runtime), name="alone")
        stop = asyncio.create_task(asked.wait())
        await asyncio.wait({jobs, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not jobs.done():
            await end_all({jobs})
        if not jobs.cancelled():
            log.info("worker.alone_done", jobs=jobs.result())

    def _running(self) -> int:
        return self._batches.running if self._batches is not None else 0

    async def _grace(self) -> None:
        if self._urged is not None:
            try:
                async with asyncio.timeout(self._settings.shutdown_grace_seconds):
                    await self._urged.wait()
            except TimeoutError:
                return

    async def _run_crons(self, asked: asyncio.Event) -> None:
        """ARQ's own iteration: enqueue and run cron jobs, write the health key."""
        away = False
        try:
            # Not only until cancelled: a library may swallow that.
            while not asked.is_set():
                try:
                    await self._poll_iteration()
                    away = False
                except (RedisError, OSError) as error:
                    if not away:
                        log.warning("cron.waiting", reason=type(error).__name__)
                    away = True
                except Exception as error:  # a cron job that failed is logged, and the worker goes on
                    log.exception("cron.error", exc_info=error)
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await end_all(self.tasks.values())
            self.tasks.clear()

    def handle_sig(self, signum: Signals) -> None:
        """Ask for an orderly end; asked again, do not wait for running jobs."""
        log.debug("worker.signalled", signal=signum.name)
        if self._asked is None or self._urged is None:
            raise SystemExit(0)  # not started yet
        if self._asked.is_set():
            self._urged.set()
        self._asked.set()

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """As :meth:`handle_sig`: ARQ calls one or the other."""
        self.handle_sig(signum)

    async def close(self) -> None:
        """Run the shutdown hook and close the connections, whether Redis answers or not."""
        if self.on_shutdown is not None:
            await self.on_shutdown(self.ctx)
        try:
            async with asyncio.timeout(1):
                await self.pool.delete(self.health_check_key)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("health.not_cleared", reason=type(error).__name__)
        await self.pool.aclose(close_connection_pool=True)


def _spare_the_collector() -> None:
    """Take what a worker keeps for its whole life (modules, models, statements) out of every search for garbage.

    A full search walks over more than 100,000 objects, which holds everything up for 70 ms; and because each job makes
    some hundred, the defaults spend a fifth of a busy worker's time on it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
