"""Patterns over the database: injection, repositories of one's own, transactions, errors, bulk, pages, keys, parents.

Each function is one pattern. It takes what was opened, does real work, and returns what came of it.
"""

from datetime import timedelta

import httpx
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.base import BaseRepository
from repositories.errors import ConflictError, InvalidTransitionError, NotFoundError, ProtectedFieldError
from repositories.examples.servers import Facts, Opened
from repositories.jobs import JobRepository
from repositories.models import Workspace
from repositories.schemas import Finish, Held, JobFilters, NewJob, PaginationParams
from repositories.states import JobStatus, JobType
from repositories.transactions import run_in_transaction, savepoint

PAYLOAD = {"version": 1}  # what makes a job one for workers; without it its caller drives it


async def dependency_injection(opened: Opened) -> Facts:
    """FastAPI gives an endpoint its repositories: see repositories/examples/app.py."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(opened.app), base_url="http://app") as http:
        made = await http.post("/jobs", json={"type": "document_upload", "workspace_id": "workspace_123"})
        job_id = made.json()["id"]
        moved = await http.patch(f"/jobs/{job_id}", json={"progress": 50})
        unknown = await http.get("/jobs/invalid_id")
        health = await http.get("/health")
    return {
        "POST /jobs": f"{made.status_code}, {made.json()['status']}",
        "PATCH /jobs/{id}": f"{moved.status_code}, {moved.json()['status']}, progress {moved.json()['progress']}",
        "GET /jobs/invalid_id": f"{unknown.status_code}, {unknown.json()['detail']}",
        "GET /health": f"{health.status_code}, healthy {health.json()['healthy']}",
    }


class NewWorkspace(BaseModel):
    """What a new row needs."""

    engine: str
    name: str
    slug: str


class WorkspaceEdit(BaseModel):
    """What may change; what is unset stays as it is."""

    slug: str | None = None


class MyRepository(BaseRepository[Workspace, NewWorkspace, WorkspaceEdit]):
    """A repository for one's own model: naming the model is all there is to it."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Workspace, session)


async def own_repository(opened: Opened) -> Facts:
    """Any model gets the same methods by naming it."""
    async with opened.database.get_transaction() as session:
        repository = MyRepository(session)
        await repository.bulk_create(
            [NewWorkspace(engine="local", name=name, slug=name) for name in ("handbook", "contracts", "invoices")]
        )
        rows, total = await repository.list({"name": {"ilike": "%s"}}, order_by="-name")
        return {"rows": await repository.count(), "that end in s": [row.name for row in rows], "of them": total}


async def transactions(opened: Opened) -> Facts:
    """Several writes are one: all of them, or none."""
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        before = await jobs.count()
        await jobs.create_job(JobType.DOCUMENT_UPLOAD)
        await jobs.create_job(JobType.QUESTION_PROCESSING)
    try:
        async with opened.database.get_transaction() as session:
            await JobRepository(session).create_job(JobType.DOCUMENT_UPLOAD)
            raise TimeoutError("something else went wrong")  # noqa: TRY301 - what the pattern is about
    except TimeoutError:
        rolled_back = True
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        after = await jobs.count()
        await jobs.create_job(JobType.DOCUMENT_UPLOAD, idempotency_key="nightly")
        try:
            async with savepoint(session):  # a part that may fail alone
                await jobs.create_job(JobType.QUESTION_PROCESSING)
                await jobs.create_job(JobType.QUESTION_PROCESSING, idempotency_key="nightly")
        except ConflictError as error:
            refused = str(error)
    # A deadlock or a serialization failure is nobody's fault: the whole transaction is run again, a few times.
    total = await run_in_transaction(opened.database, lambda session: JobRepository(session).count())
    return {
        "committed": after - before,
        "rolled back": rolled_back and after == before + 2,
        "savepoint": refused,
        "kept beside it": total - after,
    }


async def error_handling(opened: Opened) -> Facts:
    """Every error is a RepositoryError, carries its fields, and says what to do next."""
    told: Facts = {}
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        job = await jobs.create_job(JobType.DOCUMENT_UPLOAD, idempotency_key="report-7")
        try:
            await jobs.get_by_id_or_raise("invalid_id")
        except NotFoundError as error:
            told["NotFoundError"] = str(error)
        try:
            await jobs.create_job(JobType.QUESTION_PROCESSING, idempotency_key="report-7")
        except ConflictError as error:
            told["ConflictError"] = str(error)
        await jobs.update_job_status(job.id, JobStatus.COMPLETED)
        try:
            await jobs.update_job_status(job.id, JobStatus.PROCESSING)
        except InvalidTransitionError as error:
            told["InvalidTransitionError"] = f"found {error.found}, wanted {error.wanted}"
        try:
            await jobs.update(job.id, {"status": "processing"})
        except ProtectedFieldError as error:
            told["ProtectedFieldError"] = str(error)
    return told


async def bulk_operations(opened: Opened) -> Facts:
    """Thousands of rows travel in one statement."""
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        made = await jobs.create_many([NewJob(type="document_upload", payload=PAYLOAD) for _ in range(1_000)])
        ids = [job.id for job in made]
        raised = await jobs.bulk_update([{"id": job_id, "priority": 1} for job_id in ids])
        outcome = await jobs.cancel(ids[:500], reason="only an example")
        removed = await jobs.delete_many({"id": ids})
    await opened.cache.set_many({f"bulk:{n}": n for n in range(1_000)}, ttl=60)
    found = await opened.cache.get_many([f"bulk:{n}" for n in range(2_000)])
    return {
        "written": len(made),
        "given a priority": raised,
        "cancelled": len(outcome.moved),
        "deleted": removed,
        "cached": len(found),
        "removed from the cache": await opened.cache.invalidate_pattern("bulk:*"),
    }


async def pagination(opened: Opened) -> Facts:
    """By number with a total; by cursor where rows come in between."""
    ours = JobFilters(workspace_id="pages")
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        await jobs.create_many([NewJob(type="document_upload", workspace_id="pages") for _ in range(45)])
        page, total = await jobs.list_jobs_with_filters(ours, PaginationParams(page=3, size=20))

        shown = []
        after = await jobs.list_jobs_after(ours, size=20)
        while True:
            shown += [job.id for job in after.items]
            if after.next_cursor is None:
                break
            await jobs.create_job("document_upload", "pages")  # newer than all: it belongs before the first page
            after = await jobs.list_jobs_after(ours, after.next_cursor, size=20)
    return {
        "page 3 of 20": len(page),
        "total": total,
        "by cursor": len(shown),
        "shown twice": len(shown) - len(set(shown)),
    }


async def idempotency_key(opened: Opened) -> Facts:
    """A request that is sent twice is one job; the same key for something else is refused."""
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        first = await jobs.create_job("document_upload", "handbook", payload=PAYLOAD, idempotency_key="order-4711")
        again = await jobs.create_job("document_upload", "handbook", payload=PAYLOAD, idempotency_key="order-4711")
        try:
            await jobs.create_job("document_upload", "handbook", payload={"version": 2}, idempotency_key="order-4711")
        except ConflictError as error:
            return {"one job": first.id == again.id, "other payload": str(error)}
    raise AssertionError("the same key was given to two jobs")


async def parents(opened: Opened) -> Facts:
    """A job waits for others, and is queued by the end of the last one."""
    upload = NewJob(type="document_upload", payload=PAYLOAD)
    ask = NewJob(type="question_processing", payload=PAYLOAD, depends_on=[upload.id])
    async with opened.database.get_transaction() as session:
        jobs = JobRepository(session)
        _, waiting = await jobs.create_many([upload, ask])
        before = waiting.status
        (running,) = await jobs.claim([upload.id], "worker-1", timedelta(seconds=30))  # what a worker does
        outcome = await jobs.finish([Finish(Held(running.id, running.attempt), JobStatus.COMPLETED)])
        child = await jobs.get_by_id_or_raise(ask.id)
        place = await jobs.get_job_queue_position(ask.id)
    return {
        "before": str(before),
        "after": str(child.status),
        "released": outcome.released == [ask.id],
        "place in the queue": place,
    }
