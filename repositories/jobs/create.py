"""Writing new jobs. A runnable job begins as ``queued``; one that waits, or has no payload, as ``pending``.

Writing again what is there already is no error: a job is known by its id, or by its idempotency key.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import (
    ARRAY,
    Integer,
    Text,
    Uuid,
    any_,
    bindparam,
    case,
    cast,
    collate,
    column,
    func,
    literal,
    literal_column,
    not_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, insert

from repositories.errors import ConflictError, NotFoundError, translated
from repositories.jobs.admission import Waiting
from repositories.jobs.core import NOW, JobStatements, named
from repositories.models import Job
from repositories.prepared import Prepared
from repositories.recordable import encoded
from repositories.schemas import NewJob
from repositories.states import JobStatus

_CHUNK = 5_000
_NEW_JOBS = TypeAdapter(list[NewJob])
_COLUMNS = (*NewJob.model_fields, "parents_left", "errors")
_MAX_GENERATIONS = 100
_KEY_RULE = "uq_jobs_idempotency_key"

_PARENT_FAILED = {
    "attempt": 0,
    "code": "parent_failed",
    "message": "a job that this one depends on had not completed when it was written",
}


@cache
def _insertion() -> Prepared:
    """Insert what an array of JSON objects says, one row or thousands; return ids only if some were there before.

    What a row does not say about its state follows from its payload: with one it is queued.
    """
    columns = Job.__table__.c
    kinds = {name: columns[name].type for name in _COLUMNS} | {
        "depends_on": ARRAY(Uuid),
        "scheduled_at": TIMESTAMP(timezone=True),
        "status": Text(),
    }
    new = (
        func.jsonb_to_recordset(cast(bindparam("rows", type_=Text), JSONB))
        .table_valued(*(column(name, kind) for name, kind in kinds.items()), name="new")
        .render_derived(with_types=True)
    )
    # Without none_as_null a JSON null would stand where "no payload" must be SQL's NULL.
    payload = func.nullif(new.c.payload, literal_column("'null'::jsonb", JSONB))
    status = func.coalesce(new.c.status, case((payload.is_not(None), JobStatus.QUEUED), else_=JobStatus.PENDING))
    queued, failed = status == str(JobStatus.QUEUED), status == str(JobStatus.FAILED)
    place = bindparam("ahead", type_=Integer) + cast(func.row_number().over(order_by=new.c.id), Integer)
    values = {name: new.c[name] for name in kinds} | {
        "payload": payload,
        "status": status,
        "parents_left": func.coalesce(new.c.parents_left, 0),
        "errors": func.coalesce(new.c.errors, literal_column("'[]'::jsonb", JSONB)),
        "queue_position": func.coalesce(new.c.queue_position, case((queued, place))),
        "queued_at": case((queued, NOW)),
        "completed_at": case((failed, NOW)),
    }
    rows = select(*values.values()).order_by(collate(new.c.idempotency_key, "C").nulls_last(), new.c.id)
    written = (
        insert(Job)
        .from_select(list(values), rows)
        .on_conflict_do_nothing()  # the same id, or the same key: waits for another writer of it
        .returning(Job.id)
        .cte("written")
    )
    # A thousand rows that say nothing new would cost the caller as much as all the rest.
    some_were_there = func.count() < bindparam("asked", type_=Integer)
    others = func.coalesce(func.array_agg(written.c.id), literal_column("'{}'::uuid[]", ARRAY(Uuid)))
    return Prepared(select(case((some_were_there, others))).select_from(written))


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

        Returns:
            The job; with an ``idempotency_key`` that was used before, the job that was written then.

        Raises:
            pydantic.ValidationError: a field is out of its range.
            ConflictError: the id is taken, or the idempotency key, by a job with another payload.
            NotFoundError: a job it depends on does not exist.
        """
        new = NewJob(type=job_type, workspace_id=workspace_id, metadata=metadata or {}, **fields)
        if new.depends_on or new.idempotency_key is not None:
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

        A job whose idempotency key is there already is the one that was written with it, also if both are being
        written at this moment: the later writer waits for the earlier one's commit. A job may depend on an earlier one
        of the same call. A job with a parent that failed or was cancelled is written as ``failed``, unless it is to be
        released by that.

        Returns:
            The jobs as the database holds them, in the order given.

        Raises:
            ConflictError: an idempotency key is taken by a job with another type, workspace or payload; nothing is
                written.
            NotFoundError: a job that one depends on does not exist; nothing is written.
            ValueError: more than 100 jobs of the call wait one for another in a chain.
        """
        generations = _generations(jobs)
        ids = {new.id: new.id for new in jobs}
        keyed = any(new.idempotency_key is not None for new in jobs)
        with translated():
            parents = await self._mark_parents({parent for new in jobs for parent in new.depends_on} - ids.keys())
            if keyed:
                async with self.session.begin_nested():  # a conflict leaves nothing of the others behind
                    await self._write(generations, ids, parents)
            else:
                await self._write(generations, ids, parents)
            written = await self.get_many([ids[new.id] for new in jobs])
        if len(written) < len(jobs):
            raise ConflictError("", "a job with the same id or key was deleted at this moment: write it again")
        return written

    async def add_many(self, jobs: Sequence[NewJob], ahead: int | None = None) -> list[Waiting]:
        """Write many jobs as :meth:`create_many` does, and return only those that may be handed over after the commit.

        Reads no row back, so ten thousand jobs cost little more than their insertion. A job that was there already is
        not returned: whoever wrote it has handed it over, or the reconciler will.

        Args:
            jobs: any number; memory is needed for 5,000 at a time.
            ahead: how many jobs stand in their queue now, from which each one's position is reckoned, as if all of
                ``jobs`` were new and due; ``None``: not known. Jobs with parents or keys are given none.

        Raises:
            ConflictError, NotFoundError, ValueError: as for :meth:`create_many`.
        """
        if _is_entangled(jobs):
            written = await self.create_many(jobs)
            asked = {new.id for new in jobs}
            return [
                Waiting(job.id, job.type, job.priority, job.queue)
                for job in written
                if job.id in asked and job.status is JobStatus.QUEUED and job.scheduled_at is None
            ]
        ready: list[Waiting] = []
        with translated():
            for start in range(0, len(jobs), _CHUNK):
                chunk = {new.id: new for new in jobs[start : start + _CHUNK]}
                # In id order, as all writers of jobs do it.
                rows = [chunk[job_id] for job_id in sorted(chunk)]
                text = _NEW_JOBS.dump_json(rows).decode()
                inserted = await self._insert(text, len(rows), None if ahead is None else ahead + start)
                ready += [
                    Waiting(new.id, new.type, new.priority, new.queue)
                    for new in (rows if inserted is None else map(chunk.__getitem__, inserted))
                    if new.payload is not None and new.scheduled_at is None
                ]
        return ready

    async def _write(
        self, generations: Sequence[Sequence[NewJob]], ids: dict[UUID, UUID], parents: dict[UUID, JobStatus]
    ) -> None:
        """Write parents before their children; ``ids`` maps each new job's id to the id it has on the record."""
        for generation in generations:
            own = {ids[parent] for new in generation for parent in new.depends_on if parent in ids}
            if own:
                parents = parents | await self._mark_parents(own)
            rows = []
            for new in generation:
                depends_on = list(dict.fromkeys(ids.get(parent, parent) for parent in new.depends_on))
                rows.append(_row(new.model_copy(update={"depends_on": depends_on}), parents))
            # In one order whoever writes them: of two that write the same keys, one waits for the other, never both.
            rows.sort(key=lambda row: (row["idempotency_key"] is None, row["idempotency_key"] or "", row["id"]))
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                await self._insert(encoded(chunk), len(chunk))
            if keyed := [new for new in generation if new.idempotency_key is not None]:
                ids |= await self._written_before(keyed)

    async def _insert(self, rows: str, asked: int, ahead: int | None = None) -> list[UUID] | None:
        """Insert ``asked`` rows that travel as one JSON array.

        Returns:
            The ids that were not there before; ``None`` if that is all of them.
        """
        parameters = {"rows": rows, "asked": asked, "ahead": ahead}
        inserted: list[UUID] | None
        ((inserted,),) = await _insertion().rows(self.session, parameters)
        return inserted

    async def _written_before(self, keyed: Sequence[NewJob]) -> dict[UUID, UUID]:
        """Map the ids of jobs whose keys were used before to the ids of the jobs that have them.

        Raises:
            ConflictError: a key belongs to a job with another type, workspace or payload.
        """
        keys = {str(new.idempotency_key) for new in keyed}
        statement = select(Job.idempotency_key, Job.id, Job.type, Job.workspace_id, Job.payload).where(
            Job.idempotency_key == any_(literal(sorted(keys), ARRAY(Text)))
        )
        if len(keys) == len(keyed):  # usually; a payload is read back only if it has to be compared
            statement = statement.where(not_(named([new.id for new in keyed])))
        rows = await self.session.execute(statement)
        found = {row.idempotency_key: row for row in rows}
        before: dict[UUID, UUID] = {}
        for new in keyed:
            row = found.get(new.idempotency_key)
            if row is None or row.id == new.id:
                continue
            given = new.model_dump(mode="json")
            differs = [name for name in ("type", "workspace_id", "payload") if getattr(row, name) != given[name]]
            if differs:
                detail = f"job {row.id} has this key and another {' and '.join(differs)}: another job needs another key"
                raise ConflictError(_KEY_RULE, detail, "idempotency_key", str(new.idempotency_key))
            before[new.id] = row.id
        return before

    async def _mark_parents(self, parents: Collection[UUID]) -> dict[UUID, JobStatus]:
        """Note on each parent that it has dependents, and return where each stands.

        The mark locks the parent until the caller commits, so that it cannot finish without seeing this child.

        Raises:
            NotFoundError: one does not exist.
        """
        if not parents:
            return {}
        ordered = select(Job.id).where(named(parents)).order_by(Job.id).with_for_update().cte("parents")
        rows = await self.session.execute(
            update(Job)
            .where(Job.id == ordered.c.id)
            .values(has_dependents=True)
            .returning(Job.id, Job.status)
            .execution_options(synchronize_session=False)
        )
        found = {job_id: status for job_id, status in rows}  # noqa: C416 - dict() cannot take typed rows
        if missing := set(parents) - found.keys():
            raise NotFoundError("job", min(missing))
        return found


def is_one_statement(jobs: Sequence[NewJob]) -> bool:
    """Whether :meth:`Creating.add_many` writes these jobs with a single statement: it needs no transaction then."""
    return len(jobs) <= _CHUNK and not _is_entangled(jobs)


def _is_entangled(jobs: Sequence[NewJob]) -> bool:
    """Whether what is written of one of these jobs may depend on other jobs."""
    return any(new.depends_on or new.idempotency_key is not None for new in jobs)


def _generations(jobs: Sequence[NewJob]) -> list[list[NewJob]]:
    """The jobs in the order they can be written: each after those of the same call that it depends on.

    Raises:
        ValueError: they form a chain that is too long.
        NotFoundError: one depends on itself or on a later one.
    """
    depth: dict[UUID, int] = {}
    generations: list[list[NewJob]] = []
    asked = {new.id for new in jobs}
    for new in jobs:
        own = [parent for parent in new.depends_on if parent in asked]
        if later := [parent for parent in own if parent not in depth or parent == new.id]:
            raise NotFoundError("job", later[0])
        depth[new.id] = 1 + max((depth[parent] for parent in own), default=-1)
        if depth[new.id] >= _MAX_GENERATIONS:
            raise ValueError(f"more than {_MAX_GENERATIONS} jobs of one call wait one for another: write them in parts")
        if depth[new.id] == len(generations):
            generations.append([])
        generations[depth[new.id]].append(new)
    return generations


def _row(new: NewJob, parents: dict[UUID, JobStatus]) -> dict[str, Any]:
    """A new job as JSON columns; its parents decide whether it is queued, waits or can never run."""
    states = [parents[parent] for parent in new.depends_on]
    waits_for = sum(not state.is_final for state in states)
    lost = any(state.is_final and state is not JobStatus.COMPLETED for state in states)
    hopeless = lost and new.on_parent_failure == "fail"
    if hopeless:
        status = JobStatus.FAILED
    elif waits_for or new.payload is None:
        status = JobStatus.PENDING
    else:
        status = JobStatus.QUEUED
    given = new.model_dump(mode="json")
    return given | {
        "scheduled_at": None if hopeless else given["scheduled_at"],
        "status": str(status),
        "parents_left": 0 if hopeless else waits_for,
        "errors": [_PARENT_FAILED] if hopeless else [],
    }
