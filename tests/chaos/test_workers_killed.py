"""Every worker is killed in the middle of a job, and the job goes on where it was."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.hot_status import JobStatusView
from repositories.states import ItemStatus, JobStatus
from worker.cli.context import environment
from worker.client import JobClient, open_client
from worker.files import FileSource
from worker.settings import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

DOCUMENTS = 120
RECOVERY_SECONDS = 15


class Workers:
    """Real worker processes, whose output is kept for the report of a failing test."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._environment = os.environ | environment(settings) | {"LOG_FORMAT": "text", "ITEM_CONCURRENCY": "2"}
        self._log = log
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self._running.append(process)
        return process

    async def kill(self) -> None:
        for process in self._running:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()
        self._running.clear()


@pytest.fixture
async def workers(settings: Settings, redis: ArqRedis, tmp_path: Path) -> AsyncIterator[Workers]:
    running = Workers(settings, tmp_path / "workers.log")
    yield running
    await running.kill()
    print((tmp_path / "workers.log").read_text())  # noqa: T201 - pytest shows it when the test fails


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[JobClient]:
    async with open_client(settings) as client:
        yield client


def documents(count: int) -> list[FileSource]:
    return [FileSource(f"{n:04}.txt", f"Pump {n} needs {n} litres of oil.".encode()) for n in range(count)]


async def until(client: JobClient, job_id: UUID, items: int) -> JobStatusView:
    """Wait until so many items are done."""
    async for job in client.events([job_id]):
        if job.items_done >= items:
            return job
    raise AssertionError(f"the job ended before {items} items were done")


async def stored(database: DatabaseManager) -> list[tuple[str, int]]:
    async with database.get_session() as session:
        rows = await session.execute(text("SELECT name, count(*) FROM documents GROUP BY name ORDER BY name"))
        return [(name, count) for name, count in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("worker", "run"), pytest.param(("arq", "worker.main.WorkerSettings"), marks=pytest.mark.slow)]
)
async def test_a_job_whose_workers_were_all_killed_goes_on_after_its_last_finished_item(
    workers: Workers, client: JobClient, database: DatabaseManager, command: tuple[str, ...]
) -> None:
    job = await client.upload_documents("handbook", documents(DOCUMENTS))
    await workers.start(*command)
    await workers.start(*command)
    await asyncio.wait_for(until(client, job.id, 20), 60)

    await workers.kill()
    killed = time.monotonic()
    before = {item.position: item.finished_at for item in await client.items(job.id) if item.finished_at}
    assert (await client.status(job.id)).status is JobStatus.PROCESSING
    assert len(before) < DOCUMENTS, "the job was over before its workers were killed"
    await workers.start(*command)
    await asyncio.wait_for(until(client, job.id, len(before) + 1), RECOVERY_SECONDS - (time.monotonic() - killed))

    (after,) = await client.wait([job.id], timeout_seconds=60)
    assert (after.status, after.items_done, after.attempt) == (JobStatus.COMPLETED, DOCUMENTS, 2)
    items = await client.items(job.id)
    assert {item.status for item in items} == {ItemStatus.DONE}
    assert {item.position: item.finished_at for item in items if item.position in before} == before
    assert await stored(database) == [(f"{n:04}.txt", 1) for n in range(DOCUMENTS)]


@pytest.mark.slow
async def test_a_worker_that_is_told_to_stop_puts_its_job_back_and_another_goes_on_at_once(
    workers: Workers, client: JobClient, database: DatabaseManager
) -> None:
    workers._environment["SHUTDOWN_GRACE_SECONDS"] = "0"
    job = await client.upload_documents("handbook", documents(DOCUMENTS))
    first = await workers.start("worker", "run")
    await asyncio.wait_for(until(client, job.id, 20), 60)

    first.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(first.wait(), 20) == 0
    put_back = await client.status(job.id)
    assert (put_back.status, put_back.crashes, put_back.failures) == (JobStatus.QUEUED, 0, 0)
    await workers.start("worker", "run")

    (after,) = await client.wait([job.id], timeout_seconds=60)
    assert (after.status, after.items_done, after.crashes) == (JobStatus.COMPLETED, DOCUMENTS, 0)
    assert await stored(database) == [(f"{n:04}.txt", 1) for n in range(DOCUMENTS)]
