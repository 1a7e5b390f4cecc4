"""What a drain costs: CPU seconds of each side, transactions and rows in PostgreSQL, commands in Redis, peak memory."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.servers import DATABASE, Servers

_COUNTERS = f"""
    SELECT xact_commit + xact_rollback AS transactions, tup_inserted + tup_updated + tup_deleted AS rows_written
    FROM pg_stat_database WHERE datname = '{DATABASE}'
"""  # noqa: S608 - a constant
_SESSIONS = f"""
    SELECT count(*) AS sessions FROM pg_stat_activity WHERE datname = '{DATABASE}' AND backend_type = 'client backend'
"""  # noqa: S608 - a constant
_SESSIONS_END_SECONDS = 30.0


@dataclass(frozen=True)
class Cpu:
    """CPU seconds used so far, user and system."""

    worker: float
    postgresql: float
    redis: float


async def cpu(servers: Servers, workers: Sequence[int]) -> Cpu:
    """Read the CPU seconds of the worker processes and of both servers."""
    postgresql, redis = await servers.processes()
    # Backends that ended are in their parent's account, the living ones have their own.
    reaped = postgresql.cpu_times()
    living = sum(_seconds(child) for child in postgresql.children())
    return Cpu(
        worker=sum(_seconds(psutil.Process(pid)) for pid in workers),
        postgresql=_seconds(postgresql) + reaped.children_user + reaped.children_system + living,
        redis=_seconds(redis),
    )


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # it ended just now; its parent has its account from here on
        return 0.0
    return float(times.user + times.system)


def peak_rss_bytes(pid: int) -> int:
    """The most memory the process ever held, as the kernel counted it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


async def postgresql_counters(servers: Servers) -> tuple[int, int]:
    """Transactions, and rows written, once all sessions have ended: PostgreSQL counts what one did at its end.

    Raises:
        TimeoutError: a session is still open after 30 s.
    """
    async with asyncio.timeout(_SESSIONS_END_SECONDS):
        while (await servers.fetch(_SESSIONS))["sessions"]:  # noqa: ASYNC110 - only PostgreSQL knows
            await asyncio.sleep(0.05)
    row = await servers.fetch(_COUNTERS)
    return int(row["transactions"]), int(row["rows_written"])


async def redis_commands(servers: Servers) -> int:
    """Commands that Redis carried out since the measurement began, those inside scripts too."""
    async with servers.redis() as redis:
        statistics = await redis.info("commandstats")
    return sum(int(counts["calls"]) for counts in statistics.values())


class StatementLog:
    """Counts the statements that reach PostgreSQL, by its own log; slows it, so never while time is taken."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._offset = 0

    async def begin(self) -> None:
        """Log every statement of sessions that begin from now on."""
        await self._servers.execute(f"ALTER DATABASE {DATABASE} SET log_statement = 'all'")
        self._offset = self._servers.postgresql_log.stat().st_size

    def count(self) -> int:
        """How many there were since; ``BEGIN`` and ``COMMIT`` count, as each is a round trip."""
        with self._servers.postgresql_log.open("rb") as log:
            log.seek(self._offset)
            return sum(b"LOG:  execute " in line or b"LOG:  statement: " in line for line in log)
