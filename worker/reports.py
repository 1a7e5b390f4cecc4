"""From a question job's record to the report that a person reads."""

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from repositories.models import JobItem
from repositories.states import ItemStatus
from worker.client import JobClient
from worker.payloads import QuestionProcessingPayload
from worker.questions.report import Report, ReportRow, UploadedFile, UploadSummary


async def build_report(
    client: JobClient, question_job: UUID, upload_job: UUID | None = None, title: str | None = None
) -> Report:
    """Gather what the record says of a question job, and of the upload job that filled its workspace.

    Args:
        client: reads the record.
        question_job: the job whose answers are told.
        upload_job: told above them, if it belongs to the story.
        title: the heading (at most 200 characters); by default the workspace's name.

    Raises:
        NotFoundError: a job does not exist.
        pydantic.ValidationError: ``question_job`` is not a question job.
    """
    job = await client.status(question_job)
    payload = QuestionProcessingPayload.model_validate(job.payload)
    rows = [_row(item) for item in await client.items(job.id) if item.status is not ItemStatus.PENDING]
    return Report(
        title=title or payload.workspace[:200],
        generated_at=datetime.now(UTC),
        job_id=job.id,
        workspace=payload.workspace,
        engine=str((job.result or {}).get("engine", "")),
        question_set=payload.question_set,
        status=str(job.status),
        attempts=job.attempt,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        questions_in_set=len(payload.questions),
        upload=None if upload_job is None else await _upload(client, upload_job),
        rows=tuple(rows),
    )


def _row(item: JobItem) -> ReportRow:
    spec = item.spec
    known: dict[str, Any] = {
        "position": item.position,
        "id": spec["id"],
        "question": spec["text"],
        "expected_fragments": spec["expected_fragments"],
        "answerable": spec["answerable"],
        "latency_seconds": item.timings.get("ask"),
        "attempt": item.attempt,
        "error_code": item.error_code,
        "error": item.error,
    }
    if item.result is None:
        return ReportRow(status="failed", **known)
    answer, score = item.result["answer"], item.result["score"]
    status: Literal["refused", "answered"] = "refused" if answer["refused"] else "answered"
    return ReportRow(
        status=status,
        answer=answer["text"],
        sources=answer["sources"],
        passed=score["passed"],
        score=score["value"],
        found=score["found"],
        missing=score["missing"],
        reason=score["reason"],
        **known,
    )


async def _upload(client: JobClient, job_id: UUID) -> UploadSummary:
    job = await client.status(job_id)
    files = [_file(item) for item in await client.items(job_id)]
    return UploadSummary(
        job_id=job.id,
        workspace=job.workspace_id or "",
        items_total=job.items_total,
        items_done=job.items_done,
        items_failed=job.items_failed,
        items_skipped=job.items_skipped,
        bytes=sum(file.bytes or 0 for file in files if file.status == "done"),
        duration_seconds=job.duration_seconds,
        files=tuple(files),
    )


def _file(item: JobItem) -> UploadedFile:
    result = item.result or {}
    return UploadedFile(
        name=item.key,
        status=item.status.value,
        error_code=item.error_code,
        error=item.error,
        media_type=result.get("media_type"),
        bytes=result.get("bytes", item.spec.get("bytes")),
        pages=result.get("pages"),
        words=result.get("words"),
        passages=result.get("passages"),
    )


def failed_items(items: list[JobItem]) -> list[JobItem]:
    """The items that failed, in order."""
    return [item for item in items if item.status is ItemStatus.FAILED]
