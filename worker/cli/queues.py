"""``worker queues``: what waits in each queue; pause, resume and limit one."""

import getpass
import json
from typing import Annotated, Any

import typer
from rich.text import Text

from repositories.queues import KEEP, Keep, QueueSettings, QueueSummary
from worker.cli.console import Rows
from worker.cli.context import connected, fail, out, run
from worker.cli.exits import Exit
from worker.eta import in_words

app = typer.Typer(
    help="What waits in each queue; pause, resume and limit one.",
    rich_markup_mode="markdown",
    invoke_without_command=True,
)

Json = Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")]
Name = Annotated[str, typer.Argument(help="The queue's name.", metavar="NAME")]


@app.callback()
def queues(context: typer.Context, as_json: Json = False) -> None:
    """List the queues that hold live jobs, are paused or limited; or change one with a command below."""
    if context.invoked_subcommand is None:
        run(_list(as_json=as_json))


async def _list(*, as_json: bool) -> None:
    async with connected() as (client, _):
        found = await client.queues()
    if as_json:
        for queue in found:
            out.out(queue.model_dump_json(), highlight=False)
        return
    if not found:
        out.print("no queues: they come with the first job that names them")
        return
    table = Rows(box=None, pad_edge=False, header_style="dim")
    for name in ("queue", "waiting", "scheduled", "running", "oldest waits", "limits", "paused"):
        table.add_column(name, justify="right" if name in {"waiting", "scheduled", "running"} else "left")
    for queue in found:
        table.add_row(
            queue.name,
            str(queue.waiting),
            str(queue.scheduled),
            str(queue.running),
            "" if queue.oldest_waiting_seconds is None else in_words(queue.oldest_waiting_seconds),
            _limits(queue),
            Text(_paused(queue), style="yellow"),
        )
    out.print(table)


def _limits(queue: QueueSettings) -> str:
    limits = []
    if queue.max_running is not None:
        limits.append(f"{queue.max_running} at a time")
    if queue.max_per_minute is not None:
        limits.append(f"{queue.max_per_minute} a minute")
    return ", ".join(limits)


def _paused(queue: QueueSummary) -> str:
    if queue.paused_at is None:
        return ""
    reason = f": {queue.pause_reason}" if queue.pause_reason else ""
    return f"{queue.paused_at:%m-%d %H:%M:%S} by {queue.paused_by}{reason}"


@app.command()
def pause(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Why, for people.")] = None,
    by: Annotated[str | None, typer.Option(help="Who; by default the user of this machine.")] = None,
) -> None:
    """Let no job of a queue start. Running ones go on, and jobs can still be enqueued."""
    run(_pause(name, reason, by or getpass.getuser()))


async def _pause(name: str, reason: str | None, by: str) -> None:
    async with connected() as (client, _):
        await client.pause_queue(name, reason, by)
    out.print(f"{name} is paused", highlight=False)


@app.command()
def resume(name: Name) -> None:
    """Let a queue's jobs start again. Those that wait are handed to the workers at once."""
    run(_resume(name))


async def _resume(name: str) -> None:
    async with connected() as (client, _):
        was_paused = await client.resume_queue(name)
    out.print(f"{name} is resumed" if was_paused else f"{name} was not paused", highlight=False)


@app.command()
def limit(
    name: Name,
    max_running: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="So many jobs at a time, over all workers.")
    ] = None,
    max_per_minute: Annotated[
        int | None, typer.Option(min=1, max=600_000, help="So many starts in a minute, over all workers.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Take away the limits that are not given.")] = False,
    as_json: Json = False,
) -> None:
    """Limit a queue. A limit that is not given stays as it is; running jobs are never stopped."""
    if max_running is None and max_per_minute is None and not none:
        fail("which limit? give --max-running, --max-per-minute or --none", Exit.USAGE)
    other: Keep | None = None if none else KEEP
    limits = {
        "max_running": other if max_running is None else max_running,
        "max_per_minute": other if max_per_minute is None else max_per_minute,
    }
    run(_limit(name, limits, as_json=as_json))


async def _limit(name: str, limits: dict[str, Any], *, as_json: bool) -> None:
    async with connected() as (client, _):
        queue = await client.limit_queue(name, **limits)
    if as_json:
        told = {"name": name, "max_running": queue.max_running, "max_per_minute": queue.max_per_minute}
        out.out(json.dumps(told), highlight=False)
    else:
        out.print(f"{name}: {_limits(queue) or 'no limits'}", highlight=False)
