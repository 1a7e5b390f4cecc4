"""Loss: what becomes of queued jobs when Redis loses its data, and of running ones when it is killed and comes back."""

import asyncio
import time

from benchmarks.bench import bench, folder_of
from benchmarks.processes import WorkerScript
from benchmarks.servers import OutageRedis, Servers
from benchmarks.systems import System

FLUSHED_JOBS = 1_000
# No system looks for lost jobs more seldom than this.
_QUIET_SECONDS = 20.0
_OUTAGE_SECONDS = 5.0
_OUTAGE_CONCURRENCY = 10
_JOB_SECONDS = 0.25


async def flush(system: System, servers: Servers) -> dict[str, float]:
    """Enqueue 1,000 jobs, empty Redis, and start a worker; a job that does not start in 20 quiet seconds is lost."""
    async with bench(system, servers) as place:
        await place.enqueue(FLUSHED_JOBS)
        async with servers.redis() as redis:
            await redis.flushall()
        worker = await place.worker()
        began = time.monotonic()
        await worker.go()
        await place.workload.until_quiet(FLUSHED_JOBS, _QUIET_SECONDS)
        lost = FLUSHED_JOBS - place.workload.ended
        return {"lost": float(lost), "seconds": place.workload.last_end - began if not lost else 0.0}


async def outage(system: System, servers: Servers, jobs: int) -> dict[str, float]:
    """Kill Redis under a running worker and bring it back, with its data, 5 s later.

    Returns:
        ``exited``: 1 if the worker process ended by itself. ``not_done``: jobs that had not ended when nothing had
        happened for 20 s after Redis was back. ``seconds``: from its return to the last end.
    """
    redis = OutageRedis(folder_of(servers, f"outage-{system.name}"))
    await redis.start()
    try:
        settings = {"BENCH_REDIS_URL": redis.url, "BENCH_CONCURRENCY": str(_OUTAGE_CONCURRENCY)}
        async with bench(system, servers, **settings) as place:
            await place.enqueue(jobs, seconds=_JOB_SECONDS)
            worker = await place.worker()
            await worker.go()
            await place.workload.until(lambda: place.workload.ended >= jobs // 4, _QUIET_SECONDS)
            # Its append-only file is synced each second: what is lost is what a real outage loses.
            await redis.kill()
            exited = await _exits(worker, _OUTAGE_SECONDS)
            await redis.start()
            back_at = time.monotonic()
            await place.workload.until_quiet(jobs, _QUIET_SECONDS)
            exited = exited or worker.process.returncode is not None
            ended = len(place.workload.starts.keys() & set(range(jobs))) if place.workload.ended >= jobs else 0
            return {
                "exited": float(exited),
                "not_done": float(jobs - (ended or min(place.workload.ended, jobs))),
                "seconds": max(0.0, place.workload.last_end - back_at),
                "jobs": float(jobs),
            }
    finally:
        await redis.kill()


async def _exits(worker: WorkerScript, seconds: float) -> bool:
    """Let ``seconds`` pass; return whether the worker's process ended meanwhile."""
    wait = asyncio.create_task(worker.process.wait())
    await asyncio.sleep(seconds)
    ended = wait.done()
    wait.cancel()
    return ended
