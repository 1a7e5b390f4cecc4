"""The report files of a question job: a page for people, JSON for programs, CSV for a spreadsheet.

Promise: each file is complete or not there; a reader never sees half of one, and a failed write leaves the old one. All
three are made in memory before the first is written. What they say is :mod:`worker.questions.report_model`'s business,
how the page looks :mod:`worker.questions.report_html`'s.

In the CSV a cell that a spreadsheet would take for a formula gets a ``'`` in front (:func:`worker.visible.cell`): texts
of documents and engines are not trusted. Its first columns are the public ones
of the older question service, so code that reads those exports reads these.
"""

import csv
import io
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from worker.engines.base import Source
from worker.questions.report_html import render_html
from worker.questions.report_model import (
    AnswerableTotals,
    Latency,
    Report,
    ReportRow,
    Totals,
    UnanswerableTotals,
    UploadedFile,
    UploadSummary,
    totals,
)
from worker.visible import cell

__all__ = [
    "CSV_COLUMNS",
    "AnswerableTotals",
    "Latency",
    "Report",
    "ReportFiles",
    "ReportRow",
    "Totals",
    "UnanswerableTotals",
    "UploadSummary",
    "UploadedFile",
    "render_csv",
    "render_html",
    "totals",
    "write_report",
]

CSV_COLUMNS = (
    "question_id",
    "question_text",
    "response",
    "confidence_score",
    "processing_time",
    "success",
    "error",
    "fragments_found",
    "expected_fragments",
    "fragments_missing",
    "answerable",
    "status",
    "passed",
    "reason",
    "sources",
    "attempt",
    "error_code",
)


class ReportFiles(NamedTuple):
    """Where the files of one report are."""

    html: Path
    json: Path
    csv: Path


def write_report(folder: Path, report: Report) -> ReportFiles:
    """Write ``report.html``, ``report.json`` and ``report.csv`` into ``folder``, over those of an earlier report.

    Args:
        folder: made if it is not there, its parents included.
        report: what to write.

    Returns:
        Where they are, symbolic links on the way resolved. A link in the place of a file is replaced, not followed.

    Raises:
        NotADirectoryError: ``folder``, or a part of its path, is a file; nothing was written.
        OSError: the file system refused; files not yet replaced are as they were.
    """
    texts = render_html(report), report.model_dump_json(indent=2) + "\n", render_csv(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder} is not a folder: a file stands in its place; choose another folder"
        ) from error
    folder = folder.resolve()  # all three go to one place, whatever becomes of a link on the way to it
    files = ReportFiles(folder / "report.html", folder / "report.json", folder / "report.csv")
    for path, text in zip(files, texts, strict=True):
        _replace(path, text)
    return files


def render_csv(report: Report) -> str:
    """Return the rows of a report as CSV (RFC 4180) under :data:`CSV_COLUMNS`, without a byte order mark.

    ``confidence_score`` is the score, 0 to 1; ``processing_time`` is in seconds; ``success`` says that an answer or a
    refusal was had, ``passed`` that it was right.
    """
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(CSV_COLUMNS)
    table.writerows(map(cell, _cells(row)) for row in report.rows)
    return file.getvalue()


def _cells(row: ReportRow) -> tuple[str, ...]:
    return (
        row.id,
        row.question,
        row.answer,
        f"{row.score:.4g}",
        "" if row.latency_seconds is None else f"{row.latency_seconds:.3f}",
        _truth(row.status != "failed"),
        row.error or "",
        "; ".join(row.found),
        "; ".join(row.expected_fragments),
        "; ".join(row.missing),
        _truth(row.answerable),
        row.status,
        _truth(row.passed),
        row.reason or "",
        "; ".join(dict.fromkeys(map(_place, row.sources))),
        str(row.attempt),
        row.error_code or "",
    )


def _truth(value: bool) -> str:  # noqa: FBT001 - it is what is being written
    return "true" if value else "false"


def _place(source: Source) -> str:
    return source.document if source.page is None else f"{source.document} p. {source.page}"


def _replace(path: Path, text: str) -> None:
    """Write beside ``path``, then rename over it: one step for every reader."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name with no content
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
