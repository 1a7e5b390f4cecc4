"""Hot status while its Redis is killed and started again with its data: nobody fails, nothing outdated is believed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from repositories.cache import CacheRepository, CircuitState, FallbackBackend, reset_shared_memory_backend
from repositories.database import DatabaseManager
from repositories.hot_status import HotStatus, JobStatusView
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.states import JobStatus
from tests.factories import queued_jobs
from tests.integration.test_cache_fallback import PATIENCE, PrivateRedis, answers, until

WHEN = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PrivateRedis]:
    server = PrivateRedis(tmp_path)
    server.start()
    try:
        async with Redis.from_url(server.url) as client:
            await until(lambda: answers(client))
        yield server
    finally:
        server.kill()


@pytest.fixture
async def clients(server: PrivateRedis) -> AsyncIterator[list[Redis]]:
    """Two processes as Redis sees them: clients with connections of their own."""
    both = [Redis.from_url(server.url) for _ in range(2)]
    yield both
    reset_shared_memory_backend()
    for client in both:
        await client.aclose()


def on(client: Redis) -> tuple[HotStatus, FallbackBackend]:
    backend = FallbackBackend(client, operation_timeout=0.5)
    return HotStatus(backend), backend


async def serves(backend: FallbackBackend) -> bool:
    await backend.try_return()
    return backend.circuit_state is CircuitState.CLOSED


def a_view(version: int, job_id: UUID | None = None) -> JobStatusView:
    return JobStatusView(
        id=job_id or uuid7(),
        type="document_upload",
        status=JobStatus.QUEUED,
        version=version,
        queue="default",
        attempt=0,
        progress=0.0,
        items_total=0,
        items_done=0,
        items_failed=0,
        items_skipped=0,
        created_at=WHEN,
    )


class Load:
    """One process that moves jobs and reads them: what it had committed before a read bounds what that may find."""

    def __init__(self, database: DatabaseManager, hot: HotStatus, jobs: Sequence[Job]) -> None:
        self.database, self.hot = database, hot
        self.committed = {job.id: 1 for job in jobs}
        self.stop = asyncio.Event()
        self.reads = self.moves = self.served = 0

    async def load(self, missing: Sequence[UUID]) -> list[Job]:
        async with self.database.get_session() as session:
            return await JobRepository(session).snapshot(missing)

    async def move(self, job_ids: Sequence[UUID]) -> None:
        while not self.stop.is_set():
            for job_id in job_ids:
                async with self.database.get_transaction() as session:
                    jobs = JobRepository(session, self.hot)
                    standing = await jobs.get_by_id_or_raise(job_id)
                    again = standing.status is JobStatus.CANCELLED
                    outcome = await (jobs.retry([job_id]) if again else jobs.cancel([job_id]))
                    assert not outcome.refused
                    committed = standing.version + 1
                self.committed[job_id] = committed
                self.moves += 1

    async def read(self) -> None:
        while not self.stop.is_set():
            before = dict(self.committed)
            in_redis = await self.hot.read(list(before))
            for job_id, view in in_redis.items():
                assert view.version >= before[job_id], "outdated in Redis"
            before = dict(self.committed)
            found = await self.hot.get_many(list(before), self.load)
            for job_id, version in before.items():
                assert found[job_id].version >= version, "outdated"
            self.served += len(in_redis)
            self.reads += 1

    async def go_on(self) -> None:
        reads, moves = self.reads, self.moves
        await until(lambda: self.reads >= reads + 10 and self.moves >= moves + 10)

    async def is_served(self) -> None:
        served = self.served
        await until(lambda: self.served > served)


@pytest.mark.slow
async def test_redis_killed_and_restarted_under_transitions_and_reads_fails_nobody_and_nothing_outdated_is_read(
    server: PrivateRedis, clients: list[Redis], database: DatabaseManager
) -> None:
    hot, backend = on(clients[0])
    async with database.get_transaction() as session:
        jobs = await queued_jobs(JobRepository(session), 8)
    load, ids = Load(database, hot, jobs), [job.id for job in jobs]

    async with asyncio.timeout(3 * PATIENCE), asyncio.TaskGroup() as group:
        for task in (load.move(ids[:4]), load.move(ids[4:]), load.read()):
            group.create_task(task)
        for _ in range(2):
            await load.is_served()
            await load.go_on()
            server.kill()
            await load.go_on()
            assert backend.circuit_state is not CircuitState.CLOSED
            served = load.served
            await load.go_on()
            assert load.served == served  # never from memory
            server.start()
            await until(lambda: backend.circuit_state is CircuitState.CLOSED)
        await load.is_served()
        load.stop.set()
    await hot.settled()

    found = await hot.get_many(ids, load.load)
    assert {job_id: view.version for job_id, view in found.items()} == load.committed


async def test_what_one_process_could_not_write_is_not_believed_by_another_that_noticed_nothing(
    server: PrivateRedis, clients: list[Redis]
) -> None:
    (cut_off, backend), (other, _) = on(clients[0]), on(clients[1])
    moved, kept = a_view(1), a_view(1)
    await cut_off.read([moved.id, kept.id])
    await cut_off.write([moved, kept])
    assert await other.read([moved.id, kept.id]) == {moved.id: moved, kept.id: kept}

    async def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    with pytest.MonkeyPatch.context() as patch:  # only this process cannot reach Redis
        patch.setattr(clients[0].connection_pool, "get_connection", refuse)
        since = other.mark
        await cut_off.write([a_view(2, moved.id)])  # committed, and not in Redis
        assert await cut_off.read([kept.id]) == {}
        assert await other.read([kept.id]) == {kept.id: kept}
    await until(lambda: serves(backend))

    assert await other.read([moved.id, kept.id]) == {}
    await other.write([moved], since=since)  # what it had read from PostgreSQL before, late
    assert await other.read([moved.id]) == {}
    await other.write([a_view(3, moved.id)])
    assert await cut_off.read([moved.id]) == {moved.id: a_view(3, moved.id)}


async def test_a_transition_during_an_outage_takes_the_callers_key_from_memory_and_from_redis(
    server: PrivateRedis, clients: list[Redis]
) -> None:
    (hot, backend), cache, job = on(clients[0]), CacheRepository(clients[0]), a_view(1)
    await cache.set(f"job:{job.id}", "before")
    server.kill()
    await cache.set(f"job:{job.id}", "meanwhile")
    assert await cache.get(f"job:{job.id}") == "meanwhile"

    await hot.write([job])

    assert await cache.get(f"job:{job.id}") is None
    server.start()
    await until(lambda: serves(backend))
    assert await cache.get(f"job:{job.id}") is None


async def test_a_server_restarted_unnoticed_with_older_data_is_not_believed(
    server: PrivateRedis, clients: list[Redis]
) -> None:
    (hot, backend), job = on(clients[0]), a_view(1)
    await hot.read([job.id])
    await hot.write([job])
    await clients[0].connection_pool.disconnect()  # idle: no call of this process fails

    server.kill()
    server.start()
    async with Redis.from_url(server.url) as probe:
        await until(lambda: answers(probe))
        assert await probe.exists(f"cache:status:{job.id}")

    assert await hot.read([job.id]) == {}
    assert backend.circuit_state is CircuitState.CLOSED
