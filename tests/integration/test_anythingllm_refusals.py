"""What is said of a document that cannot be stored: the true reason, under the name that a person knows it by."""

import re
from uuid import uuid4

import pytest

from tests.anythingllm_server import Server
from tests.integration.anythingllm_engines import HOURS, XLSX, Look, document, empty_workbook
from tests.integration.anythingllm_fixtures import *  # noqa: F403 - fixtures
from tests.pdfs import scanned_pdf, text_pdf
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.base import (
    Document,
    DocumentRejectedError,
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
)

PDF, ODT = "application/pdf", "application/vnd.oasis.opendocument.text"
UPLOAD = "upload-to-folder"
LOCATION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}|job-|\.json")


async def refusal(engine: AnythingLLMEngine, slug: str, sent: Document) -> DocumentRejectedError:
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.add_document(slug, sent)
    assert sent.name in caught.value.message
    assert not LOCATION.search(caught.value.message)
    return caught.value


async def test_a_scan_holds_no_text_and_is_not_sent(engine: AnythingLLMEngine, server: Server, slug: str) -> None:
    await server.control(poison="%PDF-")
    sent = document(scanned_pdf(), name="manuals/scan.pdf", media_type=PDF)
    assert (await refusal(engine, slug, sent)).code == "no_text"
    counters = await server.counters()
    assert (counters.collector_deaths, UPLOAD in counters.requests) == (0, False)


async def test_a_workbook_without_a_cell_holds_no_text_and_leaves_no_folder(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    sent = document(empty_workbook(), name="empty.xlsx", media_type=XLSX)
    assert (await refusal(engine, slug, sent)).code == "no_text"
    assert await look.folders(sent.job_id) == []


async def test_a_pdf_with_a_password_is_encrypted(engine: AnythingLLMEngine, slug: str) -> None:
    sent = document(text_pdf(HOURS, password="secret"), name="plans/secret.pdf", media_type=PDF)
    assert (await refusal(engine, slug, sent)).code == "encrypted"


async def test_a_pdf_that_opens_without_its_password_is_stored(engine: AnythingLLMEngine, slug: str) -> None:
    stored = await engine.add_document(slug, document(text_pdf(HOURS, password=""), name="rights.pdf", media_type=PDF))
    assert "nine" in stored.opening


async def test_a_damaged_pdf_is_corrupt(engine: AnythingLLMEngine, slug: str) -> None:
    sent = document(b"%PDF-1.7 and no more", name="plan.pdf", media_type=PDF)
    assert (await refusal(engine, slug, sent)).code == "corrupt"


async def test_what_the_server_says_of_its_own_names_is_said_of_the_persons_file(
    engine: AnythingLLMEngine, slug: str
) -> None:
    sent = document(b"PK\x03\x04 and no more", name="plans/plan.odt", media_type=ODT)
    assert "No text content found in plans/plan.odt" in (await refusal(engine, slug, sent)).message


async def test_a_document_that_gets_no_vectors_is_named(engine: AnythingLLMEngine, server: Server, slug: str) -> None:
    stored = await engine.add_document(slug, document(name="manuals/hours.txt"))
    await server.control(faults={"embed_silent": {}})
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, stored)
    assert caught.value.code == "not_embedded"
    assert "manuals/hours.txt" in caught.value.message
    assert not LOCATION.search(caught.value.message)


async def test_a_document_that_is_stored_no_more_is_named(engine: AnythingLLMEngine, slug: str) -> None:
    stored = await engine.add_document(slug, document(name="manuals/hours.txt"))
    await engine.remove(slug, stored.locations)
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, stored)
    assert caught.value.code == "not_stored"
    assert "manuals/hours.txt" in caught.value.message
    assert not LOCATION.search(caught.value.message)


async def test_an_embedder_of_another_dimension_stops_uploads_with_the_cause(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    first = await engine.add_document(slug, document())
    await engine.embed(slug, first)
    await server.control(embedder_dimensions=384)
    late = await engine.add_document(slug, document(f"It is open late. {uuid4()}", name="late.txt"))
    for stored in (late, first):  # one is not listed, of the other the search fails
        with pytest.raises(EngineRefusedError, match="384") as caught:
            await engine.embed(slug, stored)
        assert caught.value.code == "embedder_changed"
        assert slug in caught.value.message


async def test_an_embedder_of_another_dimension_stops_questions_with_the_cause(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document()))
    await server.control(embedder_dimensions=384)
    with pytest.raises(EngineError, match="384") as caught:
        await engine.ask(slug, "When does the shop open?")
    assert caught.value.code == "embedder_changed"


async def test_an_embedder_that_is_down_is_told_in_its_own_words(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document()))
    late = await engine.add_document(slug, document(f"It is open late. {uuid4()}"))
    await server.control(embedder_down=True)
    with pytest.raises(EngineUnavailableError, match=r"embedder is down: .*Connection error"):
        await engine.embed(slug, late)


async def test_a_server_that_answers_no_search_is_not_asked_why(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    await server.control(faults={"drop_before": {"routes": ["vector-search"]}})
    await server.reset_counters()
    with pytest.raises(EngineUnavailableError, match="vector-search"):
        await engine.embed(slug, stored)
    assert "chat" not in (await server.counters()).requests
