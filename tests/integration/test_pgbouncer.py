"""Everything works through a real PgBouncer in transaction mode, where clients share few server connections."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker
from sqlalchemy import URL, text

from repositories.database import DatabaseManager
from repositories.engine import through_pgbouncer
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.prepared import Prepared
from repositories.schemas import Finish, Held
from repositories.states import ItemStatus, JobStatus
from tests.engines import NotingEngine
from tests.factories import LEASE, hold, queued_jobs
from tests.servers import SERVER_CONNECTIONS, pgbouncer
from worker.client import JobClient, open_client
from worker.execution import execute
from worker.files import FileSource
from worker.leases import LeaseKeeper
from worker.main import worker_settings
from worker.queue import JobQueue
from worker.run import Runtime
from worker.settings import Settings
from worker.storage import Storage
from worker.tasks import TASKS
from worker.uploads.opening import make_sources


@pytest.fixture
def unmarked(database_url: str) -> Iterator[URL]:
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("there is no pgbouncer on the PATH: apt-get install pgbouncer")
    with pgbouncer(program, database_url) as url:
        yield url


@pytest.fixture
def pooled_url(unmarked: URL) -> str:
    return through_pgbouncer(unmarked).render_as_string(hide_password=False)


@pytest.fixture
async def pooled(pooled_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(pooled_url) as manager:
        yield manager


async def _live_one_life(manager: DatabaseManager, job_id: UUID, worker: str) -> Held | None:
    """Claim, extend and finish one job, each in a transaction of its own; ``None`` if another worker was first."""
    async with manager.get_transaction() as session:
        claimed = await JobRepository(session).claim([job_id], worker, LEASE)
    if not claimed:
        return None
    held = hold(claimed[0])
    async with manager.get_transaction() as session:
        assert await JobRepository(session).extend_leases([held], LEASE)
    async with manager.get_transaction() as session:
        outcome = await JobRepository(session).finish([Finish(held, JobStatus.COMPLETED, {"by": worker}, None)])
        assert list(outcome.moved) == [job_id]
    return held


@pytest.mark.slow
@pytest.mark.own_database
async def test_one_of_many_rivals_wins_each_job_though_all_share_three_connections(
    pooled_url: str, database: DatabaseManager
) -> None:
    seed = random.randrange(10**6)  # noqa: S311 - an order, not a secret
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    async with AsyncExitStack() as stack:
        managers = [
            await stack.enter_async_context(DatabaseManager(pooled_url, pool_size=8, max_overflow=0)) for _ in range(3)
        ]
        async with managers[0].get_transaction() as session:
            ids = [job.id for job in await queued_jobs(JobRepository(session), 25)]
        rivals = [(manager, job_id, f"worker-{n}") for n, manager in enumerate(managers) for job_id in ids]
        random.Random(seed).shuffle(rivals)  # noqa: S311 - an order, not a secret

        ends = await asyncio.gather(*(_live_one_life(*rival) for rival in rivals))

        async with database.get_session() as session:
            shared = await session.scalar(
                text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> :me"),
                {"me": await session.scalar(text("SELECT pg_backend_pid()"))},
            )
            jobs = await JobRepository(session).get_many(ids)
    assert sorted(held.job_id for held in ends if held is not None) == sorted(ids)
    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}
    assert shared == SERVER_CONNECTIONS


async def test_a_transaction_has_its_bounds_and_leaves_nothing_behind(pooled: DatabaseManager, unmarked: URL) -> None:
    names = ("statement_timeout", "jit", "timezone")
    async with pooled.get_session() as session:
        assert [await session.scalar(text(f"SHOW {name}")) for name in names] == ["1min", "off", "UTC"]
        await session.commit()
        assert await session.scalar(text("SHOW statement_timeout")) == "1min"  # the session's next transaction
        used = await session.scalar(text("SELECT pg_backend_pid()"))

    url = unmarked.set(drivername="postgresql").render_as_string(hide_password=False)
    other = await asyncpg.connect(url, statement_cache_size=0)
    try:
        async with other.transaction():
            # PgBouncer lends the connection that was used last.
            assert await other.fetchval("SELECT pg_backend_pid()") == used
            assert await other.fetchval("SHOW statement_timeout") == "0"
            # Names would be in the way of another process, which counts from one, too.
            assert await other.fetch("SELECT name FROM pg_prepared_statements") == []
    finally:
        await other.close()


async def test_a_cursor_goes_on_between_other_statements_of_its_transaction(pooled: DatabaseManager) -> None:
    async with pooled.get_transaction() as session:
        made = await queued_jobs(JobRepository(session), 50)

    async def read() -> set[UUID]:
        async with pooled.get_read_session() as session:
            jobs = JobRepository(session)
            return {job.id async for job in jobs.stream(batch=10) if await jobs.exists(job.id)}

    assert await asyncio.gather(*(read() for _ in range(8))) == [{job.id for job in made}] * 8


async def _extended(client: JobClient, job_id: UUID, first: datetime | None) -> None:
    """Return once the job's lease reaches further than it did at first."""
    while True:
        if (await client.status(job_id)).lease_expires_at != first:
            return
        await asyncio.sleep(0.05)


async def test_an_attempt_keeps_its_lease_and_records_its_items(
    pooled: DatabaseManager,
    pooled_url: str,
    queue: JobQueue,
    storage: Storage,
    settings: Settings,
    engine: NotingEngine,
) -> None:
    client = JobClient(pooled, queue, storage, settings, engine="noting")
    job = await client.upload_documents("handbook", [FileSource(f"{n}.txt", b"%d" % n) for n in range(6)])
    leases = LeaseKeeper(pooled_url, lease=timedelta(seconds=5), every=timedelta(seconds=0.1))
    await leases.start()
    try:
        engine.gate.clear()
        runtime = Runtime(settings, pooled, queue, make_sources(settings), engine, leases, "worker-1", TASKS)
        attempt = asyncio.create_task(execute(runtime, str(job.id)))
        await asyncio.wait_for(engine.entered.wait(), 10)
        first = (await client.status(job.id)).lease_expires_at
        await asyncio.wait_for(_extended(client, job.id, first), 10)
        engine.gate.set()
        await attempt
    finally:
        await leases.stop()

    after = await client.status(job.id)
    async with pooled.get_session() as session:
        items = await ItemRepository(session).list(job.id)
    assert (after.status, after.attempt, after.items_done) == (JobStatus.COMPLETED, 1, 6)
    assert [item.status for item in items] == [ItemStatus.DONE] * 6


async def test_a_worker_of_the_settings_does_a_job(settings: Settings, unmarked: URL, redis: ArqRedis) -> None:
    given = settings.model_dump() | {
        "database_url": unmarked.render_as_string(hide_password=False),
        "database_pgbouncer": True,
    }
    through = Settings.model_validate(given)
    async with open_client(through) as client:
        job = await client.upload_documents("handbook", [FileSource("pump.txt", b"The pump needs oil.")])
        worker = Worker(**worker_settings(through), burst=True, handle_signals=False)
        try:
            await worker.main()
        finally:
            await worker.close()

        after = await client.status(job.id)
    assert (after.status, after.items_done) == (JobStatus.COMPLETED, 1), after.errors


async def test_a_lane_has_its_bounds_there_and_leaves_none_of_its_statements_behind(pooled: DatabaseManager) -> None:
    bound = Prepared(text("SELECT current_setting('statement_timeout'), count(*) FROM pg_prepared_statements"))
    async with AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(pooled.lane()) for _ in range(2 * SERVER_CONNECTIONS)]
        for _ in range(3):
            answers = await asyncio.gather(*(lane.rows(bound, {}) for lane in lanes))
            assert [tuple(rows[0]) for rows in answers] == [("1min", 0)] * len(lanes)
