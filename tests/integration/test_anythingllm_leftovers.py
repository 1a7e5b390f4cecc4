"""No empty folder stays on the server: not those that it makes of workbooks, nor those of what was replaced."""

from uuid import uuid4

import pytest
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from repositories.models import Job
from tests.anythingllm_server import Server
from tests.integration.anythingllm_engines import XLSX, Look, document, make_engine, workbook
from tests.integration.anythingllm_fixtures import *  # noqa: F403 - fixtures
from worker.client import JobClient
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.anythingllm.removing import Removing
from worker.engines.base import Document, EngineUnavailableError
from worker.execution import execute
from worker.files import FileSource
from worker.payloads import OnDuplicate
from worker.run import Runtime

UPLOAD = "upload-to-folder"


@pytest.fixture(autouse=True)
async def nothing_else(server: Server) -> None:
    """Folders of other tests are none of this one's."""
    await server.restart()


def book() -> Document:
    return document(workbook(Prices="Nails", Stock="Screws"), name="book.xlsx", media_type=XLSX)


async def test_a_workbook_leaves_no_empty_folder(engine: AnythingLLMEngine, look: Look, slug: str) -> None:
    sent = book()
    stored = await engine.add_document(slug, sent)
    await engine.embed(slug, stored)
    assert await look.on_disk(sent.job_id) == sorted(stored.locations)
    assert await look.empty_folders() == []


@pytest.mark.parametrize("kind", ["drop_after", "truncated_json"])
async def test_a_workbook_whose_reply_was_lost_leaves_no_empty_folder(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str, kind: str
) -> None:
    await server.control(faults={kind: {"routes": [UPLOAD], "most": 2}})
    await engine.add_document(slug, book())
    assert await look.empty_folders() == []


async def test_the_folder_of_a_workbook_whose_worker_died_is_swept(
    engine: AnythingLLMEngine,
    server: Server,
    database: DatabaseManager,
    redis: ArqRedis,
    look: Look,
    slug: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def died(*_: object) -> None:
        raise EngineUnavailableError("engine_unavailable", "killed")

    sent = book()
    lost = make_engine(server, database, redis)
    with monkeypatch.context() as patched:
        patched.setattr(Removing, "remove_folder", died)
        with pytest.raises(EngineUnavailableError):
            await lost.add_document(slug, sent)
    await lost.aclose()
    assert len(await look.empty_folders()) == 1

    await engine.sweep(slug, sent.job_id, [])
    assert await look.empty_folders() == []


async def test_a_removed_workbook_leaves_no_empty_folder(engine: AnythingLLMEngine, look: Look, slug: str) -> None:
    first, second = book(), book()
    stored = [await engine.add_document(slug, each) for each in (first, second)]
    for each in stored:
        await engine.embed(slug, each)
    await engine.remove(slug, stored[0].locations)
    assert await look.empty_folders() == []
    assert await look.listed(slug) == sorted(stored[1].locations)


async def ran(client: JobClient, runtime: Runtime, job: Job) -> Job:
    await execute(runtime, str(job.id))
    return await client.status(job.id)


async def test_what_was_replaced_leaves_no_empty_folder(
    client: JobClient, runtime: Runtime, look: Look, engine: AnythingLLMEngine
) -> None:
    name = f"shop {uuid4()}"
    files = [FileSource("a.txt", b"It opens at nine."), FileSource("b.txt", b"It is closed on Sundays.")]
    old = await ran(client, runtime, await client.upload_documents(name, files))

    newer = [FileSource("a.txt", b"It opens at ten.")]
    job = await ran(client, runtime, await client.upload_documents(name, newer, on_duplicate=OnDuplicate.REPLACE))
    assert (job.result or {})["replaced"] == 1
    assert len(await look.on_disk(old.id)) == 1

    last = [FileSource("b.txt", workbook(Days="It opens on Sundays."))]
    job = await ran(client, runtime, await client.upload_documents(name, last, on_duplicate=OnDuplicate.REPLACE))
    assert (job.result or {})["replaced"] == 1
    assert await look.folders(old.id) == []
    assert await look.empty_folders() == []
