"""Recovery: ``kill -9`` of the worker that runs a job, to the start of that job in another worker process."""

import time
from itertools import count

from benchmarks.bench import Bench, bench
from benchmarks.processes import READY_SECONDS, SystemFailedError, WorkerScript
from benchmarks.servers import Servers
from benchmarks.systems import System

WORKERS = 2
_PROBES_FROM = 10_000_000
_SLEEP_SECONDS = 3_000.0


async def recovery(system: System, servers: Servers, tries: int) -> dict[str, float | list[float]]:
    """Kill whoever took a job that sleeps, ``tries`` times; two workers that take jobs are running each time.

    Returns:
        ``seconds``: of each try. ``missed``: 1 if a job did not start again within ``cap_seconds``, which ends the
        measurement.
    """
    cap = system.recovery_cap_seconds
    seconds: list[float] = []
    async with bench(system, servers) as place:
        workers: dict[int, WorkerScript] = {}
        probes = count(_PROBES_FROM)
        for number in range(tries):
            while len(workers) < WORKERS:
                fresh = await place.worker()
                await fresh.go()
                await _takes_jobs(place, fresh, probes)
                workers[fresh.pid] = fresh
            await place.enqueue(1, first=number, seconds=_SLEEP_SECONDS)
            victim = workers.pop(await _taken_by(place, number, 1, READY_SECONDS))
            killed_at = time.monotonic()
            await victim.kill()
            try:
                await _taken_by(place, number, 2, cap)
            except SystemFailedError:
                return {"seconds": seconds, "missed": 1.0, "cap_seconds": cap}
            seconds.append(place.workload.starts[number][1][0] - killed_at)
            for survivor in workers.values():
                await survivor.release()
    return {"seconds": seconds, "missed": 0.0, "cap_seconds": cap}


async def _takes_jobs(place: Bench, worker: WorkerScript, probes: "count[int]") -> None:
    """Return once ``worker`` has carried out a job that does nothing; others may take some of them."""
    began = time.monotonic()
    while time.monotonic() - began < READY_SECONDS:
        probe = next(probes)
        await place.enqueue(1, first=probe)
        if await _taken_by(place, probe, 1, READY_SECONDS) == worker.pid:
            return
    raise worker.failure(f"did not take a job within {READY_SECONDS:.0f} s")


async def _taken_by(place: Bench, number: int, times: int, seconds: float) -> int:
    """Wait until the job has been started ``times`` times, and return the process that did it last.

    Raises:
        SystemFailedError: it was not, within ``seconds``.
    """
    starts = place.workload.starts
    if not await place.workload.until(lambda: len(starts.get(number, ())) >= times, seconds):
        raise SystemFailedError(f"{place.system.name}: job {number} was not started within {seconds:.0f} s")
    return starts[number][-1][1]
