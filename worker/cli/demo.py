"""``worker demo``: the whole product on real input, in one command."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from repositories.models import Job
from repositories.states import JobStatus
from worker.cli.ask import read_questions, tell
from worker.cli.context import environment, err, exit_with, fail, out, own_servers, run
from worker.cli.exits import Exit
from worker.cli.run import migrate
from worker.client import open_client
from worker.files import find_files
from worker.questions.report import ReportFiles, write_report
from worker.reports import build_report, failed_items
from worker.settings import Settings, load_settings
from worker.supervisor import Supervisor
from worker.telemetry import configure_logging
from worker.visible import one_line
from worker.watch import View, follow

EXAMPLES = Path("examples")
PROCESSES = 2


def demo(
    examples: Annotated[
        Path, typer.Option(help="A folder with handbook/ and questions.csv.", metavar="DIR")
    ] = EXAMPLES,
    report: Annotated[Path, typer.Option(help="Where the report is written.", metavar="DIR")] = Path("demo-report"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the workers' log lines.")] = False,
) -> None:
    """Upload the example handbook, ask its 40 questions, and write a report.

    Starts embedded PostgreSQL and Redis and two worker processes, enqueues an upload job and a question job that waits
    for it, and shows both until they end. Every number is what the engine really did.
    """
    exit_with(_demo(examples, report, as_json=as_json, verbose=verbose))


def _demo(examples: Path, report: Path, *, as_json: bool, verbose: bool) -> Exit:
    handbook, questions = examples / "handbook", examples / "questions.csv"
    if not handbook.is_dir() or not questions.is_file():
        fail(
            f"{examples} holds no handbook/ and questions.csv: run this in the clone, or name them with --examples",
            Exit.USAGE,
        )
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    _say("1  PostgreSQL, Redis and the schema", as_json=as_json)
    with own_servers(settings) as connected:
        run(migrate(connected))
        return run(_run(connected, handbook, questions, report, as_json=as_json, verbose=verbose))


async def _run(
    settings: Settings, handbook: Path, question_file: Path, folder: Path, *, as_json: bool, verbose: bool
) -> Exit:
    files, questions = find_files([handbook]), read_questions(question_file)
    # A workspace of its own each time: documents that are there already would only be skipped.
    workspace = f"Kestrel handbook {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
    _say(f"2  {PROCESSES} worker processes", as_json=as_json)
    supervisor = Supervisor(PROCESSES, environment(settings), settings.shutdown_grace_seconds, quiet=not verbose)
    async with supervisor, open_client(settings) as client:
        _say(f"3  upload {len(files)} files, then ask {len(questions.questions)} questions\n", as_json=as_json)
        upload = await client.upload_documents(workspace, files)
        asked = await client.process_questions(workspace, questions, depends_on=[upload.id])
        upload, asked = await follow(client, [upload.id, asked.id], out, View.JSON if as_json else View.AUTO)
        made = await build_report(client, asked.id, upload.id, "Kestrel handbook")
        written = write_report(folder, made)
        failed = failed_items(await client.items(upload.id))
    if as_json:
        summary = {"event": "totals", "report": str(written.html)} | made.totals.model_dump(mode="json")
        out.out(json.dumps(summary), highlight=False)
    else:
        out.print()
        for item in failed:
            err.print(f"{one_line(item.error or '')} [{item.error_code}]", style="red", highlight=False)
        tell(asked, made)
        _tell_report(written)
    return _exit(upload, asked)


def _exit(upload: Job, asked: Job) -> Exit:
    """Failed items do not fail the demo: one of the documents is broken on purpose."""
    return Exit.OK if upload.status is asked.status is JobStatus.COMPLETED else Exit.FAILED


def _say(text: str, *, as_json: bool) -> None:
    if not as_json:
        out.print(text, highlight=False)


def _tell_report(written: ReportFiles) -> None:
    out.print(f"\nreport: {written.html} (also .json and .csv)", highlight=False)
