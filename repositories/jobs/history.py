"""How a job came to where it stands: its attempts and errors, read from the times and ``errors`` of its row."""

from datetime import datetime, timedelta
from uuid import UUID

from repositories.base import as_uuid
from repositories.errors import NotFoundError
from repositories.jobs.figures import JobEvent, JobHistory, PastError
from repositories.jobs.read import Reading
from repositories.models import Job

# The error that ends an attempt and what becomes of the job are written by one statement, microseconds apart and in the
# order of the columns; told is the error first.
_ONE_STATEMENT = timedelta(microseconds=100)


class Recounting(Reading):
    """Histories; there is no table of them."""

    async def get_job_history(self, job_id: UUID | str) -> JobHistory:
        """Return what happened to the job so far, in one statement.

        Raises:
            NotFoundError: there is no such job.
        """
        key = as_uuid(job_id)
        found = [] if key is None else await self.snapshot([key])
        if not found:
            raise NotFoundError("job", job_id)
        return _history(found[0])


def _history(job: Job) -> JobHistory:
    errors = [PastError.model_validate(entry) for entry in job.errors]
    events = [JobEvent(job.created_at, "created")]
    if job.queued_at is not None:
        events.append(JobEvent(job.queued_at, "queued"))
    if job.started_at is not None:
        events.append(JobEvent(job.started_at, "started", job.attempt, job.worker_id))
    if job.cancel_requested_at is not None:
        events.append(JobEvent(job.cancel_requested_at, "cancel_requested", None, job.cancel_reason))
    events += [
        # What a job was written with has no time of its own.
        JobEvent(
            error.at or job.completed_at or job.created_at, "error", error.attempt, f"{error.code}: {error.message}"
        )
        for error in errors
    ]
    if job.completed_at is not None:
        events.append(JobEvent(job.completed_at, "ended", job.attempt, job.status))
    return JobHistory(
        job_id=job.id,
        status=job.status,
        attempts=job.attempt,
        failures=job.failures,
        crashes=job.crashes,
        errors=errors,
        timeline=sorted(events, key=_place),
    )


def _place(event: JobEvent) -> tuple[bool, datetime]:
    return event.event != "created", event.at - (_ONE_STATEMENT if event.event == "error" else timedelta(0))
