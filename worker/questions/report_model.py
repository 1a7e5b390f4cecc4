"""What a report says: the rows, the facts around them, and the totals, which are always counted from the rows.

Promise: a :class:`Report` is plain data, the same as JSON and back. No figure in it can disagree with its rows, as
nobody can pass one in. How it looks is left to :mod:`worker.questions.report_html` and :mod:`worker.questions.report`.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, computed_field, model_validator

from worker.engines.base import Source
from worker.questions.scoring import Reason

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
MAX_ROWS = 10_000
MAX_FILES = 100_000


class Facts(BaseModel):
    """Base of everything here: frozen, so that totals once counted stay true."""

    model_config = ConfigDict(frozen=True)


class ReportRow(Facts):
    """One question and what came of it.

    Attributes:
        position: its place in the job, from 0.
        id, question, expected_fragments, answerable: as the question set has them.
        status: ``answered``, ``refused`` (the engine found nothing to answer from), ``failed`` (no answer was had).
        answer: the engine's words; empty if ``failed``.
        sources: what the answer rests on, best first.
        passed, score, found, missing, reason: the verdict of :func:`worker.questions.scoring.score`; a ``failed`` row
            has not passed, scores 0 and has no reason but its error.
        latency_seconds: from asking to the answer or error; ``None`` if never measured.
        attempt: the job's attempt that recorded this row, from 1.
        error_code, error: why it failed, for machines and for people.
    """

    position: Count
    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    expected_fragments: tuple[str, ...] = ()
    answerable: bool = True
    status: Literal["answered", "refused", "failed"]
    answer: str = ""
    sources: tuple[Source, ...] = ()
    passed: bool = False
    score: Share = 0.0
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    reason: Reason | None = None
    latency_seconds: Seconds | None = None
    attempt: int = Field(default=1, ge=1)
    error_code: str | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _a_failed_row_has_an_error_and_no_pass(self) -> Self:
        if self.status == "failed" and (self.passed or not self.error_code):
            raise ValueError(f"question '{self.id}' failed: its row needs an error_code and cannot have passed")
        return self

    @property
    def verdict(self) -> Literal["passed", "failed", "error"]:
        """What a reader asks first: did it pass, was the answer wrong, or was there no answer?"""
        if self.status == "failed":
            return "error"
        return "passed" if self.passed else "failed"


class UploadedFile(Facts):
    """One document of the upload job.

    Attributes:
        status: ``done``, ``failed``, ``skipped`` or, where the job has not come to it, ``pending``.
        bytes, pages, words, passages: sizes, where they are known.
    """

    name: str = Field(min_length=1)
    status: Literal["done", "failed", "skipped", "pending"]
    error_code: str | None = None
    error: str | None = None
    media_type: str | None = None
    bytes: Count | None = None
    pages: Count | None = None
    words: Count | None = None
    passages: Count | None = None


class UploadSummary(Facts):
    """The upload job that filled the workspace, as its record tells it."""

    job_id: UUID
    workspace: str
    items_total: Count
    items_done: Count
    items_failed: Count
    items_skipped: Count
    bytes: Count
    duration_seconds: Seconds | None = None
    files: tuple[UploadedFile, ...] = Field(default=(), max_length=MAX_FILES)


class AnswerableTotals(Facts):
    """Of the questions that the documents answer, how many passed; ``rate`` is ``None`` if there are none."""

    total: Count
    passed: Count
    rate: Share | None


class UnanswerableTotals(Facts):
    """Of the questions that the documents do not answer, how many were refused."""

    total: Count
    refused: Count
    rate: Share | None


class Latency(Facts):
    """Seconds to an answer or a refusal. Percentiles are nearest-rank: each is a time that some question took."""

    p50: Seconds
    p95: Seconds
    max: Seconds
    mean: Seconds


class Totals(Facts):
    """The figures at the head of a report.

    Attributes:
        questions: rows in all, and of these ``answered``, ``refused`` and ``failed``.
        passed: rows that passed; ``pass_rate`` is their share of all rows, failed ones included.
        latency: ``None`` if no answer or refusal was timed. Failed rows do not count: a time-out is not an answer.
        duration_seconds: from the start of the job to its end, by the clock; ``None`` while either is open.
    """

    questions: Count
    answered: Count
    refused: Count
    failed: Count
    passed: Count
    pass_rate: Share | None
    answerable: AnswerableTotals
    unanswerable: UnanswerableTotals
    latency: Latency | None
    duration_seconds: Seconds | None


def totals(
    rows: Sequence[ReportRow], started_at: datetime | None = None, completed_at: datetime | None = None
) -> Totals:
    """Count the figures of ``rows``; the two times give the duration and nothing else."""
    answerable = [row for row in rows if row.answerable]
    unanswerable = [row for row in rows if not row.answerable]
    right = sum(row.passed for row in answerable)
    refused_rightly = sum(row.status == "refused" for row in unanswerable)
    passed = sum(row.passed for row in rows)
    return Totals(
        questions=len(rows),
        answered=sum(row.status == "answered" for row in rows),
        refused=sum(row.status == "refused" for row in rows),
        failed=sum(row.status == "failed" for row in rows),
        passed=passed,
        pass_rate=_rate(passed, len(rows)),
        answerable=AnswerableTotals(total=len(answerable), passed=right, rate=_rate(right, len(answerable))),
        unanswerable=UnanswerableTotals(
            total=len(unanswerable), refused=refused_rightly, rate=_rate(refused_rightly, len(unanswerable))
        ),
        latency=_latency(
            [row.latency_seconds for row in rows if row.status != "failed" and row.latency_seconds is not None]
        ),
        # Two machines' clocks may differ by a moment; a negative duration helps nobody.
        duration_seconds=max(0.0, (completed_at - started_at).total_seconds()) if started_at and completed_at else None,
    )


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _latency(seconds: list[float]) -> Latency | None:
    if not seconds:
        return None
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[ceil(share * len(ordered)) - 1]

    return Latency(p50=rank(0.5), p95=rank(0.95), max=ordered[-1], mean=sum(ordered) / len(ordered))


class Report(Facts):
    """Everything a report tells.

    Attributes:
        title: its heading.
        generated_at: when the facts were gathered.
        job_id, status, attempts, created_at, started_at, completed_at: the question job's record.
        workspace, engine: where was asked, and which engine answered.
        question_set: the name of the file the questions came from.
        questions_in_set: how many questions the job has, if more than were asked so far.
        warnings: what reading the question set noted.
        upload: the job that filled the workspace, if it belongs to the story.
        rows: one a question that is over, in the order of ``position``.
        totals: counted from ``rows``; ignored when a report is read back.
    """

    title: str = Field(min_length=1, max_length=200)
    generated_at: AwareDatetime
    job_id: UUID
    workspace: str
    engine: str
    question_set: str
    status: str
    attempts: Count
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    questions_in_set: Count | None = None
    warnings: tuple[str, ...] = ()
    upload: UploadSummary | None = None
    rows: tuple[ReportRow, ...] = Field(default=(), max_length=MAX_ROWS)

    @model_validator(mode="after")
    def _rows_are_in_order(self) -> Self:
        positions = [row.position for row in self.rows]
        if any(later <= earlier for earlier, later in pairwise(positions)):
            raise ValueError("the rows of a report come in the order of their positions, each once")
        return self

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @cached_property
    def totals(self) -> Totals:
        """The figures at the head, counted from the rows."""
        return totals(self.rows, self.started_at, self.completed_at)
