"""Nine faults of the older service's code, in the order of the list of them; one test each shows that ours has not."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.cache import CacheRepository, FallbackBackend, reset_shared_memory_backend
from repositories.database import DatabaseManager
from repositories.dependencies import get_cache_repository
from repositories.errors import InvalidTransitionError, NotFoundError, RepositoryError
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import Finish, ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus, JobStatus, JobType
from repositories.workspaces import WorkspaceRepository
from tests.engines import NotingEngine
from tests.factories import hold, running_jobs
from worker.client import JobClient
from worker.execution import execute
from worker.files import find_files
from worker.questions.question_set import Question, QuestionSet
from worker.run import Runtime


async def _committed(database: DatabaseManager, job: Job) -> Job:
    """The job as another transaction finds it on the record."""
    async with database.get_session() as session:
        return await JobRepository(session).get_by_id_or_raise(str(job.id))


async def test_fault_1_metadata_is_stored_merged_and_read_back(database: DatabaseManager) -> None:
    """Theirs was set on an attribute that no column has, and was lost."""
    async with database.get_transaction() as session:
        job = await JobRepository(session).create_job(
            JobType.DOCUMENT_UPLOAD, workspace_id="workspace_123", metadata={"project": "test"}
        )
    assert (await _committed(database, job)).dict()["metadata"] == {"project": "test"}

    async with database.get_transaction() as session:
        await JobRepository(session).update_job_status(job.id, JobStatus.PROCESSING, metadata={"page": 2})
    assert (await _committed(database, job)).job_metadata == {"project": "test", "page": 2}


async def test_fault_2_of_two_reports_at_once_the_second_is_refused_and_not_written_over_the_first(
    database: DatabaseManager,
) -> None:
    """Theirs read the status, then wrote any other: the later writer won."""
    async with database.get_transaction() as session:
        job = await JobRepository(session).create_job(JobType.DOCUMENT_UPLOAD)

    async def fail() -> None:
        async with database.get_transaction() as session:
            await JobRepository(session).update_job_status(job.id, JobStatus.FAILED, error="too late")

    async with database.get_session() as first:
        await JobRepository(first).update_job_status(job.id, JobStatus.COMPLETED, result={"ok": True})
        second = asyncio.create_task(fail())
        waits = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with database.get_session() as watcher:
            while not await watcher.scalar(waits):  # bounded by the test's timeout
                await watcher.rollback()
        await first.commit()
    with pytest.raises(InvalidTransitionError, match="is completed and cannot become failed") as refused:
        await second

    assert isinstance(refused.value, RepositoryError)
    after = await _committed(database, job)
    assert (after.status, after.result, after.errors) == (JobStatus.COMPLETED, {"ok": True}, [])


async def test_fault_3_a_job_needs_nothing_of_the_request_that_made_it(
    database: DatabaseManager,
    client: JobClient,
    runtime: Runtime,
    engine: NotingEngine,
    redis: ArqRedis,
    tmp_path: Path,
) -> None:
    """Theirs went on with the request's session and file after the response was sent and both were closed."""
    upload = tmp_path / "a.txt"
    upload.write_bytes(b"alpha")
    async with database.get_transaction() as request:
        job = await client.upload_documents("handbook", find_files([upload]), session=request)
    upload.unlink()
    await client.settled()
    message = await redis.get(f"arq:job:{job.id}")
    assert message is not None
    assert b"alpha" not in message

    await execute(runtime, str(job.id))

    assert (await _committed(database, job)).status is JobStatus.COMPLETED
    assert list(engine.documents.values()) == [b"alpha"]


async def test_fault_4_the_cache_holds_json_runs_nothing_it_reads_and_clears_only_its_own(
    redis: ArqRedis, tmp_path: Path
) -> None:
    """Theirs unpickled whatever it found, and cleared the whole server. Commands sent are counted with the backends."""
    cache = CacheRepository(redis, namespace=f"fault-{uuid4().hex[:8]}")
    namespace = (await _key_of(cache, redis)).rpartition(":")[0]
    trap = tmp_path / "ran"
    # What that format does with these bytes: it calls os.system with the text in them.
    planted = f"cos\nsystem\n(S'touch {trap}'\ntR.".encode()
    await redis.set(f"{namespace}:planted", planted)
    await redis.set("arq:queue:of-others", "kept")

    assert await cache.get("planted", "nothing") == "nothing"
    assert not trap.exists()
    await cache.set("job", {"id": uuid4(), "tags": ("a",)})
    assert json.loads(await redis.get(f"{namespace}:job"))
    with pytest.raises(TypeError):
        await cache.set("object", object())
    await cache.clear()

    assert await redis.keys(f"{namespace}:*") == []
    assert await redis.get("arq:queue:of-others") == b"kept"


async def _key_of(cache: CacheRepository, redis: ArqRedis) -> str:
    """What a cached value is called in Redis."""
    await cache.set("where", 1)
    (name,) = [name async for name in redis.scan_iter(match="*where")]
    return str(name.decode())


@pytest.fixture
async def revocable(redis: ArqRedis, redis_url: str) -> AsyncIterator[Redis]:
    """A client whose user can be locked out of the server, and let in again."""
    user = f"fault-{uuid4().hex[:8]}"
    await redis.acl_setuser(user, enabled=True, passwords=["+secret"], categories=["+@all"], keys=["*"])
    at = urlsplit(redis_url)
    client = Redis.from_url(at._replace(netloc=f"{user}:secret@{at.hostname}:{at.port}").geturl())
    yield client
    reset_shared_memory_backend()
    await client.aclose()
    await redis.acl_deluser(user)


async def test_fault_5_all_requests_share_one_memory_which_stands_in_and_steps_back_at_run_time(
    redis: ArqRedis, revocable: Redis
) -> None:
    """Theirs chose a backend once, and each request began with an empty memory. Outages have tests of their own."""
    await (await get_cache_repository(None)).set("seen by", "request 1")
    assert await (await get_cache_repository(None)).get("seen by") == "request 1"

    cache = await get_cache_repository(revocable)
    await cache.set("key", "before")
    assert cache.get_backend_type() == "redis"
    user = revocable.connection_pool.connection_kwargs["username"]
    await redis.acl_setuser(user, enabled=False)
    await redis.client_kill_filter(user=user)

    await cache.set("key", "meanwhile")
    assert (cache.get_backend_type(), await (await get_cache_repository(revocable)).get("key")) == (
        "memory",
        "meanwhile",
    )
    await redis.acl_setuser(user, enabled=True)
    assert isinstance(cache.backend, FallbackBackend)
    assert await cache.backend.try_return()
    assert (cache.get_backend_type(), await cache.get("key")) == ("redis", "meanwhile")


async def test_fault_6_a_workspace_that_no_table_knows_is_written_on_a_job(database: DatabaseManager) -> None:
    """Theirs had a foreign key, so that the page's own example failed on a real database."""
    async with database.get_transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM workspaces")) == 0
        job = await JobRepository(session).create_job(JobType.DOCUMENT_UPLOAD, workspace_id="workspace_123")

    assert (await _committed(database, job)).workspace_id == "workspace_123"


@pytest.mark.parametrize("job_id", ["invalid_id", "", "0190f0f0-0000-7000-8000-000000000000"])
async def test_fault_7_a_row_has_a_dict_and_an_id_that_names_no_job_is_not_found(
    jobs: JobRepository, job_id: str
) -> None:
    """Theirs: the page called ``job.dict()`` on rows that had none, and a text that is no id was a database error."""
    job = await jobs.create_job(JobType.DOCUMENT_UPLOAD)
    assert job.dict() | {"id": job.id, "type": "document_upload", "status": JobStatus.PENDING} == job.dict()

    assert await jobs.get_by_id(job_id) is None
    with pytest.raises(NotFoundError):
        await jobs.get_by_id_or_raise(job_id)
    assert await jobs.exists(job.id)  # the transaction is as good as before


async def test_fault_8_each_answer_is_a_row_of_its_own(
    database: DatabaseManager, client: JobClient, runtime: Runtime
) -> None:
    """Theirs kept all answers in one value on the job, and never wrote the table made for them."""
    questions = tuple(Question(id=f"q{n}", text=f"What is {n}?") for n in range(3))
    async with database.get_transaction() as session:
        await WorkspaceRepository(session, "noting").register("handbook", "slug-handbook")
    job = await client.process_questions("handbook", QuestionSet(name="set.csv", questions=questions))

    await execute(runtime, str(job.id))

    async with database.get_session() as session:
        found = await JobRepository(session).get_job_with_results(job.id)
        assert found is not None
        assert [(item.position, item.status) for item in found.items] == [(n, ItemStatus.DONE) for n in range(3)]
        assert all("the answer is 42" in json.dumps(item.result) for item in found.items)
        assert "the answer is 42" not in json.dumps(found.result)


async def test_fault_9_progress_counts_what_is_finished_and_an_end_throws_nothing_away(
    session: AsyncSession, jobs: JobRepository
) -> None:
    """Theirs followed the question's index, so it jumped back; cancel set it to 0, and a timeout lost all answers."""
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), [NewItem(position=at, key=f"q{at}", spec={}) for at in range(4)])
    seen = []
    for position in (3, 0, 2):
        await items.record(hold(job), [ItemOutcome(position=position, status=ItemStatus.DONE, result={"a": position})])
        seen.append((await jobs.get_by_id_or_raise(job.id)).progress)
    assert seen == [25.0, 50.0, 75.0]

    asked = await jobs.cancel_job(job.id)
    assert (asked.status, asked.progress) == (JobStatus.PROCESSING, 75.0)
    timeout = JobError(code="timeout", message="it took too long")
    await jobs.finish([Finish(hold(job), JobStatus.FAILED, None, timeout)])
    ended = await jobs.get_by_id_or_raise(job.id)
    assert (ended.status, ended.progress, ended.items_done) == (JobStatus.FAILED, 75.0, 3)
    assert [item.result for item in await items.list(job.id, ItemStatus.DONE)] == [{"a": 0}, {"a": 2}, {"a": 3}]

    callers = await jobs.create_job(JobType.QUESTION_PROCESSING)
    await jobs.update_job_status(callers.id, JobStatus.PROCESSING, progress=60.0)
    assert (await jobs.update_job_status(callers.id, JobStatus.PROCESSING, progress=20.0)).progress == 60.0
    cancelled = await jobs.cancel_job(callers.id)
    assert (cancelled.status, cancelled.progress) == (JobStatus.CANCELLED, 60.0)
