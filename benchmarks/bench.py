"""One measurement's surroundings: empty servers, a driver, and workers that are stopped when the block ends."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import READY_SECONDS, Driver, SystemFailedError, WorkerScript, Workload, launch
from benchmarks.servers import Servers
from benchmarks.systems import System

CHUNK = 1_000
LEFT_SECONDS = 60.0


class Bench:
    """Enqueues to one system and runs its workers. ``workload`` is what they carried out."""

    def __init__(self, system: System, servers: Servers, stack: AsyncExitStack, **environment: str) -> None:
        self.system = system
        self.servers = servers
        self.workload = Workload()
        self._stack = stack
        self._environment = {
            "BENCH_DATABASE_URL": servers.database_url,
            "BENCH_REDIS_URL": servers.redis_url,
            "BENCH_CONCURRENCY": str(system.concurrency),
        } | environment
        self._log = servers.folder.parent / f"{system.name}.log"
        self._driver: Driver | None = None

    async def driver(self) -> Driver:
        """The driver, started when first asked for."""
        if self._driver is None:
            process = await launch(self.system, "driver", self._log, self._environment)
            self._driver = Driver(self.system, process, self._log)
            self._stack.push_async_callback(self._driver.stop)
            await self._driver.line(READY_SECONDS)
        return self._driver

    async def close_driver(self) -> None:
        """End the driver and its sessions; the next command starts another."""
        if self._driver is not None:
            await self._driver.stop()
            self._driver = None

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the driver carry out one command."""
        return await (await self.driver()).ask(do, **arguments)

    async def enqueue(self, jobs: int, *, first: int = 0, seconds: float = 0.0) -> float:
        """Enqueue jobs in bulk, and return how many seconds it took."""
        done = await self.ask("enqueue", first=first, jobs=jobs, seconds=seconds, chunk=CHUNK)
        return float(done["ended"] - done["began"])

    async def worker(self) -> WorkerScript:
        """A worker process that has imported everything and waits for ``go``."""
        process = await launch(self.system, "worker", self._log, self._environment)
        worker = WorkerScript(self.system, process, self._log, self.workload)
        self._stack.push_async_callback(worker.stop)
        await worker.line(READY_SECONDS)
        return worker

    async def running_worker(self, probe: int) -> WorkerScript:
        """A worker process that takes jobs: it has carried out the job ``probe``, alone."""
        worker = await self.worker()
        await worker.go()
        await self.enqueue(1, first=probe)
        if not await self.workload.until(lambda: probe in self.workload.starts, READY_SECONDS):
            raise worker.failure(f"did not start a job within {READY_SECONDS:.0f} s")
        return worker

    async def settle(self) -> None:
        """Return once the system's own record says that every job is over.

        Raises:
            SystemFailedError: some were left.
        """
        left = -1
        for _ in range(int(LEFT_SECONDS / 0.01)):
            left = (await self.ask("left"))["left"]
            if left == 0:
                return
        raise SystemFailedError(f"{self.system.name}: {left} jobs are left on its record, though all have run")


@asynccontextmanager
async def bench(system: System, servers: Servers, **environment: str) -> AsyncIterator[Bench]:
    """Empty both servers, and yield a bench for ``system``; ``environment`` is added to its processes'.

    Raises:
        SystemFailedError: the system's preparation failed.
    """

    async def prepare() -> None:
        async with AsyncExitStack() as stack:
            await Bench(system, servers, stack).ask("prepare")

    await servers.empty(system.name, prepare)
    async with AsyncExitStack() as stack:
        yield Bench(system, servers, stack, **environment)


def folder_of(servers: Servers, name: str) -> Path:
    """A new folder beside the servers' own."""
    place = servers.folder.parent / name
    place.mkdir(exist_ok=True)
    return place
