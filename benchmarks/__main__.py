"""The command: ``python -m benchmarks --help``."""

import asyncio
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.environments import EnvironmentFailedError, python_of
from benchmarks.machine import Watch, describe
from benchmarks.plan import MEASURES, Figure, Plan, Runner
from benchmarks.plots import draw
from benchmarks.report import as_markdown
from benchmarks.servers import bench_servers
from benchmarks.systems import SYSTEMS

RESULTS = Path(__file__).parent / "results"


def _names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"no such {what}: {unknown[0]!r}; known are {', '.join(known)}")
    return names


def main(  # noqa: PLR0913 - one parameter an option
    *,
    only: Annotated[str, typer.Option(help="Measures, with commas between.")] = ",".join(MEASURES),
    systems: Annotated[str, typer.Option(help="Systems, with commas between.")] = ",".join(SYSTEMS),
    jobs: Annotated[int, typer.Option(min=1_000, max=1_000_000, help="Jobs to drain at the fast systems.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Interleaved rounds.")] = 3,
    tries: Annotated[int, typer.Option(min=1, max=100, help="Kills for the recovery of the fast systems.")] = 20,
    quick: Annotated[bool, typer.Option("--quick", help="One round, few jobs: to see that it works.")] = False,
    durable: Annotated[bool, typer.Option(help="PostgreSQL syncs each commit, Redis its file each second.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as a table.")] = False,
    output: Annotated[Path, typer.Option(help="The folder for latest.json, latest.md and the plots.")] = RESULTS,
) -> None:
    """Measure this project and its peers side by side. What each figure means stands in benchmarks/README.md.

    Exit status: 0 everything was measured, 1 a measurement failed (named in the results), 2 wrong usage.
    """
    chosen = _names(systems, tuple(SYSTEMS), "system")
    measures = _names(only, MEASURES, "measure")
    plan = Plan(chosen, measures, jobs, rounds, latency_tries=60, recovery_tries=tries, outage_jobs=400)
    if quick:
        plan = Plan(chosen, measures, min(jobs, 4_000), 1, latency_tries=15, recovery_tries=2, outage_jobs=200)
    try:
        for name in chosen:
            python_of(SYSTEMS[name])
    except EnvironmentFailedError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(code=1) from None
    results = asyncio.run(_run(plan, durable=durable))
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    (output / "latest.json").write_text(text + "\n")
    table = as_markdown(results)
    (output / "latest.md").write_text(table)
    draw(results, output)
    typer.echo(text if as_json else table)
    failed = [figure for figure in results["figures"] if figure["error"]]
    for figure in failed:
        typer.echo(f"benchmarks: {figure['measure']} of {figure['system']}: {figure['error']}", err=True)
    sys.exit(1 if failed else 0)


async def _run(plan: Plan, *, durable: bool) -> dict[str, Any]:
    began = datetime.now(UTC)
    with bench_servers(durable=durable) as servers:
        machine = await describe(servers)
        with Watch(await servers.processes()) as watch:
            figures: list[Figure] = await Runner(plan, servers).run()
    return {
        "began_at": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds()),
        "machine": machine | watch.noise() | {"durable": durable},
        "plan": asdict(plan),
        "systems": {name: asdict(SYSTEMS[name]) for name in plan.systems},
        "figures": [asdict(figure) for figure in figures],
    }


if __name__ == "__main__":
    typer.run(main)
