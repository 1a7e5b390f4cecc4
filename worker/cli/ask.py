"""``worker ask``: ask a question set against a workspace."""

import json
from pathlib import Path
from typing import Annotated

import typer

from repositories.models import Job
from repositories.queue_names import DEFAULT_QUEUE
from worker.cli.context import connected, err, exit_with, out, run
from worker.cli.exits import Exit
from worker.cli.upload import Queue, ended
from worker.questions.question_set import QuestionSet, read_question_set
from worker.questions.report import Report, write_report
from worker.reports import build_report
from worker.settings import SettingsError
from worker.visible import one_line
from worker.watch import View, facts, follow


def ask(
    file: Annotated[Path, typer.Argument(help="CSV with the columns question and expected_fragments.", metavar="FILE")],
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Its name; it must exist.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write report.html, .json and .csv into this folder (waits).", metavar="DIR")
    ] = None,
    queue: Queue = DEFAULT_QUEUE,
    as_json: Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")] = False,
) -> None:
    """Ask every question of a file, and score the answers.

    Columns: question, expected_fragments (separated by ;), and optionally id and answerable (yes or no: whether the
    right answer is a refusal).
    """
    exit_with(run(_ask(file, workspace, wait=wait, report=report, queue=queue, as_json=as_json)))


def read_questions(file: Path) -> QuestionSet:
    """Read a question file, and say on stderr what was skipped.

    Raises:
        QuestionSetError: it cannot be taken; the message names every line to mend.
        SettingsError: it cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{one_line(str(file))} cannot be read: {error.strerror}") from None
    questions = read_question_set(content, file.name)
    for warning in questions.warnings:
        err.print(f"{one_line(file.name)}: {one_line(str(warning))}", style="yellow", highlight=False)
    return questions


async def _ask(file: Path, workspace: str, *, wait: bool, report: Path | None, queue: str, as_json: bool) -> Exit:
    questions = read_questions(file)
    async with connected() as (client, _):
        job = await client.process_questions(workspace, questions, queue=queue)
        if not wait and report is None:
            out.out(json.dumps(facts(job)) if as_json else str(job.id), highlight=False)
            return Exit.OK
        (job,) = await follow(client, [job.id], out, View.JSON if as_json else View.AUTO)
        made = await build_report(client, job.id)
        if report is not None:
            files = write_report(report, made)
            err.print(f"report: {files.html}", highlight=False)
        if as_json:
            out.out(json.dumps({"event": "totals"} | made.totals.model_dump(mode="json")), highlight=False)
        else:
            tell(job, made)
        return ended(job)


def tell(job: Job, report: Report) -> None:
    """Print the totals of a question job."""
    totals = report.totals
    out.print(
        f"{totals.questions} questions: {totals.answered} answered, {totals.refused} refused, {totals.failed} failed",
        highlight=False,
    )
    answerable, unanswerable = totals.answerable, totals.unanswerable
    if answerable.rate is not None:
        out.print(
            f"  answerable: {answerable.passed} of {answerable.total} passed ({answerable.rate:.0%})", highlight=False
        )
    if unanswerable.rate is not None:
        out.print(
            f"  unanswerable: {unanswerable.refused} of {unanswerable.total} rightly refused ({unanswerable.rate:.0%})",
            highlight=False,
        )
    if totals.latency is not None:
        out.print(
            f"  an answer took {totals.latency.p50 * 1000:.0f} ms (median), {totals.latency.p95 * 1000:.0f} ms (p95)",
            highlight=False,
        )
    if job.error and job.status.is_final and not totals.questions:
        err.print(f"  {one_line(job.error)}", style="red")
