"""Section "Examples" of the page: every pattern does what it says, and the app is driven through HTTP."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Message, Receive, Scope, Send

from repositories import CacheRepository, JobRepository, JobStatus, get_cache_repository, get_job_repository
from repositories.cache import MemoryBackend
from repositories.database import DatabaseManager, close_db, get_db_session, get_redis, init_db
from repositories.examples import RepositoryService, create_app
from repositories.examples.__main__ import PATTERNS
from repositories.examples.app import ExampleSettings
from repositories.examples.servers import Opened
from repositories.models import Job
from worker.queue import connect
from worker.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> ExampleSettings:
    """This test's own servers, and nothing from a ``.env``."""
    monkeypatch.setitem(ExampleSettings.model_config, "env_file", None)
    return ExampleSettings(database_url=settings.database_url, redis_url=settings.redis_url)


@pytest.fixture
async def app(example_settings: ExampleSettings) -> AsyncIterator[FastAPI]:
    app = create_app(example_settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def opened(app: FastAPI, redis: Any) -> Opened:
    return Opened(app, app.state.database, CacheRepository(get_redis()))


@pytest.fixture
async def http(app: FastAPI, redis: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        yield client


# What each pattern must have found. Texts of errors are only looked into: they have tests of their own.
FOUND: dict[str, dict[str, Any]] = {
    "dependency_injection": {
        "POST /jobs": "201, pending",
        "PATCH /jobs/{id}": "200, processing, progress 50.0",
        "GET /jobs/invalid_id": "404, there is no job invalid_id",
        "GET /health": "200, healthy True",
    },
    "own_repository": {"rows": 3, "that end in s": ["invoices", "contracts"], "of them": 2},
    "transactions": {
        "committed": 2,
        "rolled back": True,
        "savepoint": "needs another key",
        "kept beside it": 1,
    },
    "error_handling": {
        "NotFoundError": "invalid_id",
        "ConflictError": "report-7",
        "InvalidTransitionError": "found completed, wanted processing",
        "ProtectedFieldError": "update_job_status",
    },
    "bulk_operations": {
        "written": 1_000,
        "given a priority": 1_000,
        "cancelled": 500,
        "deleted": 1_000,
        "cached": 1_000,
        "removed from the cache": 1_000,
    },
    "pagination": {"page 3 of 20": 5, "total": 45, "by cursor": 45, "shown twice": 0},
    "idempotency_key": {"one job": True, "other payload": "payload"},
    "parents": {"before": "pending", "after": "queued", "released": True, "place in the queue": 1},
    "service_layer": {"completed before": 0, "completed after": 1, "result": {"pages": 12}},
    "cache_aside": {
        "cached before the first read": False,
        "cached after it": True,
        "both reads alike": True,
        "jobs": 1,
    },
    "write_through": {"in the database": {"project": "new"}, "in the cache": {"project": "new"}},
    "cache_invalidation": {"forgotten": 2, "left": ["workspace:b:stats"]},
    "health_monitoring": {
        "healthy": True,
        "database": True,
        "cache": "redis",
        "cached keys": 0,
        "hits": 0,
        "misses": 0,
    },
    "cleanup": {"would go": 1, "deleted": 1, "newer one kept": True, "cached copy left": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
async def test_a_pattern_does_what_it_says(name: str, opened: Opened) -> None:
    did = await PATTERNS[name](opened)

    expected = FOUND[name]
    assert did.keys() == expected.keys()
    for fact, value in expected.items():
        if name in {"transactions", "error_handling", "idempotency_key"} and isinstance(value, str):
            assert value in did[fact]
        else:
            assert did[fact] == value, fact


async def test_the_app_answers_as_its_page_says(http: httpx.AsyncClient) -> None:
    made = await http.post("/jobs", json={"type": "document_upload", "workspace_id": "w", "metadata": {"a": 1}})
    job = made.json()
    assert (made.status_code, job["status"], job["metadata"]) == (201, "pending", {"a": 1})

    found = (await http.get(f"/jobs/{job['id']}")).json()
    assert found["job"] == job
    assert found["links"] == {"self": f"/jobs/{job['id']}"}
    assert (await http.get("/workspaces/w/stats")).json()["status_counts"]["completed"] == 0

    done = await http.patch(f"/jobs/{job['id']}", json={"status": "completed", "result": {"pages": 3}})
    assert (done.status_code, done.json()["result"]) == (200, {"pages": 3})
    # Neither the job nor the workspace's figures are served as they were.
    assert (await http.get(f"/jobs/{job['id']}")).json()["job"]["status"] == "completed"
    assert (await http.get("/workspaces/w/stats")).json()["status_counts"]["completed"] == 1

    page = (await http.get("/jobs", params={"workspace_id": "w", "size": 5})).json()
    assert (page["total"], page["pages"], [row["id"] for row in page["items"]]) == (1, 1, [job["id"]])


async def test_the_app_tells_each_error_by_its_status(http: httpx.AsyncClient) -> None:
    job_id = (await http.post("/jobs", json={"type": "document_upload"})).json()["id"]
    await http.patch(f"/jobs/{job_id}", json={"status": "completed"})

    again = await http.patch(f"/jobs/{job_id}", json={"progress": 10})

    assert (again.status_code, again.json()["detail"]) == (
        409,
        f"job {job_id} is completed and cannot become processing",
    )
    assert (await http.get("/jobs/invalid_id")).status_code == 404
    assert (await http.get("/jobs", params={"size": 101})).status_code == 422
    assert (await http.post("/jobs", json={"type": ""})).status_code == 422


async def test_two_jobs_of_one_request_are_written_both_or_neither(http: httpx.AsyncClient) -> None:
    good, bad = {"type": "document_upload"}, {"type": "document_upload", "workspace_id": "\x00"}

    refused = await http.post("/pairs", json={"first": good, "second": bad})

    assert refused.status_code == 422
    assert (await http.get("/jobs")).json()["total"] == 0
    assert len((await http.post("/pairs", json={"first": good, "second": good})).json()) == 2
    assert (await http.get("/jobs")).json()["total"] == 2


async def test_a_success_is_only_told_once_it_is_committed(app: FastAPI, opened: Opened) -> None:
    committed: list[int] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def count_first(message: Message) -> None:
            if message["type"] == "http.response.start":
                async with opened.database.get_session() as session:
                    committed.append(await JobRepository(session).count())
            await send(message)

        await app(scope, receive, count_first)

    job = {"type": "document_upload"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(noting), base_url="http://app") as http:
        await http.post("/jobs", json=job)
        await http.post("/pairs", json={"first": job, "second": job})

    assert committed == [1, 3]


async def test_the_app_opens_one_engine_a_process_and_closes_it(example_settings: ExampleSettings) -> None:
    app = create_app(example_settings)
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="already called"):
            await init_db(example_settings)
        assert get_redis() is not None  # from the one settings object, which names both servers
    with pytest.raises(RuntimeError, match="await init_db"):
        await anext(get_db_session())

    async with app.router.lifespan_context(app):  # and it can be started again
        await app.state.database.ping()


async def test_an_app_whose_database_is_away_does_not_start_and_leaves_nothing_open(
    example_settings: ExampleSettings,
) -> None:
    away = ExampleSettings.model_validate({"database_url": "postgresql://me:hunter2@127.0.0.1:1/db"})
    app = create_app(away)
    with pytest.raises(Exception, match="PostgreSQL does not answer"):
        await app.router.lifespan_context(app).__aenter__()
    await init_db(example_settings)
    await close_db()


async def test_both_dependencies_can_be_replaced(
    app: FastAPI, http: httpx.AsyncClient, session: AsyncSession, opened: Opened
) -> None:
    memory = CacheRepository(backend=MemoryBackend())
    app.dependency_overrides |= {
        get_job_repository: lambda: JobRepository(session),
        get_cache_repository: lambda: memory,
    }

    job = (await http.post("/jobs", json={"type": "document_upload"})).json()

    assert await session.get(Job, job["id"]) is not None  # in the transaction of the test, which is rolled back
    assert await memory.get_keys("job:*") == [f"job:{job['id']}"]
    assert await opened.cache.get_keys() == []
    async with opened.database.get_session() as other:
        assert await JobRepository(other).count() == 0


@pytest.fixture
def service(job_repo: JobRepository, cache_repo: CacheRepository) -> RepositoryService:
    return RepositoryService(job_repo, cache_repo)


async def test_a_job_has_one_cached_copy_however_its_id_is_spelt(service: RepositoryService) -> None:
    job = await service.create_and_cache_job("document_upload")
    spelt: list[UUID | str] = [str(job.id), str(job.id).upper(), job.id.hex, job.id]
    assert [await service.get_job_with_cache(job_id) for job_id in spelt] == [job.dict()] * 4

    await service.update_job_with_cache_invalidation(str(job.id).upper(), JobStatus.PROCESSING, 50.0)

    for job_id in spelt:
        found = await service.get_job_with_cache(job_id)
        assert found is not None
        assert found["progress"] == 50.0
    assert await service.get_job_with_cache("invalid_id" * 1_000) is None


async def test_a_cached_job_costs_no_statement(service: RepositoryService, statements: list[str]) -> None:
    job = await service.create_and_cache_job("document_upload")
    statements.clear()

    assert await service.get_job_with_cache(job.id) == job.dict()

    assert statements == []


async def test_a_workspaces_figures_are_forgotten_and_no_others(service: RepositoryService) -> None:
    for workspace in ("a*", "ab"):
        await service.get_workspace_job_stats(workspace)

    await service.create_and_cache_job("document_upload", "a*")

    assert await service.cache_repo.get_keys("workspace:*") == ["workspace:ab:stats:30"]
    assert (await service.get_workspace_job_stats("a*"))["total_jobs"] == 1


async def test_clean_up_leaves_no_copy_of_what_it_deleted(service: RepositoryService, session: AsyncSession) -> None:
    job = await service.create_and_cache_job("document_upload")
    await service.update_job_with_cache_invalidation(job.id, JobStatus.COMPLETED)
    await service.get_job_with_cache(job.id)
    assert await service.cleanup_old_data() == {"jobs_deleted": 0, "cache_keys_removed": 1}
    await service.get_job_with_cache(job.id)
    await session.execute(text("UPDATE jobs SET completed_at = completed_at - interval '8 days'"))

    assert await service.cleanup_old_data() == {"jobs_deleted": 1, "cache_keys_removed": 1}

    assert await service.get_job_with_cache(job.id) is None


async def test_a_database_that_is_lost_is_told_and_not_raised(opened: Opened) -> None:
    async with opened.database.get_session() as session:
        service = RepositoryService(JobRepository(session), opened.cache)
        assert (await service.get_system_health())["healthy"] is True
        own = await session.scalar(text("SELECT pg_backend_pid()"))
        async with opened.database.get_transaction() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": own})

        health = await service.get_system_health()

        assert (health["healthy"], health["database"]["healthy"], health["cache"]["healthy"]) == (False, False, True)
        assert "PostgreSQL does not answer" in health["database"]["reason"]


def _run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    return subprocess.run(
        [sys.executable, "-m", "repositories.examples", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.slow
def test_the_command_runs_every_pattern_on_servers_of_its_own() -> None:
    ran = _run()

    assert ran.returncode == 0, ran.stderr
    for number, name in enumerate(PATTERNS, 1):
        assert f"{number:>2}  {name}  {(PATTERNS[name].__doc__ or '').strip()}\n" in ran.stdout
    assert 'left       ["workspace:b:stats"]\n' in ran.stdout
    assert ran.stderr == ""


@pytest.mark.slow
def test_on_servers_that_are_there_the_command_touches_nothing_of_theirs(database_url: str, redis_url: str) -> None:
    before = asyncio.run(_write_old_job_and_cache_it(database_url, redis_url))

    ran = _run("cleanup", "parents", "--json", DATABASE_URL=database_url, REDIS_URL=redis_url)

    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["pattern"] for line in told] == ["cleanup", "parents"]
    assert told[0]["did"] == FOUND["cleanup"]
    assert asyncio.run(_what_is_there(database_url, redis_url)) == before


async def _write_old_job_and_cache_it(database_url: str, redis_url: str) -> dict[str, Any]:
    """A job that any clean-up would take, and its copy in the cache that services use."""
    async with DatabaseManager(database_url) as database, database.get_transaction() as session:
        job = await JobRepository(session).create_job("document_upload")
        await JobRepository(session).update_job_status(job.id, JobStatus.COMPLETED)
        await session.execute(text("UPDATE jobs SET completed_at = completed_at - interval '8 days'"))
    client = connect(redis_url)
    await client.flushdb()
    await CacheRepository(client).set(f"job:{job.id}", "a copy")
    await client.aclose(close_connection_pool=True)
    found = await _what_is_there(database_url, redis_url)
    assert (len(found["jobs"]), found["keys"]) == (1, [f"cache:job:{job.id}".encode()])
    return found


async def _what_is_there(database_url: str, redis_url: str) -> dict[str, Any]:
    async with DatabaseManager(database_url) as database, database.get_session() as session:
        jobs = (await session.execute(text("SELECT id, version FROM jobs"))).all()
        names = (await session.scalars(text("SELECT datname FROM pg_database WHERE datname LIKE 'examples%'"))).all()
    client = connect(redis_url)
    keys = sorted(await client.keys("*job*"))
    await client.aclose(close_connection_pool=True)
    return {"jobs": jobs, "databases of examples": names, "keys": keys}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variables", "status", "told"),
    [
        (["nobody"], {}, 2, "there is no 'nobody'"),
        ([], {"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/x"}, 1, "is DATABASE_URL right?"),
        ([], {"DATABASE_URL": "mysql://me:hunter2@127.0.0.1:1/x"}, 1, "must begin with postgresql+asyncpg://"),
    ],
)
def test_what_the_command_cannot_do_is_told_in_a_line(
    arguments: list[str], variables: dict[str, str], status: int, told: str
) -> None:
    ran = _run(*arguments, **({"REDIS_URL": "redis://127.0.0.1:1"} | variables))

    assert ran.returncode == status
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "hunter2" not in ran.stderr
