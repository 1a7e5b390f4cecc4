"""``worker jobs``: list, show, tell the status and why, watch, cancel and retry."""

import json
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from repositories.base import as_uuid
from repositories.errors import NotFoundError
from repositories.models import Job
from repositories.schemas import JobFilters, Outcome, PaginationParams
from repositories.states import ItemStatus, JobStatus
from worker.cli.console import Rows
from worker.cli.context import connected, err, exit_with, out, run
from worker.cli.exits import Exit
from worker.cli.upload import ended
from worker.client import NothingToRetryError
from worker.manifest import as_table, item_facts
from worker.reasons import Reason
from worker.visible import one_line
from worker.watch import STYLES, View, facts, follow, line

app = typer.Typer(
    help="List, show, explain, watch, cancel and retry jobs.", no_args_is_help=True, rich_markup_mode="markdown"
)

Json = Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")]
JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="ID")]
JobIds = Annotated[list[str], typer.Argument(help="The jobs' ids.", metavar="ID...")]


@app.command("list")
def list_jobs(
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only these states; may be given twice.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Only this workspace.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    size: Annotated[int, typer.Option(min=1, max=100, help="Jobs on a page.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    filters = JobFilters(status=status or None, type=job_type, workspace_id=workspace, queue=queue)
    run(_list(filters, PaginationParams(page=page, size=size), as_json=as_json))


async def _list(filters: JobFilters, pagination: PaginationParams, *, as_json: bool) -> None:
    async with connected() as (client, _):
        jobs, total = await client.list_jobs(filters, pagination)
        positions = await client.positions([job.id for job in jobs if job.status is JobStatus.QUEUED])
    if as_json:
        for job in jobs:
            out.out(json.dumps(facts(job) | {"queue_position": positions.get(job.id)}), highlight=False)
        return
    if not jobs:
        out.print("no jobs" if total == 0 else f"page {pagination.page} is empty: there are {total} jobs")
        return
    table = Rows(box=None, pad_edge=False, header_style="dim")
    for name in ("id", "type", "workspace", "state", "done", "failed", "queue", "created (UTC)"):
        table.add_column(name, no_wrap=name in {"id", "type", "state", "created (UTC)"}, overflow="ellipsis")
    for job in jobs:
        table.add_row(
            str(job.id),
            job.type,
            job.workspace_id or "",
            Text(str(job.status), style=STYLES[job.status]),
            f"{job.items_done + job.items_skipped}/{job.items_total}" if job.items_total else "",
            str(job.items_failed or ""),
            str(positions.get(job.id, "")),
            f"{job.created_at:%m-%d %H:%M:%S}",
        )
    out.print(table)
    if total > len(jobs):
        err.print(f"{len(jobs)} of {total}; --page {pagination.page + 1} for the next", style="dim")


@app.command()
def show(
    job_id: JobId,
    items: Annotated[bool, typer.Option("--items", help="Every document or question as well.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Only the items, as a table for a spreadsheet.")] = False,
    as_json: Json = False,
) -> None:
    """Show all that is known of one job."""
    run(_show(job_id, items=items, as_csv=as_csv, as_json=as_json))


async def _show(job_id: str, *, items: bool, as_csv: bool, as_json: bool) -> None:
    async with connected() as (client, _):
        job = await client.status(job_id)
        positions = await client.positions([job.id])
        found = await client.items(job.id) if items or as_csv else []
    if as_csv:
        out.out(as_table(found), highlight=False, end="")
        return
    known: dict[str, Any] = facts(job) | {
        "priority": job.priority,
        "queue_position": positions.get(job.id) if job.status is JobStatus.QUEUED else None,
        "queue": job.queue,
        "scheduled_at": str(job.scheduled_at) if job.scheduled_at and not job.is_parked else None,
        "failures": f"{job.failures} of {job.max_attempts}",
        "crashes": f"{job.crashes} of {job.max_crashes}",
        "depends_on": [str(parent) for parent in job.depends_on],
        "metadata": job.job_metadata,
        "errors": job.errors,
        "result": job.result,
    }
    if as_json:
        out.out(json.dumps(known, default=str), highlight=False)
        for item in found:
            out.out(json.dumps(item_facts(item), default=str), highlight=False)
        return
    table = Rows.grid(padding=(0, 2))
    for name, value in known.items():
        if value not in (None, [], {}, ""):
            text = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
            table.add_row(name, text)
    out.print(table)
    for item in found:
        tail = f"  {one_line(item.error or '')} [{item.error_code}]" if item.status is ItemStatus.FAILED else ""
        out.print(f"  {item.position:>5}  {item.status:<8} {one_line(item.key)}{tail}", highlight=False)


@app.command()
def status(job_ids: JobIds, as_json: Json = False) -> None:
    """Tell in a line each where jobs stand, and when they start or end, as far as their pace tells."""
    run(_status(job_ids, as_json=as_json))


async def _status(job_ids: Sequence[str], *, as_json: bool) -> None:
    ids = _ids(job_ids)
    async with connected() as (client, _):
        jobs = [await client.status(job_id) for job_id in ids]
        positions = await client.positions([job.id for job in jobs if job.status is JobStatus.QUEUED])
        etas = await client.eta([job.id for job in jobs])
    for job in jobs:
        eta = etas.get(job.id)
        if as_json:
            told = {"queue_position": positions.get(job.id), "eta": eta.model_dump(mode="json") if eta else None}
            out.out(json.dumps(facts(job) | told), highlight=False)
        else:
            out.out(line(job, eta), highlight=False)


@app.command()
def why(job_id: JobId, as_json: Json = False) -> None:
    """Say why a job is not running, or what became of it. Status 1 if there is no such job."""
    exit_with(run(_why(job_id, as_json=as_json)))


async def _why(job_id: str, *, as_json: bool) -> Exit:
    async with connected() as (client, _):
        told = await client.why(job_id)
    out.out(told.model_dump_json() if as_json else one_line(told.sentence), highlight=False)
    return Exit.FAILED if told.reason is Reason.UNKNOWN else Exit.OK


@app.command()
def watch(job_ids: JobIds, as_json: Json = False) -> None:
    """Follow jobs until they end. Ctrl-C stops watching; the jobs go on."""
    exit_with(run(_watch(job_ids, as_json=as_json)))


async def _watch(job_ids: Sequence[str], *, as_json: bool) -> Exit:
    async with connected() as (client, _):
        jobs: list[Job] = await follow(client, _ids(job_ids), out, View.JSON if as_json else View.AUTO)
    return max((ended(job) for job in jobs), key=lambda status: (status is Exit.FAILED, status))


@app.command()
def cancel(
    job_ids: JobIds,
    reason: Annotated[str | None, typer.Option(help="Kept on the job, for people.")] = None,
    as_json: Json = False,
) -> None:
    """Cancel jobs. One that runs stops at its next item and keeps what is done. Status 1 if some were refused."""
    exit_with(run(_cancel(job_ids, reason, as_json=as_json)))


async def _cancel(job_ids: Sequence[str], reason: str | None, *, as_json: bool) -> Exit:
    async with connected() as (client, _):
        outcome = await client.cancel(_ids(job_ids), reason)
    return _tell("cancel", outcome, {JobStatus.PROCESSING: "stopping"}, as_json=as_json)


@app.command()
def retry(
    job_ids: JobIds,
    failed_items: Annotated[
        bool,
        typer.Option("--failed-items", help="Make a new job of only the failed items of each, also of completed jobs."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Queue failed or cancelled jobs again. Items that are done are kept. Status 1 if some were refused."""
    work = _retry_failed_items if failed_items else _retry
    exit_with(run(work(job_ids, as_json=as_json)))


async def _retry_failed_items(job_ids: Sequence[str], *, as_json: bool) -> Exit:
    refused = False
    async with connected() as (client, _):
        for job_id in _ids(job_ids):
            try:
                job = await client.retry_failed_items(job_id)
            except NothingToRetryError as error:
                refused = True
                err.print(f"worker jobs retry: {one_line(str(error))}", style="red", highlight=False)
            else:
                out.out(json.dumps(facts(job)) if as_json else f"{job.id}  {job.status}", highlight=False)
    return Exit.FAILED if refused else Exit.OK


async def _retry(job_ids: Sequence[str], *, as_json: bool) -> Exit:
    async with connected() as (client, _):
        outcome = await client.retry(_ids(job_ids))
    return _tell("retry", outcome, {}, as_json=as_json)


def _tell(verb: str, outcome: Outcome, words: dict[JobStatus, str], *, as_json: bool) -> Exit:
    for job_id, status in outcome.moved.items():
        word = words.get(status, str(status))
        out.out(
            json.dumps({"job_id": str(job_id), "status": word}) if as_json else f"{job_id}  {word}", highlight=False
        )
    for error in outcome.refused.values():
        err.print(f"worker jobs {verb}: {one_line(str(error))}", style="red", highlight=False)
    return Exit.FAILED if outcome.refused else Exit.OK


def _ids(texts: Sequence[str]) -> list[UUID]:
    """The ids as UUIDs; text that is none names no job.

    Raises:
        NotFoundError: one is no id.
    """
    found = []
    for text in texts:
        job_id = as_uuid(text)
        if job_id is None:
            raise NotFoundError("job", f"{text} (an id looks like 01a20c21-c349-77ee-a3f8-36c03af62079)")
        found.append(job_id)
    return found
