"""Following jobs on a screen: a live table on a terminal, plain lines elsewhere, JSON for machines.

What is shown is what the record says; nothing is guessed but when a job starts or ends, which is told with its spread
and only once enough has ended to tell it from (:mod:`worker.eta`).
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from repositories.hot_status import JobStatusView
from repositories.models import Job
from repositories.states import JobStatus
from worker.client import JobClient
from worker.eta import Eta
from worker.visible import one_line

_PLAIN_STEP = 0.1
_REFRESH_PER_SECOND = 8
_FIGURES_SECONDS = 1.0

STYLES = {
    JobStatus.PENDING: "dim",
    JobStatus.QUEUED: "cyan",
    JobStatus.PROCESSING: "yellow",
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "magenta",
}


class View(StrEnum):
    """How to show jobs: ``auto`` is live on a terminal and plain elsewhere."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


async def follow(client: JobClient, ids: Sequence[UUID], console: Console, view: View = View.AUTO) -> list[Job]:
    """Show the jobs until all are final, and return them as they ended.

    Raises:
        NotFoundError: a job does not exist.
    """
    if view is View.AUTO and console.is_terminal:
        await _follow_live(client, ids, console)
    else:
        await _follow_lines(client, ids, console, view)
    return [await client.status(job_id) for job_id in ids]


def facts(job: Job | JobStatusView) -> dict[str, Any]:
    """What machines are told of a job: one JSON object, its times in UTC."""
    return {
        "job_id": str(job.id),
        "type": job.type,
        "status": str(job.status),
        "workspace": job.workspace_id,
        "progress": round(job.progress, 1),
        "items_total": job.items_total,
        "items_done": job.items_done,
        "items_failed": job.items_failed,
        "items_skipped": job.items_skipped,
        "attempt": job.attempt,
        "worker_id": job.worker_id,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "completed_at": _iso(job.completed_at),
        "error": job.error if job.status.is_final else None,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds")


async def _follow_lines(client: JobClient, ids: Sequence[UUID], console: Console, view: View) -> None:
    told: dict[UUID, tuple[Any, ...]] = {}
    async for job in client.events(ids):
        if view is View.JSON:
            console.out(json.dumps({"event": "job", "at": _iso(datetime.now(UTC))} | facts(job)), highlight=False)
            continue
        # A line for each change of state, and for every tenth of the way.
        mark = (job.status, job.attempt, int(job.progress / 100 / _PLAIN_STEP))
        if told.get(job.id) != mark:
            told[job.id] = mark
            etas = {} if job.status.is_final else await client.eta([job.id])
            console.out(line(job, etas.get(job.id)), highlight=False)


def line(job: Job | JobStatusView, eta: Eta | None) -> str:
    """Tell where a job stands in one line, and when it starts or ends if that is known."""
    done = job.items_done + job.items_skipped
    failed = f", {job.items_failed} failed" if job.items_failed else ""
    of = f" {done}/{job.items_total}{failed}" if job.items_total else ""
    error = f": {one_line(job.error)}" if job.status in {JobStatus.FAILED, JobStatus.CANCELLED} and job.error else ""
    when = f", {in_time(eta)}" if eta else ""
    return f"{datetime.now(UTC):%H:%M:%S} {one_line(job.type)} {short(job.id)} {job.status}{of}{when}{error}"


def in_time(eta: Eta) -> str:
    """Say when a job starts or ends: ``ends in about 40 s (30 s to 1 min)``."""
    return f"{eta.event}s in {eta}"


def short(job_id: UUID) -> str:
    """The end of an id: UUIDv7 begin with the time, so ids made together differ only there."""
    return f"…{str(job_id)[-8:]}"


async def _follow_live(client: JobClient, ids: Sequence[UUID], console: Console) -> None:
    shown: dict[UUID, JobStatusView] = {}
    positions: dict[UUID, int] = {}
    etas: dict[UUID, Eta] = {}

    async def read_figures() -> None:
        while True:
            live = [job for job in shown.values() if not job.status.is_final]
            places = await client.positions([job.id for job in live if job.status is JobStatus.QUEUED])
            times = await client.eta([job.id for job in live])
            positions.clear()
            positions.update(places)
            etas.clear()
            etas.update(times)
            await asyncio.sleep(_FIGURES_SECONDS)

    reader = asyncio.create_task(read_figures())
    try:
        with Live(
            get_renderable=lambda: _table([shown[job_id] for job_id in ids if job_id in shown], positions, etas),
            console=console,
            refresh_per_second=_REFRESH_PER_SECOND,
        ):
            async for job in client.events(ids):
                shown[job.id] = job
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


def _table(jobs: Sequence[Job | JobStatusView], positions: dict[UUID, int], etas: dict[UUID, Eta]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "state", "progress", "done", "failed", "try", "worker", "queue", "elapsed", "expected"):
        table.add_column(name, justify="right" if name in {"done", "failed", "try", "queue", "elapsed"} else "left")
    for job in jobs:
        table.add_row(*_row(job, positions.get(job.id), etas.get(job.id)))
    return table


def _row(job: Job | JobStatusView, position: int | None, eta: Eta | None) -> list[Any]:
    finished = job.items_done + job.items_failed + job.items_skipped
    style = STYLES[job.status]
    bar = ProgressBar(total=max(job.items_total, 1), completed=finished, width=24, complete_style=style)
    elapsed = _elapsed_seconds(job)
    return [
        one_line(f"{job.type} {short(job.id)}"),
        Text(str(job.status), style=style),
        bar,
        f"{job.items_done + job.items_skipped}/{job.items_total}" if job.items_total else "",
        Text(str(job.items_failed), style="red" if job.items_failed else "dim") if job.items_total else "",
        str(job.attempt) if job.attempt else "",
        one_line(job.worker_id or ""),
        str(position) if position is not None else "",
        _clock(elapsed),
        in_time(eta) if eta is not None and not job.status.is_final else "",
    ]


def _elapsed_seconds(job: Job | JobStatusView) -> float | None:
    if job.started_at is None:
        return None
    return ((job.completed_at or datetime.now(UTC)) - job.started_at).total_seconds()


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    return f"{minutes}:{rest:02d}"
