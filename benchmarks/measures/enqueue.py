"""Enqueue: how fast jobs are handed over in bulk, a thousand a call, with no worker running."""

from benchmarks.bench import bench
from benchmarks.servers import Servers
from benchmarks.systems import System

_WARM_UP = 1_000


async def enqueue(system: System, servers: Servers, jobs: int) -> dict[str, float]:
    """Enqueue ``jobs`` jobs; they are committed, and stand in the queue, when the clock stops."""
    async with bench(system, servers) as place:
        await place.enqueue(_WARM_UP)
        return {"jobs_per_second": jobs / await place.enqueue(jobs, first=_WARM_UP)}
