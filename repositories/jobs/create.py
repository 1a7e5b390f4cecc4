"""Writing new jobs. A runnable job begins as ``queued``; one that waits, or has no payload, as ``pending``."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, case, cast, column, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, insert

from repositories.errors import NotFoundError, translated
from repositories.jobs.core import NOW, JobStatements, named
from repositories.models import Job
from repositories.schemas import NewJob
from repositories.states import JobStatus

_CHUNK = 5_000

_PARENT_FAILED = {
    "attempt": 0,
    "code": "parent_failed",
    "message": "a job that this one depends on had not completed when it was written",
}


class Creating(JobStatements):
    """The two ways to write a job: one, and many."""

    async def create_job(
        self,
        job_type: str,
        workspace_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Job:
        """Write one job in the caller's transaction.

        Args:
            job_type: a ``JobType``, or any other text: a worker that does not know it leaves it for others.
            workspace_id: the workspace it is about; plain text.
            metadata: whatever the caller wants to find on the job again.
            fields: further fields of :class:`NewJob`. Without ``payload`` the job is caller-driven: it stays
                ``pending`` until :meth:`update_job_status` reports on it, and no worker ever takes it.

        Raises:
            pydantic.ValidationError: a field is out of its range.
            ConflictError: the id or the idempotency key is taken.
            NotFoundError: a job it depends on does not exist.
        """
        new = NewJob(type=job_type, workspace_id=workspace_id, metadata=metadata or {}, **fields)
        if new.depends_on:
            (job,) = await self.create_many([new])
            return job
        runnable = new.payload is not None
        job = Job(
            **new.model_dump(exclude={"metadata"}),
            job_metadata=new.metadata,
            status=JobStatus.QUEUED if runnable else JobStatus.PENDING,
            queued_at=NOW if runnable else None,
        )
        with translated():
            self.session.add(job)
            await self.session.flush()
            await self.session.refresh(job)
        return job

    async def create_many(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Write many jobs, one statement for each 5,000; a job whose id is there already is left as it is.

        A job may depend on an earlier one of the same call. A job with a parent that failed or was cancelled is written
        as ``failed``.

        Returns:
            The jobs as the database holds them, in the order given.

        Raises:
            ConflictError: an idempotency key is taken; nothing is written.
            NotFoundError: a job that one depends on does not exist; nothing is written.
        """
        with translated():
            parents = await self._mark_parents(jobs)
            family = {parent for new in jobs for parent in new.depends_on}
            for start in range(0, len(jobs), _CHUNK):
                chunk = jobs[start : start + _CHUNK]
                await self._insert([_row(new, parents, has_dependents=new.id in family) for new in chunk])
            return await self.get_many([new.id for new in jobs])

    async def _insert(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows that travel as one JSON parameter, so the statement is the same for one row and for thousands."""
        columns = Job.__table__.c
        kinds = {name: columns[name].type for name in rows[0]} | {
            "depends_on": ARRAY(Uuid),
            "scheduled_at": TIMESTAMP(timezone=True),
            "status": Text(),
        }
        new = (
            func.jsonb_to_recordset(literal(list(rows), JSONB))
            .table_valued(*(column(name, kind) for name, kind in kinds.items()), name="new")
            .render_derived(with_types=True)
        )
        queued, failed = new.c.status == str(JobStatus.QUEUED), new.c.status == str(JobStatus.FAILED)
        values = {name: new.c[name] for name in kinds} | {
            # Without none_as_null a JSON null would stand where "no payload" must be SQL's NULL.
            "payload": func.nullif(new.c.payload, cast("null", JSONB)),
            "queued_at": case((queued, NOW)),
            "completed_at": case((failed, NOW)),
        }
        await self.session.execute(
            insert(Job)
            .from_select(list(values), select(*values.values()).order_by(new.c.id))
            .on_conflict_do_nothing(index_elements=[Job.id])
        )

    async def _mark_parents(self, jobs: Sequence[NewJob]) -> dict[UUID, JobStatus]:
        """Note on each parent that it has dependents, and return where each stands.

        The mark locks the parent until the caller commits, so that it cannot finish without seeing this child.
        """
        states: dict[UUID, JobStatus] = {}
        outside: set[UUID] = set()
        for new in jobs:
            outside |= {parent for parent in new.depends_on if parent not in states}
            states[new.id] = JobStatus.PENDING
        if not outside:
            return states
        ordered = select(Job.id).where(named(outside)).order_by(Job.id).with_for_update().cte("parents")
        rows = await self.session.execute(
            update(Job)
            .where(Job.id == ordered.c.id)
            .values(has_dependents=True)
            .returning(Job.id, Job.status)
            .execution_options(synchronize_session=False)
        )
        found = {job_id: status for job_id, status in rows}  # noqa: C416 - dict() cannot take typed rows
        if missing := outside - found.keys():
            raise NotFoundError("job", min(missing))
        return states | found


def _row(new: NewJob, parents: dict[UUID, JobStatus], *, has_dependents: bool) -> dict[str, Any]:
    """A new job as JSON columns; its parents decide whether it is queued, waits or can never run."""
    states = [parents[parent] for parent in set(new.depends_on)]
    waits_for = sum(not state.is_final for state in states)
    hopeless = any(state.is_final and state is not JobStatus.COMPLETED for state in states)
    if hopeless:
        status = JobStatus.FAILED
    elif waits_for or new.payload is None:
        status = JobStatus.PENDING
    else:
        status = JobStatus.QUEUED
    return new.model_dump(mode="json") | {
        "depends_on": [str(parent) for parent in dict.fromkeys(new.depends_on)],
        "status": str(status),
        "parents_left": 0 if hopeless else waits_for,
        "has_dependents": has_dependents,
        "errors": [_PARENT_FAILED] if hopeless else [],
    }
