"""Lists and statistics are read from a real streaming replica while it answers, else from the primary."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from repositories.database import DatabaseManager
from repositories.errors import ReadOnlyError
from repositories.jobs import JobRepository
from repositories.schemas import JobFilters, PaginationParams
from tests.factories import queued_jobs
from tests.servers import StreamingReplica, streaming_replica
from worker.client import JobClient
from worker.queue import JobQueue
from worker.settings import Settings
from worker.storage import Storage


async def _on_replica(session: AsyncSession) -> bool:
    return bool(await session.scalar(text("SELECT pg_is_in_recovery()")))


async def _reads_replica(manager: DatabaseManager) -> bool:
    async with manager.get_read_session() as session:
        return await _on_replica(session)


async def _replayed(primary: DatabaseManager, manager: DatabaseManager) -> None:
    """Return once the replica has what the primary has now."""
    async with primary.get_session() as session:
        end = await session.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
    while True:
        async with manager.get_read_session() as session:
            assert await _on_replica(session)
            reached = text("SELECT pg_last_wal_replay_lsn() >= CAST(CAST(:place AS text) AS pg_lsn)")
            if await session.scalar(reached, {"place": end}):
                return
        await asyncio.sleep(0.05)


@pytest.fixture
def replica(database_url: str) -> Iterator[StreamingReplica]:
    if "DATABASE_URL" in os.environ:
        pytest.skip("only the embedded server can be copied here; DATABASE_URL names another")
    with streaming_replica(database_url) as standby:
        yield standby


@pytest.mark.slow
async def test_lists_come_from_the_replica_and_from_the_primary_while_it_is_away(
    database: DatabaseManager,
    database_url: str,
    replica: StreamingReplica,
    queue: JobQueue,
    storage: Storage,
    settings: Settings,
) -> None:
    standby_url = make_url(database_url).set(port=replica.port).render_as_string(hide_password=False)
    both = DatabaseManager(database_url, replica_url=standby_url, replica_retry_seconds=0)
    client = JobClient(both, queue, storage, settings)
    with capture_logs() as logs:
        async with both:
            with replica.start() as stop:
                async with both.get_transaction() as session:  # what writes never goes there
                    made = await queued_jobs(JobRepository(session), 3)
                await asyncio.wait_for(_replayed(database, both), 10)
                async with both.get_read_session() as session:
                    assert await _on_replica(session)
                    assert (await JobRepository(session).get_job_statistics())["total_jobs"] == 3
                    with pytest.raises(ReadOnlyError):
                        await JobRepository(session).create_job("document_upload")
                async with DatabaseManager(standby_url) as standby, standby.get_session() as session:
                    await session.execute(text("SELECT pg_wal_replay_pause()"))
                async with both.get_transaction() as session:
                    await queued_jobs(JobRepository(session), 1)
                jobs, _ = await client.list_jobs(JobFilters(), PaginationParams())
                assert {job.id for job in jobs} == {job.id for job in made}  # as the replica has it: the new one is not

                stop()  # its pooled connections are dead now, and nobody listens
                for _ in range(3):
                    assert not await _reads_replica(both)
                _, total = await client.list_jobs(JobFilters(), PaginationParams())
                assert total == 4
                assert [entry["event"] for entry in logs] == ["replica.lost"]
            with replica.start():
                assert await _reads_replica(both)
    assert [entry["event"] for entry in logs] == ["replica.lost", "replica.returned"]
