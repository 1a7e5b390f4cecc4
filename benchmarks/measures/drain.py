"""Drain: how fast a queue that is full before any worker starts is worked off, and what that costs."""

import asyncio
import time
from dataclasses import asdict

from benchmarks.bench import bench
from benchmarks.processes import SystemFailedError, WorkerScript, Workload
from benchmarks.servers import Servers
from benchmarks.systems import System
from benchmarks.usage import StatementLog, cpu, peak_rss_bytes, postgresql_counters, redis_commands

QUIET_SECONDS = 45.0
COUNTED_JOBS = 1_000


async def drain(system: System, servers: Servers, jobs: int, workers: int) -> dict[str, float]:
    """Work off ``jobs`` prefilled jobs with ``workers`` processes, and check every one on the record.

    The clock runs from the first job's start to the moment when the system's own record says that all are over.

    Raises:
        SystemFailedError: a job did not run, ran twice, or is not recorded as the system promises.
    """
    async with bench(system, servers) as place:
        await place.enqueue(jobs)
        await place.close_driver()  # PostgreSQL counts what a session did at its end
        scripts = [await place.worker() for _ in range(workers)]
        pids = [script.pid for script in scripts]
        transactions, rows = await postgresql_counters(servers)
        async with servers.redis() as redis:
            await redis.config_resetstat()
        await place.driver()
        before = await cpu(servers, pids)
        went_at = time.monotonic()
        await asyncio.gather(*(script.go() for script in scripts))
        await _all_end(place.workload, scripts[0], jobs)
        await place.settle()
        settled_at = time.monotonic()
        after = await cpu(servers, pids)
        commands = await redis_commands(servers) if system.uses_redis else 0
        rss = max(map(peak_rss_bytes, pids))
        await _check(system, jobs, {number: len(starts) for number, starts in place.workload.starts.items()})
        if wrong := (await place.ask("wrong", jobs=jobs))["wrong"]:
            raise SystemFailedError(f"{system.name}: {wrong} of {jobs} jobs are not recorded as promised")
        await place.close_driver()
        for script in scripts:
            await script.stop()
        transactions_after, rows_after = await postgresql_counters(servers)
        started_at = place.workload.first_start
        used = {name: value - asdict(before)[name] for name, value in asdict(after).items()}
        return {
            "jobs_per_second": jobs / (settled_at - started_at),
            "jobs_per_second_from_go": jobs / (settled_at - went_at),
            **{f"cpu_{name}_ms_per_job": 1000 * seconds / jobs for name, seconds in used.items()},
            "transactions_per_job": (transactions_after - transactions) / jobs if system.uses_postgresql else 0.0,
            "rows_written_per_job": (rows_after - rows) / jobs if system.uses_postgresql else 0.0,
            "redis_commands_per_job": commands / jobs,
            "peak_rss_mib": rss / 2**20,
        }


async def _all_end(workload: Workload, worker: WorkerScript, jobs: int) -> None:
    await workload.until_quiet(jobs, QUIET_SECONDS)
    if workload.ended < jobs:
        raise worker.failure(f"{workload.ended} of {jobs} jobs ended, and then none for {QUIET_SECONDS:.0f} s")


async def _check(system: System, jobs: int, starts: dict[int, int]) -> None:
    missing = jobs - len(starts.keys() & set(range(jobs)))
    twice = sum(count > 1 for count in starts.values())
    if missing or twice:
        raise SystemFailedError(f"{system.name}: of {jobs} jobs, {missing} never started and {twice} started twice")


async def statements(system: System, servers: Servers) -> dict[str, float]:
    """Count the statements that PostgreSQL gets for ``COUNTED_JOBS`` jobs, from the worker's start to the last end."""
    if not system.uses_postgresql:
        return {"statements_per_job": 0.0}
    async with bench(system, servers) as place:
        await place.enqueue(COUNTED_JOBS)
        log = StatementLog(servers)
        await log.begin()  # the driver's session began before, and is not counted
        worker = await place.worker()
        await worker.go()
        await _all_end(place.workload, worker, COUNTED_JOBS)
        await place.settle()
        return {"statements_per_job": log.count() / COUNTED_JOBS}
