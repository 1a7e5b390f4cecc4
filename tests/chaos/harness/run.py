"""One run: servers, workers, a workload and a schedule, then the record and its judgement.

``chaos_run`` is all that the tests and ``make chaos`` call.
"""

import asyncio
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

import asyncpg
from redis.asyncio import Redis
from sqlalchemy import make_url

from repositories.database import DatabaseManager
from repositories.migrations import upgrade
from repositories.workspaces import WorkspaceRepository
from tests.chaos.harness.client import WORKSPACE, Caller
from tests.chaos.harness.evidence import Evidence, Exit, ItemRow, JobRow, Violation
from tests.chaos.harness.faults import Saboteur
from tests.chaos.harness.invariants import violations
from tests.chaos.harness.record import CLIENT_ROLE, install, load_changes, read_journal, store_effects
from tests.chaos.harness.schedule import Fault, FaultKind, Profile
from tests.chaos.harness.servers import ChaosServers
from tests.chaos.harness.supervision import Fleet, WorkerProcess, role_name
from tests.chaos.harness.workload import JobPlan
from worker.client import open_client
from worker.settings import Settings

_READY_SECONDS = 30.0
_SPARE_ROLES = 40
_POLL_SECONDS = 0.2
_LOG_TAIL_LINES = 12
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STATUS = b"cache:status:"
_STATUS_SECONDS = 3_600


@dataclass(frozen=True)
class Plan:
    """All that is decided before a run begins.

    Attributes:
        drain_seconds: how long the queue may take to drain once everything is healthy again.
        grace_seconds: how long Redis may take to be tidy after that.
        stop_seconds: how long a terminated worker may take to end.
    """

    seed: int
    workers: int
    profile: Profile
    schedule: Sequence[Fault]
    workload: Sequence[JobPlan]
    drain_seconds: float = 90.0
    grace_seconds: float = 20.0
    stop_seconds: float = 40.0


@dataclass
class Result:
    """A run that is over."""

    evidence: Evidence
    violations: list[Violation]
    workers: list[WorkerProcess]
    drained_seconds: float | None
    outages: list[tuple[float, float]]


async def chaos_run(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Result:
    """Carry out a run in ``folder``, which is empty; ``tell`` is called with lines about its progress.

    Returns:
        What happened. The folder keeps the workers' logs and the servers' data.
    """
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(ChaosServers(folder))
        ends = sum(fault.kind in {FaultKind.KILL, FaultKind.TERMINATE} for fault in plan.schedule)
        roles = plan.workers + ends + _SPARE_ROLES
        await _prepare(servers, roles)
        settings = _client_settings(servers, folder)
        environment = {
            "WORKER_CONCURRENCY": "4",
            "ITEM_CONCURRENCY": "2",
            "SHUTDOWN_GRACE_SECONDS": "3",
            "LOG_FORMAT": "json",
            "STORAGE_URL": settings.storage_url,
            **plan.profile.environment,
        }
        fleet = Fleet(folder, (servers.postgresql.url, servers.redis.url), environment, roles)
        stack.push_async_callback(fleet.stop, 0.1)
        client = await stack.enter_async_context(open_client(settings))
        await fleet.start(plan.workers)
        await _ready(fleet, plan.workers)
        saboteur, caller = Saboteur(servers, fleet, tell), Caller(client)
        async with asyncio.TaskGroup() as group:
            group.create_task(saboteur.carry_out(plan.schedule))
            group.create_task(caller.carry_out(list(plan.workload)))
        await saboteur.put_right()
        tell("everything is healthy again: the queue drains")
        drained = await _drained(servers, plan.drain_seconds)
        orphans = await _orphans(servers, plan.grace_seconds)
        hanging = await fleet.stop(plan.stop_seconds)
        exits = [_exit(worker, saboteur.outages) for worker in fleet.history]
        evidence = await _gather(servers, plan, caller, fleet.history, folder)
        evidence.exits, evidence.hanging, evidence.orphans = exits, [str(worker) for worker in hanging], orphans
    return Result(evidence, violations(evidence), fleet.history, drained, saboteur.outages)


async def _prepare(servers: ChaosServers, roles: int) -> None:
    async with DatabaseManager(servers.postgresql.direct_url, pool_size=1) as database:
        await upgrade(database.engine)
        async with database.get_transaction() as session:
            await WorkspaceRepository(session, "local").register(WORKSPACE, WORKSPACE)
    connection = await _connect(servers)
    password = make_url(servers.postgresql.direct_url).password
    await install(connection, [CLIENT_ROLE, *map(role_name, range(roles))], str(password))
    await connection.close()


async def _connect(servers: ChaosServers) -> asyncpg.Connection:
    return await asyncpg.connect(servers.postgresql.direct_url.replace("+asyncpg", ""))


def _client_settings(servers: ChaosServers, folder: Path) -> Settings:
    url = make_url(servers.postgresql.url).set(username=CLIENT_ROLE)
    return Settings.model_validate(
        {
            "database_url": url.render_as_string(hide_password=False),
            "redis_url": servers.redis.url,
            "storage_url": str(folder / "storage"),
            "data_dir": folder / "data",
        }
    )


async def _ready(fleet: Fleet, workers: int) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while sum(worker.was_ready for worker in fleet.history) < workers:  # noqa: ASYNC110 - a file tells, not an event
            await asyncio.sleep(_POLL_SECONDS)


async def _drained(servers: ChaosServers, within: float) -> float | None:
    """Return how many seconds the queue took to drain, or ``None`` if it did not within the bound."""
    connection = await _connect(servers)
    begun = time.monotonic()
    live = "SELECT count(*) FROM jobs WHERE status NOT IN ('completed', 'failed', 'cancelled')"
    try:
        while await connection.fetchval(live):
            if time.monotonic() - begun > within:
                return None
            await asyncio.sleep(_POLL_SECONDS)
        return time.monotonic() - begun
    finally:
        await connection.close()


async def _orphans(servers: ChaosServers, within: float) -> list[str]:
    """Return what Redis still says of jobs once it had its time to be tidied: keys, and members of sets and lists."""
    connection = await _connect(servers)
    live = {
        str(row["id"]).encode()
        for row in await connection.fetch(
            "SELECT id FROM jobs WHERE status NOT IN ('completed', 'failed', 'cancelled')"
        )
    }
    await connection.close()
    begun = time.monotonic()
    async with Redis.from_url(servers.redis.direct_url) as client:
        while True:
            left = [told for told in await _naming_jobs(client) if not set(_ID.findall(told)) <= live]
            if not left or time.monotonic() - begun > within:
                return sorted({told.decode(errors="replace") for told in left})
            await asyncio.sleep(_POLL_SECONDS)


async def _naming_jobs(client: Redis) -> list[bytes]:
    found: list[bytes] = []
    async for key in client.scan_iter(count=1_000):
        if key.startswith(_STATUS) and 0 <= await client.ttl(key) <= _STATUS_SECONDS:
            continue  # a copy of a job's status outlives the job, and goes by itself
        if _ID.search(key):
            found.append(key)
            continue
        kind = await client.type(key)
        members: Sequence[bytes] = []
        if kind == b"zset":
            members = await client.zrange(key, 0, -1)
        elif kind == b"list":
            members = await cast("Awaitable[list[bytes]]", client.lrange(key, 0, -1))
        elif kind == b"set":
            members = list(await cast("Awaitable[set[bytes]]", client.smembers(key)))
        found += [key + b" holds " + member for member in members if _ID.search(member)]
    return found


def _exit(worker: WorkerProcess, outages: Sequence[tuple[float, float]]) -> Exit:
    ended = worker.ended_at or time.time()
    asked = None if worker.asked is None else worker.asked.name
    lines = worker.log.read_text(errors="replace").splitlines()
    tail = "\n".join(f"    {line[:400]}" for line in lines[-_LOG_TAIL_LINES:])
    overlaps = any(begin <= ended and worker.started_at <= end for begin, end in outages)
    status = worker.exit_status if worker.exit_status is not None else -signal.SIGKILL
    return Exit(str(worker), status, asked, worker.was_ready, overlaps, tail)


async def _gather(
    servers: ChaosServers, plan: Plan, caller: Caller, workers: Sequence[WorkerProcess], folder: Path
) -> Evidence:
    effects = [effect for worker in workers for effect in read_journal(worker.journal, worker.number)]
    connection = await _connect(servers)
    try:
        await store_effects(connection, effects)
        columns = ", ".join(JobRow._fields)
        jobs = [JobRow(*row) for row in await connection.fetch(f"SELECT {columns} FROM jobs")]  # noqa: S608 - our own names
        columns = ", ".join(ItemRow._fields)
        rows = [ItemRow(*row) for row in await connection.fetch(f"SELECT {columns} FROM job_items")]  # noqa: S608 - our own names
        changes = await load_changes(connection)
    finally:
        await connection.close()
    items: dict[UUID, list[ItemRow]] = {}
    for row in rows:
        items.setdefault(row.job_id, []).append(row)
    return Evidence(
        plans={job.id: job for job in plan.workload},
        told=caller.told,
        jobs={job.id: job for job in jobs},
        items=items,
        changes=changes,
        effects=effects,
        processes={worker.role: worker.pid for worker in workers},
        log_folder=folder,
    )
