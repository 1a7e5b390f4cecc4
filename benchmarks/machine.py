"""The machine a run was made on, and how much of it others took meanwhile."""

import os
import platform
import threading
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.servers import Servers

_EVERY_SECONDS = 5.0


async def describe(servers: Servers) -> dict[str, Any]:
    """Name cores, memory and versions."""
    async with servers.redis() as redis:
        redis_version = (await redis.info("server"))["redis_version"]
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "postgresql": str((await servers.fetch("SHOW server_version"))[0]),
        "redis": str(redis_version),
        "arq": version("arq"),
    }


class Watch:
    """Samples, each 5 s, how many cores others used: all that was used, less ours and our servers'.

    Args:
        servers: PostgreSQL's first process, and Redis.
    """

    def __init__(self, servers: Sequence[psutil.Process]) -> None:
        self._roots = [psutil.Process(), *servers]
        self._foreign: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def noise(self) -> dict[str, float]:
        """Cores that others used: the mean and the worst sample."""
        samples = self._foreign or [0.0]
        return {
            "foreign_cores_mean": round(sum(samples) / len(samples), 2),
            "foreign_cores_max": round(max(samples), 2),
        }

    def _sample(self) -> None:
        before = self._foreign_seconds()
        while not self._stop.wait(_EVERY_SECONDS):
            after = self._foreign_seconds()
            self._foreign.append(max(0.0, after - before) / _EVERY_SECONDS)
            before = after

    def _foreign_seconds(self) -> float:
        times = psutil.cpu_times()
        # Time that a hypervisor stole is others', too.
        return float(sum(times) - times.idle - times.iowait) - sum(map(_family_seconds, self._roots))


def _family_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process, of its living descendants, and of those that ended."""
    try:
        times = process.cpu_times()
        own = float(times.user + times.system + times.children_user + times.children_system)
        return own + sum(map(_family_seconds, process.children()))
    except psutil.NoSuchProcess:  # it ended just now: its parent has its account at the next sample
        return 0.0
