"""Carrying out a schedule on the servers, the links and the workers of a run; and putting everything right again."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Sequence

import asyncpg
from redis.asyncio import Redis
from sqlalchemy import make_url

from tests.chaos.harness.schedule import POSTGRESQL, REDIS, Fault, FaultKind
from tests.chaos.harness.servers import ChaosServers, Server
from tests.chaos.harness.supervision import Fleet


class Saboteur:
    """Does what the schedule says.

    Args:
        tell: called with a line for each thing done.

    Attributes:
        outages: when a server or its link was not as it should be: from and until, in seconds since the epoch.
    """

    def __init__(self, servers: ChaosServers, fleet: Fleet, tell: Callable[[str], None]) -> None:
        self._servers = servers
        self._fleet = fleet
        self._tell = tell
        # A server may take longer to start than the schedule foresaw; what comes next waits until it is up.
        self._locks = {POSTGRESQL: asyncio.Lock(), REDIS: asyncio.Lock()}
        self.outages: list[tuple[float, float]] = []

    async def carry_out(self, schedule: Sequence[Fault]) -> None:
        """Do each fault at its time; return when the last is over."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                group.create_task(self._do(fault, start))

    async def put_right(self) -> None:
        """Continue whoever is stopped, and let every link flow."""
        self._fleet.continue_all()
        for server in (self._servers.postgresql, self._servers.redis):
            server.proxy.slow(0, 0)
            server.proxy.deliver()

    async def _do(self, fault: Fault, start: float) -> None:
        await asyncio.sleep(max(0.0, start + fault.at - time.monotonic()))
        if fault.target.startswith("worker"):
            self._say(fault, start)
            await self._hit_worker(int(fault.target.split()[1]), fault)
            return
        async with self._locks[fault.target]:
            self._say(fault, start)
            begun = time.time()
            await self._hit_server(self._servers.named(fault.target), fault)
            self.outages.append((begun, time.time()))

    def _say(self, fault: Fault, start: float) -> None:
        self._tell(f"{time.monotonic() - start:7.2f} s  {fault.target}: {fault.kind}")

    async def _hit_worker(self, slot: int, fault: Fault) -> None:
        if fault.kind is FaultKind.KILL:
            self._fleet.signal(slot, signal.SIGKILL)
        elif fault.kind is FaultKind.TERMINATE:
            self._fleet.signal(slot, signal.SIGTERM)
        elif (worker := self._fleet.signal(slot, signal.SIGSTOP)) is not None:
            await asyncio.sleep(fault.seconds)
            if worker.process.returncode is None:
                worker.process.send_signal(signal.SIGCONT)

    async def _hit_server(self, server: Server, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.FLUSH:
                async with Redis.from_url(server.direct_url) as client:
                    await client.flushall()
            case FaultKind.READ_ONLY | FaultKind.TIMEOUTS | FaultKind.SESSIONS:
                await refuse(server.direct_url, fault)
            case FaultKind.CUT:
                server.proxy.cut()
            case FaultKind.SLOW:
                server.proxy.slow(fault.delay_ms / 1000, fault.delay_ms / 2000)
                await asyncio.sleep(fault.seconds)
                server.proxy.slow(0, 0)
            case FaultKind.REFUSE:
                await server.proxy.refuse_for(fault.seconds)
            case FaultKind.BLACK_HOLE | FaultKind.PARTITION:
                server.proxy.hold()
                await asyncio.sleep(fault.seconds)
                if fault.kind is FaultKind.BLACK_HOLE:
                    server.proxy.cut()
                server.proxy.deliver()
            case _:
                await restart(server, fault.kind, fault.seconds)


_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'chaos\\_%'"
_SETTINGS = {
    FaultKind.READ_ONLY: {"default_transaction_read_only": "on"},
    FaultKind.TIMEOUTS: {"lock_timeout": "20ms", "statement_timeout": "150ms"},
}


async def refuse(url: str, fault: Fault) -> None:
    """Have PostgreSQL refuse for a reason of its own state: flips of 5 to 80 ms, or settings while the fault lasts."""
    chance = random.Random(fault.at)  # noqa: S311 - it must be repeatable, not secret
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    own = {"default_transaction_read_only": "off", "lock_timeout": "0", "statement_timeout": "0"}
    control = await asyncpg.connect(plain, server_settings=own)
    try:
        if fault.kind is FaultKind.SESSIONS:
            await control.execute(_END_SESSIONS)
            return
        until = time.monotonic() + fault.seconds
        flips = fault.kind is FaultKind.READ_ONLY
        while time.monotonic() < until:
            try:
                for name, value in _SETTINGS[fault.kind].items():
                    await control.execute(f"ALTER SYSTEM SET {name} = '{value}'")
                await control.execute("SELECT pg_reload_conf()")
                await asyncio.sleep(chance.uniform(0.005, 0.080) if flips else fault.seconds)
            finally:
                for name in _SETTINGS[fault.kind]:
                    await control.execute(f"ALTER SYSTEM RESET {name}")
                await control.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(chance.uniform(0.05, 0.3))
    finally:
        await control.close()


async def restart(server: Server, kind: FaultKind, seconds: float) -> None:
    """Stop a server, keep it away for so many seconds, and start it again.

    Redis is killed with ``kill -9``; PostgreSQL is shut down fast, or at once for ``FaultKind.IMMEDIATE``.
    """
    if server.name == POSTGRESQL:
        await server.stop(signal.SIGQUIT if kind is FaultKind.IMMEDIATE else None)
    else:
        await server.stop(signal.SIGKILL)
    if kind is FaultKind.LOSE:
        server.empty()
    await asyncio.sleep(seconds)
    await server.start()
