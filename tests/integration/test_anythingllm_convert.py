"""What AnythingLLM reads badly is read by our parsers first, and goes to it as Markdown under its own name."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from arq.connections import ArqRedis
from pydantic import SecretStr

from repositories.database import DatabaseManager
from repositories.models import Job, JobItem
from repositories.states import ItemStatus
from tests.anythingllm_server import Server
from tests.integration.anythingllm_engines import HOURS, Look, document, make_engine, stands_once
from tests.integration.anythingllm_fixtures import *  # noqa: F403 - fixtures
from tests.pdfs import scanned_pdf, text_pdf
from worker.client import JobClient
from worker.documents.extract import sniffing
from worker.documents.parsing import Parsers
from worker.engine_settings import Convert
from worker.engines.anythingllm import AnythingLLMEngine, reading
from worker.engines.anythingllm.reading import Reading
from worker.engines.base import Document, DocumentRejectedError, EngineDiedError
from worker.execution import execute
from worker.files import FileSource
from worker.main import make_engine as make_chosen_engine
from worker.payloads import OnDuplicate
from worker.run import Runtime
from worker.settings import Settings, SettingsError

UPLOAD = "upload-to-folder"
PAGE = (
    "<!doctype html><html><head><title>Shop</title><style>p{margin:0}</style>"
    "<script>" + "window.dataLayer = window.dataLayer || []; " * 40 + "</script></head>"
    f"<body><nav><a href='/'>Home</a></nav><h1>Hours</h1><p>{HOURS}</p></body></html>"
)
MAIL = f"From: ann@example.org\r\nTo: bob@example.org\r\nSubject: Hours\r\n\r\n{HOURS}\r\n"
RTF = r"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 " + HOURS + r"\par}"
FILES = {"hours.html": PAGE.encode(), "hours.eml": MAIL.encode(), "hours.rtf": RTF.encode()}


def html(content: str = PAGE, **said: object) -> Document:
    return document(content, name="pages/hours.html", media_type=sniffing.HTML, **said)  # type: ignore[arg-type]


@pytest.fixture
async def always(server: Server, database: DatabaseManager, redis: ArqRedis) -> AsyncIterator[AnythingLLMEngine]:
    engine = make_engine(server, database, redis, reading=Reading(Convert.ALWAYS, seconds=30, max_bytes=2**30))
    yield engine
    await engine.aclose()


@pytest.fixture
async def never(server: Server, database: DatabaseManager, redis: ArqRedis) -> AsyncIterator[AnythingLLMEngine]:
    engine = make_engine(server, database, redis, reading=Reading(Convert.NEVER, seconds=30, max_bytes=2**30))
    yield engine
    await engine.aclose()


async def ran(client: JobClient, runtime: Runtime, job: Job) -> Job:
    await execute(runtime, str(job.id))
    return await client.status(job.id)


async def by_name(client: JobClient, job: Job) -> dict[str, JobItem]:
    return {item.key: item for item in await client.items(job.id)}


# What is converted


async def test_what_the_server_reads_badly_is_stored_as_markdown_under_its_own_name(
    client: JobClient, runtime: Runtime, engine: AnythingLLMEngine, look: Look
) -> None:
    name = f"shop {uuid4()}"
    files = [FileSource(file, content) for file, content in FILES.items()]
    job = await ran(client, runtime, await client.upload_documents(name, [*files, FileSource("a.txt", b"Plain text.")]))

    items = await by_name(client, job)
    assert {item.status for item in items.values()} == {ItemStatus.DONE}
    told = {file: item.result or {} for file, item in items.items()}
    assert {file for file, result in told.items() if result.get("converted")} == set(FILES)
    assert {file: result["media_type"] for file, result in told.items()} == {
        "hours.html": sniffing.HTML,
        "hours.eml": sniffing.MAIL,
        "hours.rtf": sniffing.RTF,
        "a.txt": sniffing.TEXT,
    }
    slug = (job.result or {})["workspace_slug"]
    texts = await look.texts(slug)
    assert len(texts) == 4
    assert not [text for text in texts if "dataLayer" in text or "<p>" in text or "rtf1" in text]
    assert sum(HOURS in text for text in texts) == 3
    answer = await engine.ask(slug, "When does the shop open on Saturdays?")
    assert {source.document for source in answer.sources} >= set(FILES)


async def test_a_page_is_uploaded_as_markdown_and_embedded_once(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    sent = html()
    stored = await engine.add_document(slug, sent)
    await engine.embed(slug, stored)
    assert stored.converted
    assert stored.locations[0].startswith(f"job-{sent.job_id}/{sent.job_id}-0-1.md-")
    (upload,) = (await server.counters()).uploads
    assert (upload.metadata["title"], upload.metadata["chunkSource"]) == ("pages/hours.html", f"job://{sent.key}")
    await stands_once(look, slug, stored)


async def test_every_format_is_converted_where_that_is_wanted_with_marks_of_its_pages(
    always: AnythingLLMEngine, look: Look
) -> None:
    slug = await always.ensure_workspace(f"Shop {uuid4()}")
    content = (Path(__file__).parents[2] / "examples/handbook/sales/k-series-data-sheet.pdf").read_bytes()
    stored = await always.add_document(slug, document(content, name="sheet.pdf", media_type=sniffing.PDF))
    await always.embed(slug, stored)
    assert stored.converted
    assert stored.pages is not None
    texts = "\n".join(await look.texts(slug))
    assert all(f"[Page {page}]" in texts for page in range(1, stored.pages + 1))


async def test_text_is_sent_as_it_is_in_any_case(always: AnythingLLMEngine) -> None:
    slug = await always.ensure_workspace(f"Shop {uuid4()}")
    stored = await always.add_document(slug, document())
    assert (stored.converted, stored.opening) == (False, HOURS)


async def test_nothing_is_converted_where_that_is_not_wanted(never: AnythingLLMEngine, server: Server) -> None:
    slug = await never.ensure_workspace(f"Shop {uuid4()}")
    stored = await never.add_document(slug, html())
    assert (stored.converted, stored.opening.startswith("<!doctype html>")) == (False, True)
    with pytest.raises(DocumentRejectedError) as caught:
        await never.add_document(slug, document(MAIL, name="hours.eml", media_type=sniffing.MAIL))
    assert caught.value.code == "unsupported_type"
    await server.reset_counters()
    with pytest.raises(DocumentRejectedError):  # a server with text recognition would read it
        await never.add_document(slug, document(scanned_pdf(), name="scan.pdf", media_type=sniffing.PDF))
    assert (await server.counters()).requests[UPLOAD] == 1


async def test_what_holds_no_text_once_it_is_read_is_not_sent(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.reset_counters()
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.add_document(slug, html("<html><body><script>start()</script></body></html>"))
    assert caught.value.code == "no_text"
    assert "pages/hours.html" in caught.value.message
    assert UPLOAD not in (await server.counters()).requests


async def test_a_document_that_the_server_died_of_is_read_here(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    await server.control(poison="%PDF-", collector_restart_seconds=0.1)
    sent = document(text_pdf(HOURS), name="hours.pdf", media_type=sniffing.PDF)
    with pytest.raises(EngineDiedError):
        await engine.add_document(slug, sent)
    await asyncio.sleep(0.2)
    stored = await engine.add_document(slug, replace(sent, crashes=1, attempt=2))
    await engine.embed(slug, stored)
    assert stored.converted
    await stands_once(look, slug, stored)


# Retries, duplicates, sync


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "truncated_json"])
async def test_a_page_whose_reply_is_lost_is_stored_once_and_read_once(
    engine: AnythingLLMEngine,
    server: Server,
    look: Look,
    slug: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    render = Parsers.render

    async def noted(parsers: Parsers, asked: Document) -> object:
        read.append(asked.name)
        return await render(parsers, asked)

    monkeypatch.setattr(Parsers, "render", noted)
    await server.control(faults={kind: {"routes": [UPLOAD], "most": 2}})
    sent = html()
    stored = await engine.add_document(slug, sent)
    await engine.embed(slug, stored)
    assert read == ["pages/hours.html"]
    assert await look.on_disk(sent.job_id) == list(stored.locations)
    await stands_once(look, slug, stored)


async def test_a_later_attempt_finds_what_the_first_one_converted(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, look: Look, slug: str
) -> None:
    lost = make_engine(server, database, redis)
    sent = html()
    first = await lost.add_document(slug, sent)
    await lost.aclose()
    again = await engine.add_document(slug, replace(sent, attempt=2))
    assert (again.locations, again.converted) == (first.locations, True)
    assert await look.on_disk(sent.job_id) == list(first.locations)


async def test_a_page_is_known_again_by_its_own_bytes(
    client: JobClient, runtime: Runtime, engine: AnythingLLMEngine, look: Look
) -> None:
    name = f"shop {uuid4()}"
    page = FileSource("hours.html", PAGE.encode())
    first = await ran(client, runtime, await client.upload_documents(name, [page], source="site"))
    again = await ran(client, runtime, await client.upload_documents(name, [page], source="site", sync=True))
    (item,) = (await by_name(client, again)).values()
    assert item.status is ItemStatus.SKIPPED

    # Another page whose text is the same is another document, and takes the place of the first.
    other = FileSource("hours.html", PAGE.replace("margin:0", "margin:1").encode())
    newer = await client.upload_documents(name, [other], source="site", sync=True, on_duplicate=OnDuplicate.REPLACE)
    after = await ran(client, runtime, newer)
    assert (after.result or {})["replaced"] == 1
    assert await look.on_disk(first.id) == []
    assert len(await look.listed((after.result or {})["workspace_slug"])) == 1


# Without parsers


@pytest.fixture
def without_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda _: None)


@pytest.mark.usefixtures("without_parsers")
async def test_without_parsers_nothing_is_converted(server: Server, database: DatabaseManager, redis: ArqRedis) -> None:
    engine = make_engine(server, database, redis)
    slug = await engine.ensure_workspace(f"Shop {uuid4()}")
    stored = await engine.add_document(slug, html())
    assert (stored.converted, stored.opening.startswith("<!doctype html>")) == (False, True)
    await engine.aclose()


@pytest.mark.usefixtures("without_parsers")
def test_to_convert_everything_without_parsers_is_refused(
    database: DatabaseManager, redis: ArqRedis, settings: Settings
) -> None:
    chosen = settings.model_copy(
        update={
            "anythingllm_url": "http://localhost:3001/api",
            "anythingllm_api_key": SecretStr("AAAAAAA"),
            "anythingllm_convert": Convert.ALWAYS,
        }
    )
    with pytest.raises(SettingsError, match=r"ANYTHINGLLM_CONVERT=always .*anythingllm-worker\[local\]"):
        make_chosen_engine(chosen, database, redis)
