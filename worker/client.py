"""``JobClient``: what other services import to enqueue jobs and follow them.

::

    async with open_client(load_settings()) as client:
        upload = await client.upload_documents("handbook", find_files([Path("handbook")]))
        asked = await client.process_questions("handbook", questions, depends_on=[upload.id])
        await client.wait([upload.id, asked.id])

A job is enqueued when its row is committed. The message to ARQ follows the commit; if Redis is away then, the
reconciler of any worker sends it later, so nothing is lost.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.hot_status import HotStatus
from repositories.jobs import JobRepository, Waiting, is_one_statement
from repositories.models import Job
from repositories.schemas import NewJob, Outcome
from repositories.states import ItemStatus, JobStatus, JobType
from repositories.transactions import run_in_transaction, when_ended
from repositories.workspaces import WorkspaceNotFoundError, WorkspaceRepository
from worker.engines.base import WorkspaceSettings
from worker.files import FileSource, NoFilesError, store_files
from worker.following import Following
from worker.payloads import (
    DocumentUploadPayload,
    LinkSource,
    ObjectSource,
    OnDuplicate,
    QuestionProcessingPayload,
    StoredFile,
    WorkspacePayload,
)
from worker.questions.question_set import QuestionSet
from worker.queue import JobQueue, QueueUnavailableError, connect
from worker.registry import Registry
from worker.settings import Settings, require
from worker.storage import Storage
from worker.trying_again import NothingToRetryError, only_failed
from worker.uploads.planning import PlannedFile, plan_upload
from worker.workspace_views import WorkspaceView, workspace_views

__all__ = ["JobClient", "NothingToRetryError", "WorkspaceNotFoundError", "open_client"]

_NOT_STORED_YET = StoredFile(name="a file", sha256="0" * 64)

log = structlog.get_logger(__name__)


class JobClient(Following):
    """Enqueues jobs and follows them.

    Args:
        database, queue, storage: where jobs, messages and bytes go; :func:`open_client` makes all three.
        settings: bounds and defaults.
        engine: which engine's workspaces names are looked up in.
        registry: which workers live; without it none is known.
        hot: where statuses are read and written through; without it they are read from PostgreSQL.
    """

    def __init__(
        self,
        database: DatabaseManager,
        queue: JobQueue,
        storage: Storage,
        settings: Settings,
        engine: str = "local",
        registry: Registry | None = None,
        hot: HotStatus | None = None,
    ) -> None:
        super().__init__(database, queue, registry, hot)
        self._storage = storage
        self._settings = settings
        self._engine = engine
        self._hand_overs: set[asyncio.Task[None]] = set()

    async def upload_documents(  # noqa: PLR0913 - what an upload is, each with a default
        self,
        workspace: str,
        files: Sequence[FileSource] = (),
        *,
        links: Sequence[str] = (),
        objects: Sequence[ObjectSource] = (),
        on_duplicate: OnDuplicate = OnDuplicate.SKIP,
        source: str | None = None,
        sync: bool = False,
        settings: WorkspaceSettings | None = None,
        session: AsyncSession | None = None,
        **fields: Any,
    ) -> Job:
        """Enqueue a ``document_upload`` job.

        The bytes go to storage first, in blocks, once everything else is known to be in its range. A file that cannot
        be read, is too large or has no usable name does not stop the others: it becomes a failed item of the job.

        Args:
            workspace: its name (1 to 255 characters); made when the job runs if it is new.
            files: documents and archives.
            links: http(s) addresses, fetched by the worker.
            objects: keys and prefixes of object stores, read by the worker; only under ``OBJECT_SOURCES``.
            on_duplicate: what becomes of a document whose content, or whose name, stands in the workspace already.
            source: a label of this set of documents (1 to 255 characters), for ``sync``.
            sync: remove from the workspace what was uploaded from ``source`` before and is not among these documents.
            settings: given to the workspace.
            session: the caller's; the job is written in its transaction and handed over when that commits.
            fields: further fields of :class:`repositories.schemas.NewJob` (``priority``, ``depends_on``,
                ``metadata``...).

        Raises:
            NoFilesError: there are no files, links or objects.
            pydantic.ValidationError: a field is out of its range.
            DatabaseUnavailableError: PostgreSQL does not answer.
            StorageUnavailableError: the storage does not answer.
        """
        if not (files or links or objects):
            raise NoFilesError("there are no files, links or objects to upload")
        payload = DocumentUploadPayload(
            workspace=workspace,
            files=[_NOT_STORED_YET] * len(files),
            links=[LinkSource(url=link) for link in links],
            objects=list(objects),
            on_duplicate=on_duplicate,
            source=source,
            sync=sync,
            settings=settings,
        )
        self._new_job(JobType.DOCUMENT_UPLOAD, workspace, {}, fields)  # what is out of range is told before any byte
        payload.files = await store_files(files, self._storage, self._settings)
        return await self._enqueue(JobType.DOCUMENT_UPLOAD, workspace, _written(payload), session, fields)

    async def plan_upload(
        self, workspace: str, files: Sequence[FileSource], source: str | None = None
    ) -> list[PlannedFile]:
        """Say what :meth:`upload_documents` would do with files on a disk, and do nothing."""
        return await plan_upload(self._database, self._engine, workspace, files, source, self._settings)

    async def create_workspace(
        self,
        workspace: str,
        settings: WorkspaceSettings | None = None,
        *,
        session: AsyncSession | None = None,
        **fields: Any,
    ) -> Job:
        """Enqueue a ``workspace_creation`` job; a workspace that is there gets only the settings."""
        payload = WorkspacePayload(workspace=workspace, settings=settings)
        return await self._enqueue(JobType.WORKSPACE_CREATION, workspace, _written(payload), session, fields)

    async def delete_workspace(self, workspace: str, *, session: AsyncSession | None = None, **fields: Any) -> Job:
        """Enqueue a ``workspace_deletion`` job: the workspace goes, with all that stands in it."""
        payload = WorkspacePayload(workspace=workspace)
        return await self._enqueue(JobType.WORKSPACE_DELETION, workspace, _written(payload), session, fields)

    async def workspaces(self) -> list[WorkspaceView]:
        """Return the workspaces that the record has of this engine, by name."""
        async with self._database.get_session() as session:
            return await workspace_views(session, self._engine)

    async def rebuild_workspace(self, workspace: str, *, session: AsyncSession | None = None, **fields: Any) -> Job:
        """Enqueue a ``workspace_rebuild`` job: the workspace is made new from the documents that stand in it.

        With AnythingLLM its chats and threads go, and it may get another slug, which the job's result tells.
        """
        payload = WorkspacePayload(workspace=workspace)
        return await self._enqueue(JobType.WORKSPACE_REBUILD, workspace, _written(payload), session, fields)

    async def retry_failed_items(self, job_id: UUID | str, **fields: Any) -> Job:
        """Enqueue a new job with only the failed items of one that ended; it names that one as ``retry_of``.

        Raises:
            NotFoundError: there is no such job.
            NothingToRetryError: it goes on, has no failed item, or its type has no items.
        """
        job = await self.status(job_id)
        failed = [item for item in await self.items(job.id) if item.status is ItemStatus.FAILED]
        if not job.status.is_final:
            raise NothingToRetryError(f"job {job.id} is still {job.status}: wait for its end, or cancel it")
        payload = only_failed(job, failed) if failed else None
        if payload is None:
            raise NothingToRetryError(f"job {job.id} has no failed items")
        return await self._enqueue(job.type, job.workspace_id or "", payload, None, {"retry_of": job.id} | fields)

    async def process_questions(
        self, workspace: str, questions: QuestionSet, *, session: AsyncSession | None = None, **fields: Any
    ) -> Job:
        """Enqueue a ``question_processing`` job.

        Args:
            workspace: its name; it must exist, unless the job depends on others, which may make it.
            questions: what to ask.
            session: as for :meth:`upload_documents`.
            fields: as for :meth:`upload_documents`.

        Raises:
            WorkspaceNotFoundError: there is no such workspace; the error offers names that look like it.
            DatabaseUnavailableError: PostgreSQL does not answer.
        """
        if not fields.get("depends_on"):
            await self._check_workspace(workspace)
        payload = QuestionProcessingPayload(
            workspace=workspace, question_set=questions.name, questions=list(questions.questions)
        )
        return await self._enqueue(JobType.QUESTION_PROCESSING, workspace, _written(payload), session, fields)

    async def enqueue_many(self, jobs: Sequence[NewJob], *, session: AsyncSession | None = None) -> list[UUID]:
        """Enqueue jobs of any type: one statement for each 5,000, and their ids handed over in one go.

        Args:
            jobs: with their payloads; one without is written and left to its caller. Writing the same ids again is no
                error: such a job stays as it is.
            session: as for :meth:`upload_documents`.

        Returns:
            The ids, in the order given. A job whose idempotency key was used before is on the record under the id it
            had then.

        Raises:
            ConflictError: an idempotency key belongs to a job with another type, workspace or payload.
            NotFoundError: a job that one depends on does not exist.
            DatabaseUnavailableError: PostgreSQL does not answer, or was lost in the middle: then it is not known
                whether the jobs were written. Asking again with the same ``jobs`` does no harm, also after a
                cancellation.
        """
        next_position = await self._next_position()
        ahead = None if next_position is None else next_position - 1
        if session is not None:
            waiting = await JobRepository(session).add_many(jobs, ahead)
            self._hand_over_after_commit(session, waiting)
        else:
            waiting = await run_in_transaction(
                self._database,
                lambda own: JobRepository(own).add_many(jobs, ahead),
                autocommit=is_one_statement(jobs),
            )
            await self._hand_over(waiting, new=True)
        return [new.id for new in jobs]

    async def cancel(self, ids: Collection[UUID], reason: str | None = None) -> Outcome:
        """Cancel jobs; one that runs stops at its next item. Refusals are in the outcome."""
        outcome = await run_in_transaction(
            self._database, lambda session: JobRepository(session, self._hot).cancel(ids, reason)
        )
        try:
            await self._queue.remove([job_id for job_id, status in outcome.moved.items() if status.is_final])
        except QueueUnavailableError as error:
            log.info("message.not_removed", reason=str(error))  # a worker that takes it finds the job cancelled
        return outcome

    async def retry(self, ids: Collection[UUID]) -> Outcome:
        """Queue failed or cancelled jobs again; finished items are kept. Refusals are in the outcome."""

        async def again(session: AsyncSession) -> tuple[Outcome, list[Waiting]]:
            jobs = JobRepository(session, self._hot)
            outcome = await jobs.retry(ids)
            return outcome, await jobs.waiting_among(outcome.released)

        outcome, waiting = await run_in_transaction(self._database, again)
        await self._hand_over(waiting)
        return outcome

    async def settled(self) -> None:
        """Wait until every hand-over and every write of hot statuses that a commit began has ended."""
        await asyncio.gather(*self._hand_overs)
        if self._hot is not None:
            await self._hot.settled()

    async def _enqueue(
        self,
        job_type: str,
        workspace: str,
        payload: dict[str, Any],
        session: AsyncSession | None,
        fields: dict[str, Any],
    ) -> Job:
        new = self._new_job(job_type, workspace, payload, {"queue_position": await self._next_position()} | fields)
        waiting = [Waiting(new.id, new.type, new.priority, new.queue)]
        if session is not None:
            (job,) = await JobRepository(session).create_many([new])
            if job.id == new.id and _is_due(job):  # another id: its idempotency key was used before
                self._hand_over_after_commit(session, waiting)
            return job
        # Its status is not written to hot status: nobody can have asked for it yet.
        (job,) = await run_in_transaction(self._database, lambda own: JobRepository(own).create_many([new]))
        if job.id == new.id and _is_due(job):
            await self._hand_over(waiting)
        return job

    def _new_job(self, job_type: str, workspace: str, payload: dict[str, Any], fields: dict[str, Any]) -> NewJob:
        defaults = {
            "timeout_seconds": self._settings.job_timeout_seconds,
            "max_attempts": self._settings.job_max_attempts,
        }
        return NewJob(type=job_type, workspace_id=workspace, payload=payload, **(defaults | fields))

    async def _next_position(self) -> int | None:
        try:
            return await self._queue.length() + 1
        except QueueUnavailableError:
            return None

    def _hand_over_after_commit(self, session: AsyncSession, waiting: list[Waiting]) -> None:
        """Hand over once the caller's transaction commits; a rollback does nothing."""
        loop = asyncio.get_running_loop()

        def ended(*, committed: bool) -> None:
            if committed:
                task = loop.create_task(self._hand_over(waiting))
                self._hand_overs.add(task)
                task.add_done_callback(self._hand_overs.discard)

        when_ended(session, ended)

    async def _hand_over(self, waiting: list[Waiting], *, new: bool = False) -> None:
        try:
            await self._queue.hand_over(waiting, new=new)
        except QueueUnavailableError as error:
            log.warning(
                "job.not_handed_over", jobs=len(waiting), reason=str(error), next="a worker's reconciler sends it"
            )

    async def _check_workspace(self, name: str) -> None:
        async with self._database.get_session() as session:
            await WorkspaceRepository(session, self._engine).get_or_raise(name)


def _written(payload: BaseModel) -> dict[str, Any]:
    # What is at its default is left out: an older worker may not know the field yet.
    return {"version": 1} | payload.model_dump(mode="json", exclude_defaults=True)


def _is_due(job: Job) -> bool:
    return job.status is JobStatus.QUEUED and job.scheduled_at is None


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[JobClient]:
    """A client on the servers that ``settings`` name, closed at the end of the block.

    Raises:
        SettingsError: ``DATABASE_URL`` or ``REDIS_URL`` is not set.
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    require(settings.database_url, "DATABASE_URL")
    redis_url = require(settings.redis_url, "REDIS_URL")
    redis = connect(redis_url, settings.redis_pool_size)
    try:
        async with DatabaseManager.of(settings, name="anythingllm-worker client") as database:
            await database.ping()
            client = JobClient(
                database,
                JobQueue(redis),
                Storage(settings.storage_url, options=settings.storage_options),
                settings,
                engine=settings.engine_name,
                registry=Registry(redis),
                hot=HotStatus(redis) if settings.redis_enabled else None,
            )
            try:
                yield client
            finally:
                await client.settled()
    finally:
        await redis.aclose(close_connection_pool=True)
