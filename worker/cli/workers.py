"""``worker workers``: which worker processes live."""

from typing import Annotated

import typer

from worker.cli.console import Rows
from worker.cli.context import connected, out, run
from worker.eta import in_words


def workers(
    as_json: Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")] = False,
) -> None:
    """List the worker processes that live. One that is killed is listed for up to ten seconds more."""
    run(_workers(as_json=as_json))


async def _workers(*, as_json: bool) -> None:
    async with connected() as (client, _):
        live = await client.workers()
    if as_json:
        for worker in live:
            out.out(worker.model_dump_json(), highlight=False)
        return
    if not live:
        out.print("no worker lives: start one with `worker run`")
        return
    table = Rows(box=None, pad_edge=False, header_style="dim")
    for name in ("worker", "host", "process", "version", "running", "queues", "job types", "up for"):
        table.add_column(name, justify="right" if name in {"process", "running"} else "left")
    for worker in live:
        table.add_row(
            worker.id,
            worker.host,
            str(worker.pid),
            worker.version,
            f"{worker.running}/{worker.concurrency}",
            ", ".join(worker.queues),
            ", ".join(worker.job_types),
            # Both by the worker's own clock: this machine's may be another.
            in_words(max(0.0, (worker.beat_at - worker.started_at).total_seconds())),
        )
    out.print(table)
