"""``worker upload``: put files and folders into a workspace."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from repositories.models import DEFAULT_QUEUE, Job
from repositories.states import JobStatus
from worker.cli.context import connected, err, exit_with, out, run
from worker.cli.exits import Exit
from worker.files import find_files
from worker.reports import failed_items
from worker.watch import View, facts, follow

_MOST_SHOWN = 20

Queue = Annotated[str, typer.Option(help="Which queue the job stands in.")]


def upload(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders; zips are opened.", metavar="PATH...")],
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Its name; made if it is new.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    priority: Annotated[int, typer.Option(min=0, max=9, help="0 is first, 9 is last.")] = 5,
    queue: Queue = DEFAULT_QUEUE,
    as_json: Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")] = False,
) -> None:
    """Put documents into a workspace and make them searchable.

    A file that cannot be read or understood fails alone; the others go on. Without --wait the job's id is printed and
    the command ends at once. With --wait: status 3 if some files failed, 1 if the job failed.
    """
    exit_with(run(_upload(paths, workspace, wait=wait, as_json=as_json, priority=priority, queue=queue)))


async def _upload(paths: list[Path], workspace: str, *, wait: bool, as_json: bool, **fields: Any) -> Exit:
    files = find_files(paths)
    async with connected() as (client, _):
        job = await client.upload_documents(workspace, files, **fields)
        if not wait:
            out.out(json.dumps(facts(job)) if as_json else str(job.id), highlight=False)
            return Exit.OK
        if not as_json:
            err.print(f"{len(files)} files for {workspace!r}, job {job.id}", style="dim", highlight=False)
        started = time.monotonic()
        (job,) = await follow(client, [job.id], out, View.JSON if as_json else View.AUTO)
        seconds = time.monotonic() - started
        if not as_json:
            _summary(job, seconds)
            failed = failed_items(await client.items(job.id))
            for item in failed[:_MOST_SHOWN]:
                err.print(f"  {item.error} [{item.error_code}]", style="red", highlight=False)
            if len(failed) > _MOST_SHOWN:
                err.print(f"  and {len(failed) - _MOST_SHOWN} more: worker jobs show {job.id} --items", style="red")
        return ended(job)


def ended(job: Job) -> Exit:
    """The exit status that tells how a job ended."""
    if job.status is not JobStatus.COMPLETED:
        return Exit.FAILED
    return Exit.PARTLY if job.items_failed else Exit.OK


def _summary(job: Job, seconds: float) -> None:
    done = job.items_done + job.items_skipped
    table = Table.grid(padding=(0, 2))
    rate = f"{done / seconds:,.0f} documents/s" if seconds else ""
    table.add_row(
        f"{job.status}:",
        f"{job.items_done} stored",
        f"{job.items_skipped} were there already",
        f"{job.items_failed} failed",
        f"{seconds:.1f} s",
        rate,
    )
    out.print(table)
    if job.error and job.status is not JobStatus.COMPLETED:
        err.print(f"  {job.error}", style="red")
