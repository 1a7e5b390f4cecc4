"""How the repository's operations hold when `jobs` grows: the same calls at ten thousand and at five million rows.

``python -m benchmarks.repository_scale`` starts a PostgreSQL of its own in a temporary folder, or uses DATABASE_URL if
that names an empty database; it needs about 2 GB of disk for each million rows. ``benchmarks/README.md`` explains the
table.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from rich.console import Console
from sqlalchemy import URL, make_url

from benchmarks.scale.cleaning import clean
from benchmarks.scale.filling import fill, roll_up, settle
from benchmarks.scale.measuring import WARM_UP, timed_reads
from benchmarks.scale.operations import Lives, Sample, exempt, reads
from benchmarks.scale.report import AtSize, RolledUp, plain, show, write, write_plans
from repositories.database import DatabaseManager
from repositories.embedded import embedded_servers
from repositories.migrations import upgrade

RESULTS = Path(__file__).parent / "results"
SIZES = """
SELECT relname, pg_relation_size(oid) FROM pg_class
WHERE oid = ANY (ARRAY['jobs', 'statistics', 'statistics_days', 'statistics_created']::regclass[])
   OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'jobs'::regclass) ORDER BY relkind DESC, relname
"""
ROLLED_UP = """
SELECT (SELECT count(*) FROM statistics), (SELECT count(*) FROM statistics_days),
       (SELECT count(*) FROM statistics_created), count(*) AS since
FROM jobs WHERE completed_at >= (SELECT max(hour) + interval '1 hour' FROM statistics WHERE scope = 'all')
"""
EMPTY = "SELECT count(*) = 0 FROM pg_class WHERE relnamespace = 'public'::regnamespace"


class Place(NamedTuple):
    """A filled database: what was measured of it so far, and the ways to it."""

    at: AtSize
    database: DatabaseManager
    connection: asyncpg.Connection


@asynccontextmanager
async def filled(url: str, finished: int, live: int, console: Console) -> AsyncIterator[Place]:
    """Fill the empty database at ``url`` and keep it open."""
    connection = await asyncpg.connect(_plain(make_url(url)), server_settings={"jit": "off"})
    try:
        if not await connection.fetchval(EMPTY):
            raise SystemExit(f"the database {make_url(url).database} is not empty: give an empty one, or none")
        async with DatabaseManager(url, pool_size=4) as database:
            await upgrade(database.engine)
            console.print(f"filling {finished:,} finished and {live:,} live jobs ...")
            seconds = await fill(connection, finished, live)
            rolling = await roll_up(database)
            await settle(connection)
            console.print(f"  {seconds:.0f} s, and {rolling:.1f} s for the statistics of all hours")
            yield Place(await described(connection, finished, live, seconds, rolling), database, connection)
    finally:
        await connection.close()


async def described(connection: asyncpg.Connection, finished: int, live: int, filling: float, rolling: float) -> AtSize:
    """What is known of a filled database before anything is measured."""
    rolled_up = RolledUp(*await connection.fetchrow(ROLLED_UP))
    return AtSize(finished, live, filling, rolling, rolled_up, dict(await connection.fetch(SIZES)))


async def compare(places: Sequence[Place], runs: int, explains: Path | None) -> None:
    """Measure every operation on each database in turn, and keep the plans."""
    databases = [place.database for place in places]
    samples = [await Sample.of(database) for database in databases]
    plans: list[dict[str, list[str]]] = [{} for _ in places]
    for which, operations, times in (
        ("timings", [reads(sample) for sample in samples], runs),
        ("exempt", [exempt() for _ in samples], 3),
    ):
        for name in operations[0]:
            measured = await timed_reads(databases, name, [calls[name] for calls in operations], times)
            for place, found, (timing, texts) in zip(places, plans, measured, strict=True):
                getattr(place.at, which).append(timing)
                found[name] = texts
    lives = [Lives(database) for database in databases]
    for life, found in zip(lives, plans, strict=True):
        found.update(await life.plans())
    for _ in range(runs + WARM_UP):
        for life in lives:
            await life.run()
    for place, life, found in zip(places, lives, plans, strict=True):
        place.at.timings += life.timings()
        if explains is not None:
            write_plans(explains, place.at.finished, found)


def _plain(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def run(
    sizes: Sequence[tuple[int, int]], runs: int, explains: Path | None, *, cleaning: bool, console: Console
) -> list[AtSize]:
    """Fill a database of each size, compare them, and turn the last one over by cleaning up."""
    given = os.environ.get("DATABASE_URL")
    if given and len(sizes) > 1:
        raise SystemExit("one database holds one size: give --rows a single number, or unset DATABASE_URL")
    async with AsyncExitStack() as stack:
        urls = [given] if given else await _own_databases(stack, len(sizes))
        places = [
            await stack.enter_async_context(filled(url, *size, console)) for url, size in zip(urls, sizes, strict=True)
        ]
        console.print("measuring ...")
        await compare(places, runs, explains)
        if cleaning:
            console.print("cleaning up, a third at a time ...")
            places[-1].at.cleaning = await clean(places[-1].database, places[-1].connection, runs)
    return [place.at for place in places]


async def _own_databases(stack: AsyncExitStack, count: int) -> list[str]:
    """Start a server for as long as the stack lasts and make empty databases there; return their URLs."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="repository-scale-", ignore_cleanup_errors=True))
    # Redis is not used: an address where nobody is asked for anything spares the start of one.
    servers = stack.enter_context(embedded_servers(Path(folder), redis_url="redis://127.0.0.1:1/0"))
    server = make_url(servers.database_url)
    connection = await asyncpg.connect(_plain(server))
    try:
        for number in range(count):
            await connection.execute(f"CREATE DATABASE scale_{number}")
    finally:
        await connection.close()
    return [server.set(database=f"scale_{number}").render_as_string(hide_password=False) for number in range(count)]


def about(measured: Sequence[AtSize], runs: int) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load": f"{os.getloadavg()[0]:.1f} at the end",
        "python": platform.python_version(),
        "runs": f"{runs} of each operation, warm, through the repository: SQLAlchemy and the network included",
        "statistics rows": "; ".join(
            f"{at.label}: {at.rolled_up.hours:,} of hours, {at.rolled_up.days:,} of days, "
            f"{at.rolled_up.created:,} by creation"
            for at in measured
        ),
        "ended since the roll-up": "; ".join(f"{at.label}: {at.rolled_up.since:,} jobs" for at in measured),
    }


def main() -> None:
    """Measure, print the table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,1000000,5000000", help="finished jobs: sizes, the smallest first")
    parser.add_argument("--live", type=int, default=100_000, help="live jobs at every size")
    parser.add_argument("--runs", type=int, default=25, help="runs of each operation, at least 15")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="10,000 and 100,000 rows, a tenth of the live jobs, 15 runs; writes nothing",
    )
    parser.add_argument("--no-cleanup", action="store_true", help="leave out the clean-up of the largest size")
    parser.add_argument("--json", action="store_true", help="print JSON for machines; progress goes to stderr")
    asked = parser.parse_args()
    finished = [10_000, 100_000] if asked.quick else [int(size) for size in asked.rows.split(",")]
    live, runs = (asked.live // 10, 15) if asked.quick else (asked.live, max(15, asked.runs))
    console = Console(stderr=asked.json)
    sizes = [(size, live) for size in finished]
    explains = None if asked.quick else RESULTS / "explains"
    measured = asyncio.run(run(sizes, runs, explains, cleaning=not asked.no_cleanup, console=console))
    facts = about(measured, runs)
    if not asked.quick:
        write(RESULTS, measured, facts)
    if asked.json:
        print(json.dumps(plain(measured, facts), indent=1))
    else:
        show(measured, console)


if __name__ == "__main__":
    main()
