"""The cron tasks."""

import io
import os
import time
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from repositories.documents import DocumentRepository
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.states import JobStatus
from tests.factories import job_in
from worker.client import JobClient
from worker.execution import execute
from worker.files import FileSource
from worker.main import worker_settings
from worker.run import Runtime
from worker.settings import Settings
from worker.storage import StoredBytesMissingError
from worker.tasks.maintenance import cleanup, roll_up, sweep_storage


async def test_retention_deletes_what_is_old_and_keeps_the_rest(runtime: Runtime) -> None:
    async with runtime.database.get_transaction() as session:
        old, recent = [await job_in(JobRepository(session), JobStatus.COMPLETED) for _ in range(2)]
        statement = text("UPDATE jobs SET completed_at = completed_at - make_interval(days => :days) WHERE id = :id")
        await session.execute(statement, {"days": runtime.settings.job_cleanup_days + 1, "id": old.id})

    await cleanup({"runtime": runtime})

    async with runtime.database.get_session() as session:
        left = await JobRepository(session).get_many([old.id, recent.id])
    assert [job.id for job in left] == [recent.id]


async def test_the_hours_that_are_over_are_written_once(runtime: Runtime) -> None:
    async with runtime.database.get_transaction() as session:
        await job_in(JobRepository(session), JobStatus.COMPLETED)
        await session.execute(text("UPDATE jobs SET completed_at = completed_at - interval '3 hours'"))

    await roll_up({"runtime": runtime})
    await roll_up({"runtime": runtime})

    async with runtime.database.get_session() as session:
        assert await session.scalar(text("SELECT count(*) FROM statistics")) == 1


def test_statistics_are_written_before_the_jobs_that_they_count_are_deleted(settings: Settings) -> None:
    minutes = {cron.name: cron.minute for cron in worker_settings(settings)["cron_jobs"]}

    assert minutes["cron:roll_up"] < minutes["cron:cleanup"]


# --- stored bytes ---------------------------------------------------------------------------------------------------


async def uploaded(client: JobClient, contents: dict[str, bytes]) -> tuple[Job, list[str]]:
    """A job, and under which digests its files are in storage."""
    job = await client.upload_documents("handbook", [FileSource(name, content) for name, content in contents.items()])
    assert job.payload is not None
    return job, [file["sha256"] for file in job.payload["files"]]


def age_stored_bytes(settings: Settings) -> None:
    """Let more time pass than jobs are kept."""
    then = time.time() - timedelta(days=settings.job_cleanup_days + 2).total_seconds()
    for path in Path(settings.storage_url).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


async def test_a_sweep_keeps_what_can_be_tried_again_and_deletes_the_rest(
    client: JobClient, runtime: Runtime, settings: Settings
) -> None:
    _, waiting = await uploaded(client, {"waiting.txt": b"waiting"})
    cancelled, of_cancelled = await uploaded(client, {"cancelled.txt": b"cancelled"})
    await client.cancel([cancelled.id])
    failed, of_failed = await uploaded(client, {"failed.txt": b"reject, all of it"})
    partly, (good, bad) = await uploaded(client, {"good.txt": b"good", "bad.txt": b"reject"})
    done, of_done = await uploaded(client, {"done.txt": b"done"})
    for job in (failed, partly, done):
        await execute(runtime, str(job.id))
    ends = [(await client.status(job.id)).status for job in (cancelled, failed, partly, done)]
    assert ends == [JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.COMPLETED]
    age_stored_bytes(settings)

    await sweep_storage({"runtime": runtime})

    storage = runtime.sources.storage
    for sha256 in (*waiting, *of_cancelled, *of_failed, bad):
        await storage.get(sha256)
    for sha256 in (good, *of_done):
        with pytest.raises(StoredBytesMissingError):
            await storage.get(sha256)


async def test_bytes_that_only_an_item_names_are_needed_while_it_can_be_tried_again(
    client: JobClient, runtime: Runtime
) -> None:
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr("bad.txt", "reject")
    job, (sha256,) = await uploaded(client, {"pack.zip": pack.getvalue()})
    await execute(runtime, str(job.id))

    async def needed(statement: str) -> set[str]:
        async with runtime.database.get_transaction() as session:
            await session.execute(text(statement))
            return await DocumentRepository(session).bytes_still_needed()

    # As if the archive had come from a link: its digest is in no payload.
    assert await needed("UPDATE jobs SET payload = payload - 'files'") == {sha256}
    assert await needed("UPDATE jobs SET items_failed = 0, items_done = 2") == set()


async def test_what_is_needed_is_asked_once_however_many_bytes_are_old(
    client: JobClient, runtime: Runtime, settings: Settings, statements: list[str]
) -> None:
    await uploaded(client, {f"{number}.txt": b"%d" % number for number in range(1_200)})
    age_stored_bytes(settings)
    statements.clear()

    await sweep_storage({"runtime": runtime})

    assert len([one for one in statements if "sha256" in one]) == 1, statements
