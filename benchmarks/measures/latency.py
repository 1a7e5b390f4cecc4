"""Latency: from the return of ``enqueue`` to the start of the task, on the machine's monotonic clock."""

import asyncio
import random
import statistics

from benchmarks.bench import Bench, bench
from benchmarks.processes import SystemFailedError
from benchmarks.servers import Servers
from benchmarks.systems import System

_PROBE = 10_000_000
_CAP_SECONDS = 30.0
# Between two jobs: long enough for the worker to be idle again, and unlike any poll interval.
_PAUSE_SECONDS = (0.05, 0.55)


async def idle_latency(system: System, servers: Servers, tries: int, seed: int) -> dict[str, float]:
    """Enqueue one job at a time to one idle worker."""
    pauses = random.Random(seed)
    async with bench(system, servers) as place:
        await place.running_worker(_PROBE)
        waited: list[float] = []
        for number in range(tries):
            await asyncio.sleep(pauses.uniform(*_PAUSE_SECONDS))
            returned = await place.ask("enqueue", first=number, jobs=1, seconds=0, chunk=1)
            await _started(place, number)
            waited.append(place.workload.starts[number][0][0] - returned["ended"])
        return _summary(waited)


async def loaded_latency(system: System, servers: Servers, rate: float, seconds: float) -> dict[str, float]:
    """Enqueue ``rate`` jobs a second for ``seconds``, a bulk call each 10 ms, to one worker.

    A job is late from the return of the call that enqueued it. The rate that was really reached is among the figures.
    """
    jobs = max(50, int(rate * seconds))
    async with bench(system, servers) as place:
        await place.running_worker(_PROBE)
        stream = await place.ask("stream", first=0, jobs=jobs, rate=rate)
        for number in range(jobs):
            await _started(place, number)
        returned = stream["returned"]
        waited = [place.workload.starts[number][0][0] - returned[number] for number in range(jobs)]
        return _summary(waited) | {
            "asked_per_second": rate,
            "reached_per_second": jobs / (stream["ended"] - stream["began"]),
        }


async def _started(place: Bench, number: int) -> None:
    if not await place.workload.until(lambda: number in place.workload.starts, _CAP_SECONDS):
        raise SystemFailedError(f"{place.system.name}: job {number} did not start within {_CAP_SECONDS:.0f} s")


def _summary(waited: list[float]) -> dict[str, float]:
    """A job may start before ``enqueue`` has returned: that is a wait of less than nothing, and counts as measured."""
    cuts = statistics.quantiles(waited, n=20, method="inclusive")
    return {
        "p50_ms": 1000 * statistics.median(waited),
        "p95_ms": 1000 * cuts[-1],
        "max_ms": 1000 * max(waited),
        "jobs": float(len(waited)),
    }
