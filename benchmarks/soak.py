"""Does anything drift? Jobs arrive at a steady rate for minutes, and every minute all that could grow is printed.

``python -m benchmarks.soak --minutes 15 --rate 500`` starts a PostgreSQL, a Redis and two worker processes of its own.
A producer enqueues the jobs, ten calls a second; a watcher asks for the status of each job twice, as a service would:
soon after it was enqueued, and again ten seconds later. One job in a hundred fails at its first attempt and is retried.

Each row is one minute: how long jobs waited for their start and how long until their end was recorded (by the record's
own times), the memory of each process, connections, and what Redis holds. What counts is whether later rows grow; the
first minute has what every process needs once. At the end the record is checked: each job completed, once, with the
attempts that it needs.
"""

import argparse
import asyncio
import json
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from contextlib import AsyncExitStack
from typing import Any, NamedTuple
from uuid import UUID

import psutil
from sqlalchemy import text

from benchmarks.memory import settings_for, unfinished, worker_process
from benchmarks.servers import Servers, bench_servers
from repositories.database import DatabaseManager
from repositories.migrations import upgrade
from repositories.schemas import NewJob
from worker.client import JobClient, open_client
from worker.document_settings import MIB
from worker.run import Run
from worker.runner import Runner
from worker.settings import load_settings

JOB_TYPE = "bench_soak"
CONCURRENCY = 10  # a worker's default
FAILS_FIRST = 100  # one job in so many
CALLS_PER_SECOND = 10
LOOKED_AT_AFTER_SECONDS = (0.5, 10.0)
STATUSES_A_CALL = 500
DRAIN_SECONDS = 120.0

_TIMES = text(
    """
    SELECT count(*) AS jobs,
        percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - queued_at)) AS waited,
        percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM completed_at - queued_at)) AS took
    FROM jobs WHERE completed_at >= :since AND completed_at < :until AND failures = 0
    """
)
_NOW = text("SELECT clock_timestamp()")
_CONNECTIONS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
_WRONG = text(
    """
    SELECT count(*) AS jobs, count(*) FILTER (WHERE status <> 'completed') AS not_completed,
        count(*) FILTER (WHERE attempt <> 1 + (payload ->> 'fails')::int) AS other_attempts,
        coalesce(sum(crashes), 0) AS crashes
    FROM jobs
    """
)


class Look(NamedTuple):
    """What was seen in one minute; times in milliseconds, memory in MiB."""

    minute: int
    jobs: int
    left: int
    waited_p50: float
    waited_p99: float
    took_p50: float
    took_p99: float
    workers_mib: tuple[float, ...]
    client_mib: float
    connections: int
    redis_keys: int
    redis_mib: float


async def once_bad(run: Run) -> dict[str, Any]:
    """The job: nothing, or an error at the first attempt."""
    if (run.job.payload or {}).get("fails") and run.job.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return {"done": True}


def work() -> None:
    """Be a worker; where the servers are stands in the environment."""
    Runner(load_settings(), {JOB_TYPE: once_bad}).run()


class Load:
    """Enqueues jobs at a steady rate, and asks where they stand.

    Args:
        client: what a service would use.
        rate: jobs a second.
    """

    def __init__(self, client: JobClient, rate: int) -> None:
        self._client = client
        self._rate = rate
        self._asked_for: deque[tuple[float, UUID]] = deque()
        self.enqueued = 0
        self.unseen = 0

    async def enqueue(self, seconds: float) -> None:
        """Keep to the rate for so long: what a slow call left undone is made up for by the next one."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            due = int((passed + 1 / CALLS_PER_SECOND) * self._rate) - self.enqueued
            if due > 0:
                jobs = [self._job(self.enqueued + number) for number in range(due)]
                enqueued = await self._client.enqueue_many(jobs)
                self.enqueued += due
                now = time.monotonic()
                self._asked_for.extend((now, job_id) for job_id in enqueued)
            await asyncio.sleep(1 / CALLS_PER_SECOND)

    def _job(self, number: int) -> NewJob:
        return NewJob(type=JOB_TYPE, payload={"fails": int(number % FAILS_FIRST == 0)})

    async def watch(self) -> None:
        """Ask for each job's status when its time has come, until cancelled."""
        again: deque[tuple[float, UUID]] = deque()
        soon, later = LOOKED_AT_AFTER_SECONDS
        while True:
            first = await self._look(self._asked_for, soon)
            again.extend(first)
            await self._look(again, later)
            await asyncio.sleep(1 / CALLS_PER_SECOND)

    async def _look(self, waiting: deque[tuple[float, UUID]], after: float) -> list[tuple[float, UUID]]:
        due = list[tuple[float, UUID]]()
        while waiting and waiting[0][0] + after <= time.monotonic():
            due.append(waiting.popleft())
        for start in range(0, len(due), STATUSES_A_CALL):
            ids = [job_id for _, job_id in due[start : start + STATUSES_A_CALL]]
            self.unseen += len(ids) - len(await self._client.statuses(ids))
        return due


class Observer:
    """Looks at everything once a minute.

    Args:
        servers: Redis is asked for its keys and its memory.
        database: PostgreSQL is asked for times and connections.
        workers: whose memory is read.
    """

    def __init__(self, servers: Servers, database: DatabaseManager, workers: list[Process]) -> None:
        self._servers = servers
        self._database = database
        self._workers = [psutil.Process(worker.pid) for worker in workers]
        self.looks: list[Look] = []

    async def every(self, seconds: float) -> None:
        """Print a row each time ``seconds`` have passed, until cancelled."""
        print(
            f"{'min':>3} {'jobs':>7} {'left':>5} {'wait p50':>9} {'p99 ms':>8} {'end p50':>8} {'p99 ms':>8} "
            f"{'workers MiB':>15} {'client':>7} {'conns':>5} {'keys':>7} {'Redis MiB':>9}"
        )
        since = await self._one(_NOW)
        while True:
            await asyncio.sleep(seconds)
            until = await self._one(_NOW)
            self.looks.append(await self._look(since, until))
            since = until
            self._show(self.looks[-1])

    async def _one(self, statement: Any) -> Any:
        async with self._database.get_session() as session:
            return await session.scalar(statement)

    async def _look(self, since: Any, until: Any) -> Look:
        async with self._database.get_session() as session:
            times = (await session.execute(_TIMES, {"since": since, "until": until})).one()
        async with self._servers.redis() as redis:
            memory = (await redis.info("memory"))["used_memory"]
            keys = await redis.dbsize()
        waited, took = times.waited or (0.0, 0.0), times.took or (0.0, 0.0)
        return Look(
            minute=len(self.looks) + 1,
            jobs=times.jobs,
            left=await unfinished(self._database),
            waited_p50=1000 * float(waited[0]),
            waited_p99=1000 * float(waited[1]),
            took_p50=1000 * float(took[0]),
            took_p99=1000 * float(took[1]),
            workers_mib=tuple(worker.memory_info().rss / MIB for worker in self._workers),
            client_mib=psutil.Process().memory_info().rss / MIB,
            connections=int(await self._one(_CONNECTIONS)),
            redis_keys=keys,
            redis_mib=memory / MIB,
        )

    @staticmethod
    def _show(look: Look) -> None:
        workers = " ".join(f"{mib:.1f}" for mib in look.workers_mib)
        print(
            f"{look.minute:>3} {look.jobs:>7,} {look.left:>5} {look.waited_p50:>9.1f} {look.waited_p99:>8.1f} "
            f"{look.took_p50:>8.1f} {look.took_p99:>8.1f} {workers:>15} {look.client_mib:>7.1f} "
            f"{look.connections:>5} {look.redis_keys:>7,} {look.redis_mib:>9.1f}",
            flush=True,
        )


async def until_drained(database: DatabaseManager) -> None:
    """Return once every job is final.

    Raises:
        TimeoutError: some are not after :data:`DRAIN_SECONDS`.
    """
    async with asyncio.timeout(DRAIN_SECONDS):
        while await unfinished(database):  # noqa: ASYNC110 - only PostgreSQL knows
            await asyncio.sleep(0.2)


async def soak(minutes: float, rate: int, workers: int, *, as_json: bool) -> int:
    """Run it once, on servers of its own; return how many jobs do not stand on the record as they should."""
    with bench_servers(durable=True) as servers:
        settings = settings_for(servers, CONCURRENCY)
        assert settings.database_url is not None
        url = settings.database_url.get_secret_value()

        async def prepare() -> None:
            async with DatabaseManager(url, pool_size=1) as database:
                await upgrade(database.engine)

        await servers.empty("soak", prepare)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_client(settings))
            database = await stack.enter_async_context(DatabaseManager(url, pool_size=1))
            processes = [
                await stack.enter_async_context(worker_process(settings, "benchmarks.soak")) for _ in range(workers)
            ]
            load, observer = Load(client, rate), Observer(servers, database, processes)
            background = [asyncio.create_task(load.watch()), asyncio.create_task(observer.every(60))]
            try:
                await load.enqueue(minutes * 60 + 1)  # so that the last minute is a row
                await until_drained(database)
            finally:
                for task in background:
                    task.cancel()
                ended = await asyncio.gather(*background, return_exceptions=True)
            if errors := [each for each in ended if not isinstance(each, asyncio.CancelledError)]:
                raise RuntimeError(f"a part of the soak stopped early: {errors[0]!r}")
            if gone := [process.returncode for process in processes if process.returncode is not None]:
                raise RuntimeError(f"a worker ended with status {gone[0]}")
            async with database.get_session() as session:
                record = (await session.execute(_WRONG)).one()
    wrong = int(abs(load.enqueued - record.jobs) + record.not_completed + record.other_attempts + load.unseen)
    print(
        f"{load.enqueued:,} jobs enqueued, {record.jobs:,} on the record, {record.not_completed} not completed, "
        f"{record.other_attempts} with other attempts than they need, {record.crashes} crashes counted, "
        f"{load.unseen} statuses not found"
    )
    if as_json:
        print(json.dumps([look._asdict() for look in observer.looks]))
    return wrong


def main() -> None:
    """Read the command line; the exit status is 1 if the record is not as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="how long, 1 or more (default 15)")
    parser.add_argument("--rate", type=int, default=500, help="jobs a second (default 500)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, too")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # what workers are started with
    arguments = parser.parse_args()
    if arguments.work:
        work()
    elif arguments.minutes < 1 or arguments.rate < 1 or arguments.workers < 1:
        parser.error("--minutes, --rate and --workers: 1 or more")
    else:
        sys.exit(bool(asyncio.run(soak(arguments.minutes, arguments.rate, arguments.workers, as_json=arguments.json))))


if __name__ == "__main__":
    main()
