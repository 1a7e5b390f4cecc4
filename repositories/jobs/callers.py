"""Caller-driven jobs: a caller makes a job without payload and reports on it itself. No worker ever takes one."""

import math
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, case, cast, func, or_, update
from sqlalchemy.dialects.postgresql import JSONB

from repositories.base import as_uuid
from repositories.errors import InvalidValueError, NotFoundError, translated
from repositories.jobs.core import NOW, with_error
from repositories.jobs.requests import Asking
from repositories.models import CALLER, Job
from repositories.recordable import LONGEST_MESSAGE, cleaned
from repositories.schemas import JobUpdate, Outcome
from repositories.states import JobStatus, Verb, sources


class CallerDriven(Asking):
    """The one method through which a caller moves its own job."""

    async def update_job_status(
        self,
        job_id: UUID | str,
        status: JobStatus,
        progress: float | None = None,
        result: dict[str, Any] | None = None,
        error: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Job:
        """Report on a job that the caller drives.

        ``processing`` claims the job for its caller with a lease of the job's timeout; again, it writes progress and
        renews the lease. When the lease runs out the job fails with ``caller_lost``.

        Args:
            job_id: the job.
            status: where it is now.
            progress: 0 to 100; values outside are clamped, and it never goes backwards.
            result: kept on the record as it is.
            error: appended to the job's errors.
            metadata: merged into the job's metadata, key by key.

        Raises:
            NotFoundError: there is no such job.
            InvalidValueError: ``progress`` is no number, or a part of ``result`` or ``metadata`` no JSON.
            InvalidTransitionError: the job cannot become ``status``, or a worker holds it.
        """
        key = as_uuid(job_id)
        if key is None:
            raise NotFoundError("job", job_id)
        if status is JobStatus.CANCELLED:
            return await self.cancel_job(key, error)
        said = None if error is None else cleaned(error, LONGEST_MESSAGE)
        report = JobUpdate(status=status, result=result, error=said, metadata=metadata)
        allowed = sources(Verb.REPORT, status)
        if status is JobStatus.PROCESSING:
            allowed = [*allowed, JobStatus.PROCESSING]  # a further report, not a transition
        with translated():
            moved = await self.session.scalar(
                update(Job)
                .where(
                    Job.id == key,
                    Job.status.in_(allowed),
                    Job.payload.is_(None),
                    or_(Job.worker_id.is_(None), Job.worker_id == CALLER),
                )
                .values(_report_values(report, progress))
                .returning(Job)
                .execution_options(synchronize_session=False, populate_existing=True)
            )
            if moved is None:
                outcome = await self._refuse(Outcome(), {key: (status, None)})
                raise outcome.refused[key]
            self._note([key])
            if moved.has_dependents and moved.status.is_final:
                await self._settle({key: moved.status})
            return moved


def _percent(progress: object) -> float:
    if isinstance(progress, bool) or not isinstance(progress, int | float) or math.isnan(progress):
        raise InvalidValueError("progress", f"must be a number from 0 to 100, not {progress!r}")
    return float(min(max(progress, 0), 100))


def _report_values(report: JobUpdate, progress: float | None) -> dict[str, Any]:
    to = report.status or JobStatus.PROCESSING
    starts = Job.status == JobStatus.PENDING
    values: dict[str, Any] = {
        "status": to,
        "version": case((Job.status != to, Job.version + 1), else_=Job.version),
        "updated_at": NOW,
        "worker_id": CALLER,
        "scheduled_at": None,
        "attempt": case((starts, Job.attempt + 1), else_=Job.attempt),
        "started_at": case((starts, NOW), else_=Job.started_at),
    }
    if to.is_final:
        values |= {"completed_at": NOW, "lease_expires_at": None}
    else:
        values["lease_expires_at"] = NOW + cast(func.concat(Job.timeout_seconds, " seconds"), Interval)
    if to is JobStatus.COMPLETED:
        values["progress"] = 100.0
    elif progress is not None:
        values["progress"] = func.greatest(Job.progress, _percent(progress))
    if report.result is not None:
        values["result"] = report.result
    if report.error is not None:
        values["errors"] = with_error("reported", report.error)
    if report.metadata is not None:
        values["job_metadata"] = Job.job_metadata.op("||", return_type=JSONB())(cast(report.metadata, JSONB))
    return values
