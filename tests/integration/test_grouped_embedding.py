"""Many documents at a time: few calls, and none is taken for searchable that is not."""

import asyncio
from uuid import UUID, uuid4

import pytest

from tests.anythingllm_server import Fault, FaultKind, Server
from tests.integration.anythingllm_engines import HOURS, Look, document
from tests.integration.anythingllm_own_server import *  # noqa: F403 - fixtures
from worker.engines.anythingllm import AnythingLLMEngine, finding, grouping
from worker.engines.base import StoredDocument

COUNT = 40


@pytest.fixture
async def slug(engine: AnythingLLMEngine, server: Server) -> str:
    slug = await engine.ensure_workspace(f"Shop {uuid4()}")
    await engine.embed(slug, await engine.add_document(slug, document()))
    await server.reset_counters()
    return slug


async def _stored(engine: AnythingLLMEngine, slug: str, job_id: UUID, position: int) -> StoredDocument:
    text = f"Machine M{position} needs {position} litres of oil number {position * 7}."
    stored = await engine.add_document(slug, document(text, name=f"m{position}.txt", job_id=job_id, position=position))
    await engine.embed(slug, stored)
    return stored


async def _all_stored(engine: AnythingLLMEngine, slug: str, count: int = COUNT) -> list[StoredDocument]:
    job_id = uuid4()
    return list(await asyncio.gather(*(_stored(engine, slug, job_id, position) for position in range(count))))


async def _each_is_found(look: Look, slug: str, stored: list[StoredDocument]) -> None:
    listed, found = await look.listed(slug), await look.found(slug, HOURS)
    assert len(listed) == len(set(listed)) == len(stored) + 1
    assert set(found) >= {f"job://{each.key}" for each in stored}


async def test_many_documents_cost_little_more_than_their_uploads(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    stored = await _all_stored(engine, slug)

    requests = (await server.counters()).requests
    assert requests["upload-to-folder"] == COUNT
    assert sum(requests.values()) <= 1.3 * COUNT, requests
    await _each_is_found(look, slug, stored)


async def test_a_lone_document_waits_for_nobody(engine: AnythingLLMEngine, slug: str) -> None:
    async with asyncio.timeout(1.5):
        await _stored(engine, slug, uuid4(), 0)


@pytest.mark.parametrize("kind", [FaultKind.EMBED_ROW_WITHOUT_VECTORS, FaultKind.EMBED_SILENT])
async def test_what_is_missing_of_a_group_is_put_right(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str, kind: FaultKind
) -> None:
    await server.control(faults={kind: Fault(rate=0.2, most=8)})

    stored = await _all_stored(engine, slug)

    assert (await server.counters()).faults
    await _each_is_found(look, slug, stored)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every workspace is one of more passages than a search shows."""
    monkeypatch.setattr(grouping, "MOST_SEARCHED", 5)
    monkeypatch.setattr(finding, "MOST_SEARCHED", 5)
    monkeypatch.setattr(finding, "_NEAREST", (2, 5))


@pytest.mark.usefixtures("large")
async def test_in_a_large_workspace_a_part_of_a_group_is_looked_for(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    stored = await _all_stored(engine, slug)

    assert (await server.counters()).requests["vector-search"] <= COUNT / 4
    await _each_is_found(look, slug, stored)


@pytest.mark.usefixtures("large")
async def test_once_a_document_was_missing_every_one_is_looked_for_and_those_before_it_too(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    before = await _all_stored(engine, slug, 20)
    await server.control(faults={FaultKind.EMBED_ROW_WITHOUT_VECTORS: Fault(rate=0.3, most=6)})
    before += await _all_stored(engine, slug, 20)  # some are taken for searchable, unless one of them is looked for
    await server.control(faults={FaultKind.EMBED_ROW_WITHOUT_VECTORS: Fault(most=1)})
    before.append(await _stored(engine, slug, uuid4(), 0))
    await server.control(faults={FaultKind.EMBED_ROW_WITHOUT_VECTORS: Fault(rate=0.3, most=6)})

    after = await _all_stored(engine, slug, 20)

    await _each_is_found(look, slug, before + after)


@pytest.mark.usefixtures("large")
async def test_a_table_that_was_made_anew_shows_in_the_first_document_of_the_group(
    engine: AnythingLLMEngine, look: Look, slug: str, server: Server
) -> None:
    """What the race of first embeddings does (two tables, the first one lost), here to a whole group."""
    await server.control(faults={FaultKind.EMBED_ROW_WITHOUT_VECTORS: Fault(most=12)})

    stored = await _all_stored(engine, slug, 12)

    await _each_is_found(look, slug, stored)
