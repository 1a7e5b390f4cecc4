"""Retention at work: a third of the finished jobs is deleted, in batches, while others write, claim and finish."""

import asyncio
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg

from benchmarks.scale.filling import DAYS, refill
from benchmarks.scale.measuring import WARM_UP, Timing
from benchmarks.scale.operations import Lives
from repositories.database import DatabaseManager
from repositories.jobs import JobRepository

BATCH = 1_000
THIRD = timedelta(days=DAYS * 2 / 3)
SIZES = "SELECT pg_relation_size('jobs'), pg_indexes_size('jobs')"


@dataclass
class Cleaning:
    """What a clean-up took and left. Sizes are bytes of the table and of all its indexes.

    Attributes:
        deleted: rows; ``seconds`` for all of them, ``batch_ms_p95`` for a batch of 1,000.
        sizes: the moment to (table, indexes).
        during: writing, claiming and finishing 500 at a time meanwhile; ``apart``: the same without the clean-up.
    """

    deleted: int = 0
    seconds: float = 0.0
    batch_ms_p95: float = 0.0
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    apart: list[Timing] = field(default_factory=list)
    during: list[Timing] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


async def clean(database: DatabaseManager, connection: asyncpg.Connection, runs: int) -> Cleaning:
    """Measure a clean-up of the oldest third, and whether as many new rows fit into the room it leaves."""
    found = Cleaning()

    async def note(moment: str) -> None:
        table, indexes = await connection.fetchrow(SIZES)
        found.sizes[moment] = (table, indexes)

    quiet = Lives(database)
    for _ in range(runs + WARM_UP):
        await quiet.run()
    found.apart = quiet.timings()
    await note("before")
    deleting = asyncio.create_task(_delete(database, found))
    busy = Lives(database)
    while not deleting.done():
        await busy.run()
    await deleting
    found.during = busy.timings()
    await note("after the clean-up")
    await connection.execute("SET statement_timeout = 0")
    await connection.execute("VACUUM (ANALYZE) jobs")
    await note("after VACUUM")
    await refill(connection, found.deleted, 0.01, 0.0)  # at the end, as new jobs are
    await note("after as many new rows")
    return found


async def _delete(database: DatabaseManager, found: Cleaning) -> None:
    began, batches = time.perf_counter(), list[float]()
    gone = BATCH
    while gone == BATCH:
        start = time.perf_counter()
        async with database.get_transaction() as session:
            gone = await JobRepository(session).cleanup(THIRD, BATCH)
        batches.append(time.perf_counter() - start)
        found.deleted += gone
    found.seconds = round(time.perf_counter() - began, 1)
    found.batch_ms_p95 = round(1_000 * sorted(batches)[int(0.95 * (len(batches) - 1))], 1)
