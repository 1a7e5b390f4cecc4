"""How callers of a :class:`worker.client.JobClient` follow jobs: where they stand, what is in them, when they end."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from uuid import UUID

from repositories.database import DatabaseManager
from repositories.errors import NotFoundError
from repositories.hot_status import HotStatus, JobStatusView
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.models import Job, JobItem
from repositories.schemas import JobFilters, PaginationParams
from worker.overseeing import Overseeing
from worker.queue import JobQueue, QueueUnavailableError
from worker.registry import Registry

POLL_SECONDS = 0.2


class Following(Overseeing):
    """What is defined here changes no job.

    Args:
        database, queue, registry, hot: as for :class:`worker.client.JobClient`.
    """

    def __init__(
        self, database: DatabaseManager, queue: JobQueue, registry: Registry | None, hot: HotStatus | None
    ) -> None:
        super().__init__(database, queue, registry)
        self._hot = hot

    async def status(self, job_id: UUID | str) -> Job:
        """Return the job as the record has it now, all of it: :meth:`statuses` costs less and tells less.

        Raises:
            NotFoundError: there is no such job.
        """
        async with self._database.get_session() as session:
            return await JobRepository(session).get_by_id_or_raise(job_id)

    async def statuses(self, ids: Collection[UUID]) -> dict[UUID, JobStatusView]:
        """Return where jobs stand: from hot status in one round trip, and what is missing there with one query.

        Jobs that do not exist are left out.

        Raises:
            DatabaseUnavailableError: PostgreSQL had to be asked, and does not answer.
        """
        if self._hot is not None:
            return await self._hot.get_many(ids, self._load)
        return {job.id: JobStatusView.of(job) for job in await self._load(list(ids))}

    async def items(self, job_id: UUID | str) -> list[JobItem]:
        """Return the job's documents or questions, in order.

        Raises:
            NotFoundError: there is no such job.
        """
        job = await self.status(job_id)
        async with self._database.get_session() as session:
            return await ItemRepository(session).list(job.id)

    async def list_jobs(self, filters: JobFilters, pagination: PaginationParams) -> tuple[list[Job], int]:
        """Return a page of jobs, newest first, and how many match in all; from the read replica if there is one."""
        async with self._database.get_read_session() as session:
            return await JobRepository(session).list_jobs_with_filters(filters, pagination)

    async def positions(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return where jobs stand in the queue now, from 1. Without Redis there is no queue to stand in: empty."""
        try:
            return await self._queue.positions(ids)
        except QueueUnavailableError:
            return {}

    async def events(self, ids: Collection[UUID]) -> AsyncIterator[JobStatusView]:
        """Yield where each job stands, now and at every change (status, items, attempt), until all are final.

        What is final is read from the record: the last view of each job is what stands there.

        Raises:
            NotFoundError: a job does not exist (any more).
        """
        seen: dict[UUID, JobStatusView] = {}
        left = list(ids)
        while left:
            jobs = await self.statuses(left)
            if self._hot is not None and (ended := [job.id for job in jobs.values() if job.status.is_final]):
                for job_id in ended:
                    del jobs[job_id]
                jobs |= {job.id: JobStatusView.of(job) for job in await self._load(ended)}
            for job_id in tuple(left):
                if job_id not in jobs:
                    raise NotFoundError("job", job_id)
                job = jobs[job_id]
                if seen.get(job_id) != job:
                    seen[job_id] = job
                    yield job
                if job.status.is_final:
                    left.remove(job_id)
            if left:
                await asyncio.sleep(POLL_SECONDS)

    async def wait(self, ids: Collection[UUID], timeout_seconds: float | None = None) -> list[Job]:
        """Return the jobs once all of them are final, in the order given.

        Raises:
            NotFoundError: a job does not exist.
            TimeoutError: ``timeout_seconds`` passed first; the jobs go on.
        """
        async with asyncio.timeout(timeout_seconds):
            async for _ in self.events(ids):
                pass
        async with self._database.get_session() as session:
            return await JobRepository(session).get_many(list(ids))

    async def _load(self, ids: Sequence[UUID]) -> list[Job]:
        async with self._database.get_session() as session:
            return await JobRepository(session).snapshot(ids)
