"""Retention at work: a third of the finished jobs is deleted, in batches, while others write, claim and finish.

Then, whether the room that it leaves is used again: two more thirds, with as many new jobs written after each, so that
in the end the table has been turned over once.
"""

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
ROUNDS = 3
NEW_DAYS = 0.01  # the time over which the new jobs are spread: they are the newest, in the order of their creation
BEFORE, DELETED, WRITTEN = "before", "deleted", "as many written"
SIZES = """
SELECT relname, pg_relation_size(oid) FROM pg_class
WHERE oid = 'jobs'::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'jobs'::regclass)
"""


@dataclass
class Cleaning:
    """What the clean-up took and left.

    Attributes:
        deleted: rows in the first round; ``seconds`` for all of them, ``batch_ms_p95`` for a batch of 1,000.
        sizes: the moment to the bytes of the table and of each of its indexes, by name.
        during: writing, claiming and finishing 500 at a time in the first round; ``apart``: the same without it.
    """

    deleted: int = 0
    seconds: float = 0.0
    batch_ms_p95: float = 0.0
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    apart: list[Timing] = field(default_factory=list)
    during: list[Timing] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


async def clean(database: DatabaseManager, connection: asyncpg.Connection, runs: int) -> Cleaning:
    """Measure a clean-up of the oldest third beside writers, then what three rounds make of the sizes."""
    found = Cleaning()
    began = time.monotonic()

    async def note(moment: str) -> None:
        found.sizes[moment] = dict(await connection.fetch(SIZES))

    quiet = Lives(database)
    for _ in range(runs + WARM_UP):
        await quiet.run()
    found.apart = quiet.timings()
    await connection.execute("SET statement_timeout = 0")
    await note(BEFORE)
    for number in range(1, ROUNDS + 1):
        # The last round takes the rest of those that were there at first, and none of the new ones.
        since = timedelta(days=NEW_DAYS, seconds=time.monotonic() - began)
        age = max(since, timedelta(days=DAYS * (1 - number / ROUNDS)))
        deleting = asyncio.create_task(_delete(database, age))
        if number == 1:
            busy = Lives(database)
            while not deleting.done():
                await busy.run()
            found.during = busy.timings()
        batches, deleted = await deleting
        if number == 1:
            found.deleted, found.seconds = deleted, round(sum(batches), 1)
            found.batch_ms_p95 = round(1_000 * sorted(batches)[int(0.95 * (len(batches) - 1))], 1)
        await connection.execute("VACUUM (ANALYZE) jobs")
        await note(f"round {number}: {DELETED}")
        await refill(connection, deleted, NEW_DAYS, 0.0)
        await note(f"round {number}: {WRITTEN}")
    return found


async def _delete(database: DatabaseManager, age: timedelta) -> tuple[list[float], int]:
    """Delete what ended longer than ``age`` ago; return the seconds of each batch, and how many rows went."""
    seconds, deleted, gone = list[float](), 0, BATCH
    while gone == BATCH:
        start = time.perf_counter()
        async with database.get_transaction() as session:
            gone = await JobRepository(session).cleanup(age, BATCH)
        seconds.append(time.perf_counter() - start)
        deleted += gone
    return seconds, deleted
