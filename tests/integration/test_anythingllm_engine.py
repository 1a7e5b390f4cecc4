"""The AnythingLLM engine against a server that behaves as the real one: each document stands once, or says why not."""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import structlog
from arq.connections import ArqRedis
from pydantic import SecretStr

from repositories.database import DatabaseManager
from repositories.errors import DatabaseUnavailableError
from repositories.workspaces import WorkspaceRepository
from tests.anythingllm_server import Behaviour, Server
from tests.integration.anythingllm_engines import HOURS, XLSX, Look, document, make_engine, stands_once, workbook
from tests.integration.anythingllm_fixtures import *  # noqa: F403 - fixtures
from tests.waiting import until
from worker.engines.anythingllm import AnythingLLMEngine, finding, naming, storing
from worker.engines.base import (
    Document,
    DocumentRejectedError,
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    StoredDocument,
    Work,
    WorkspaceSettings,
    WorkspaceUnknownError,
)

UPLOAD, EMBED = "upload-to-folder", "update-embeddings"
LOST = ("drop_before", "drop_after", "drop_midway", "truncated_json", "http_500", "http_502", "html_200")
PAGE = "html_200"


def once(kind: str, *routes: str, most: int = 1) -> dict[str, object]:
    return {kind: {"routes": routes, "most": most}}


def noting(done: list[str], name: str, call: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """The same call, which notes that it was made."""

    async def noted(*arguments: Any) -> object:
        done.append(name)
        return await call(*arguments)

    return noted


# The good path


async def test_a_document_is_stored_embedded_and_answered_from_in_three_calls(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    await server.reset_counters()
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    requests = (await server.counters()).requests
    assert requests == {UPLOAD: 1, EMBED: 1, "vector-search": 1}
    assert (stored.opening, stored.words > 5) == (HOURS, True)
    await stands_once(look, slug, stored)

    answer = await engine.ask(slug, "When does the shop open on Saturdays?")
    assert "nine" in answer.text
    assert not answer.refused
    assert answer.sources[0].document == "manuals/hours.txt"
    assert answer.sources[0].text == HOURS


async def test_what_is_embedded_is_not_embedded_again(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    await server.reset_counters()
    await engine.embed(slug, stored)
    assert EMBED not in (await server.counters()).requests
    await stands_once(look, slug, stored)


async def test_the_reply_of_a_large_upload_is_not_held(engine: AnythingLLMEngine, slug: str) -> None:
    stored = await engine.add_document(slug, document("All shops open at nine. " * 200_000))
    assert len(stored.opening) == 500


async def test_a_key_that_is_held_is_not_stored_twice(engine: AnythingLLMEngine, look: Look, slug: str) -> None:
    sent = document()
    first, second = await engine.add_document(slug, sent), await engine.add_document(slug, sent)
    assert first == second
    assert await look.on_disk(sent.job_id) == list(first.locations)


# Uploads that went wrong on the way


@pytest.mark.parametrize("kind", LOST)
async def test_an_upload_whose_reply_is_lost_is_stored_once(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str, kind: str
) -> None:
    await server.control(faults=once(kind, UPLOAD, most=2))
    sent = document()
    stored = await engine.add_document(slug, sent)
    assert sum((await server.counters()).faults.values()) >= 1
    assert await look.on_disk(sent.job_id) == list(stored.locations)
    await engine.embed(slug, stored)
    await stands_once(look, slug, stored)


async def test_an_upload_that_takes_too_long_is_looked_for_before_it_is_sent_again(
    server: Server, database: DatabaseManager, redis: ArqRedis, look: Look
) -> None:
    engine = make_engine(server, database, redis, upload_timeout_seconds=0.3)
    slug = await engine.ensure_workspace(f"Shop {uuid4()}")
    await server.control(faults=once("slow", UPLOAD))
    sent = document()
    stored = await engine.add_document(slug, sent)
    assert (await server.counters()).requests[UPLOAD] == 1
    assert await look.on_disk(sent.job_id) == list(stored.locations)
    await engine.aclose()


async def test_a_clash_of_names_is_tried_under_another_name(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(faults=once("upload_clash", UPLOAD, most=2))
    sent = document()
    await engine.add_document(slug, sent)
    (uploaded,) = (await server.counters()).uploaded
    assert uploaded == f"{sent.job_id}-0-1-3.txt"


async def test_the_next_attempt_finds_what_the_first_stored(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, look: Look, slug: str
) -> None:
    sent = document()
    stored = await engine.add_document(slug, sent)  # and dies before it can say so
    other = make_engine(server, database, redis)
    again = await other.add_document(slug, document(job_id=sent.job_id, attempt=2))
    assert again.locations == stored.locations
    await other.embed(slug, again)  # without the opening words: they came with the upload's reply
    await stands_once(look, slug, again)
    await other.aclose()


async def test_of_two_copies_the_one_that_stands_in_the_workspace_is_kept(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, look: Look, slug: str
) -> None:
    job_id = uuid4()
    copies = [make_engine(server, database, redis) for _ in range(2)]
    first = await copies[0].add_document(slug, document(job_id=job_id))
    second = await copies[1].add_document(slug, document(job_id=job_id))
    assert first.locations != second.locations
    await copies[1].embed(slug, second)
    kept = await engine.add_document(slug, document(job_id=job_id, attempt=2))
    assert kept.locations == second.locations
    assert await look.on_disk(job_id) == list(second.locations)
    for each in copies:
        await each.aclose()


async def test_the_items_of_a_later_attempt_list_the_folder_once(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, slug: str
) -> None:
    job_id = uuid4()
    for position in range(3):
        await engine.add_document(slug, document(f"Number {position}.", job_id=job_id, position=position))
    later = make_engine(server, database, redis)
    await server.reset_counters()
    sent = [document(f"Number {at}.", job_id=job_id, position=at, attempt=2) for at in range(3)]
    await asyncio.gather(*(later.add_document(slug, each) for each in sent))
    requests = (await server.counters()).requests
    assert (requests.get("documents-folder"), requests.get(UPLOAD)) == (1, None)
    await later.aclose()


async def test_what_was_removed_since_the_folder_was_listed_is_sent_anew(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, slug: str
) -> None:
    job_id = uuid4()
    first, second = [
        await engine.add_document(slug, document(f"Number {at}.", job_id=job_id, position=at)) for at in range(2)
    ]
    later = make_engine(server, database, redis)
    found = await later.add_document(slug, document("Number 0.", job_id=job_id, position=0, attempt=2))
    await engine.remove(slug, second.locations)
    again = await later.add_document(slug, document("Number 1.", job_id=job_id, position=1, attempt=2))
    await later.embed(slug, again)
    await later.aclose()
    assert found.locations == first.locations
    assert again.locations != second.locations


# Documents that cannot be stored


@pytest.mark.parametrize(
    ("name", "media_type", "content", "code"),
    [
        ("empty.txt", "text/plain", b"", "no_text"),
        ("blank.txt", "text/plain", b" \n  ", "no_text"),
        ("cut.pdf", "application/pdf", b"%PDF-1.7\n1 0 obj", "corrupt"),
        ("tool.exe", "application/octet-stream", b"MZ\x00\x00\x01\x02" * 50, "unsupported_type"),
        ("old.doc", "application/msword", b"\xd0\xcf\x11\xe0" * 50, "corrupt"),
    ],
)
async def test_a_document_that_cannot_be_read_is_rejected_with_its_name_and_code(
    engine: AnythingLLMEngine, look: Look, slug: str, name: str, media_type: str, content: bytes, code: str
) -> None:
    sent = document(content, name=name, media_type=media_type)
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.add_document(slug, sent)
    assert caught.value.code == code
    assert name in caught.value.message
    assert await look.on_disk(sent.job_id) == []


async def test_a_document_that_the_server_always_fails_on_is_rejected_in_the_end(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(faults={"http_500": {"routes": [UPLOAD]}})
    sent = document()
    for _ in range(2):  # as the next attempts of its job do
        with pytest.raises(EngineUnavailableError):
            await engine.add_document(slug, sent)
    await server.control(collector_down=True)
    with pytest.raises(EngineUnavailableError, match="collector is down"):
        await engine.add_document(slug, sent)
    await server.control(collector_down=False)
    with pytest.raises(DocumentRejectedError, match=r"hours.txt: .* in a row") as caught:
        await engine.add_document(slug, sent)
    assert caught.value.code == "corrupt"
    await server.control(faults={})
    assert (await engine.add_document(slug, sent)).words > 0


async def test_a_document_is_not_blamed_for_connections_that_break(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(faults={"drop_before": {"routes": [UPLOAD]}})
    sent = document()
    for _ in range(4):
        with pytest.raises(EngineUnavailableError):
            await engine.add_document(slug, sent)


# Outages


async def test_a_collector_that_is_down_is_no_fault_of_the_document(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(collector_down=True)
    sent = document()
    with pytest.raises(EngineUnavailableError, match="collector is down"):
        await engine.add_document(slug, sent)
    with pytest.raises(EngineUnavailableError, match="collector"):
        await engine.health()
    await server.control(collector_down=False)
    await engine.health()
    assert (await engine.add_document(slug, sent)).words > 0


async def test_an_embedder_that_is_down_is_no_fault_of_the_document(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    stored = await engine.add_document(slug, document())
    await server.control(embedder_down=True)
    with pytest.raises(EngineUnavailableError, match="embedder is down"):
        await engine.embed(slug, stored)
    await server.control(embedder_down=False)
    await engine.embed(slug, stored)
    await stands_once(look, slug, stored)
    await server.control(embedder_down=True)
    with pytest.raises(EngineUnavailableError, match="embed"):
        await engine.ask(slug, "When does the shop open?")


async def test_a_server_that_asks_to_wait_is_obeyed(engine: AnythingLLMEngine, server: Server, slug: str) -> None:
    await server.control(faults=once("http_429_retry_after", UPLOAD), retry_after_seconds=7)
    with pytest.raises(EngineUnavailableError) as caught:
        await engine.add_document(slug, document())
    assert caught.value.retry_after == 7


async def test_a_server_that_is_not_there_is_unavailable(database: DatabaseManager, redis: ArqRedis) -> None:
    server = Server(Behaviour(), None)  # never started
    engine = make_engine(server, database, redis)
    with pytest.raises(EngineUnavailableError):
        await engine.health()
    with pytest.raises(EngineUnavailableError, match="tried 4 times"):
        await engine.ensure_workspace("Shop")
    await engine.aclose()


# Refusals


async def test_a_page_instead_of_the_api_is_told_apart(
    server: Server, database: DatabaseManager, redis: ArqRedis
) -> None:
    engine = AnythingLLMEngine(server.root_url, server.api_key, database, redis)
    with pytest.raises(EngineRefusedError, match="is /api missing") as caught:
        await engine.health()
    assert caught.value.code == "not_the_api"
    await engine.aclose()


async def test_a_page_that_comes_between_for_a_moment_is_no_wrong_url(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    routes = ("workspace", "vector-search", "chat")
    await server.control(faults={PAGE: {"routes": routes, "rate": 0.5, "most": 3}}, seed=4)
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    assert await engine.locations(slug) == set(stored.locations)
    assert "nine" in (await engine.ask(slug, "When does the shop open on Saturdays?")).text
    assert (await server.counters()).faults == {PAGE: 3}
    await stands_once(look, slug, stored)


async def test_a_page_that_stays_is_refused_after_some_tries(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(faults={PAGE: {}})
    await server.reset_counters()
    with pytest.raises(EngineRefusedError) as caught:
        await engine.locations(slug)
    assert caught.value.code == "not_the_api"
    assert (await server.counters()).requests == {"workspace": 4}
    with pytest.raises(EngineRefusedError, match="is /api missing"):
        await engine.health()


async def test_a_wrong_key_is_refused_and_never_shown(
    server: Server, database: DatabaseManager, redis: ArqRedis
) -> None:
    url = server.url.replace("://", "://someone:hidden@") + "/"
    engine = AnythingLLMEngine(url, SecretStr("WRONG-KEY-0001"), database, redis)
    with pytest.raises(EngineRefusedError) as caught:
        await engine.health()
    assert caught.value.code == "key_refused"
    shown = f"{caught.value!r} {engine!r} {vars(engine)!r} {engine._transport!r}"
    assert not any(secret in shown for secret in ("WRONG-KEY", "hidden", "someone"))
    await engine.aclose()


async def test_a_protected_workspace_is_not_deleted_and_loses_nothing(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    await server.control(deletion_protection=True)
    with pytest.raises(EngineRefusedError) as caught:
        await engine.delete_workspace(slug)
    assert caught.value.code == "deletion_protected"
    await stands_once(look, slug, stored)


class FarFile(io.BytesIO):
    """A file whose reading waits until it is let go on, as one in an object store may."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.is_read, self.goes_on = threading.Event(), threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        self.is_read.set()
        if not self.goes_on.wait(5):
            raise RuntimeError("nobody let the reading go on: does it hold the event loop?")
        return super().read(size)


async def test_a_file_that_is_slow_to_read_does_not_hold_the_event_loop(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    far = FarFile(HOURS.encode() * 40_000)  # more than is read at a time
    adding = asyncio.create_task(engine.add_document(slug, replace(document(), file=far, size=len(far.getvalue()))))
    await asyncio.to_thread(far.is_read.wait, 10)
    assert not adding.done()
    far.goes_on.set()
    stored = await adding
    assert stored.words == len((HOURS * 40_000).split())


async def test_an_upload_that_is_given_up_leaves_its_file_before_it_ends(engine: AnythingLLMEngine, slug: str) -> None:
    far = FarFile(HOURS.encode())
    adding = asyncio.create_task(engine.add_document(slug, replace(document(), file=far, size=len(HOURS))))
    await asyncio.to_thread(far.is_read.wait, 10)
    adding.cancel()
    assert await asyncio.wait({adding}, timeout=0.2) == (set(), {adding})
    far.goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await adding


async def test_a_database_that_is_away_is_not_taken_for_the_server(server: Server, redis: ArqRedis) -> None:
    async with DatabaseManager("postgresql+asyncpg://nobody@127.0.0.1:1/none") as nowhere:
        engine = make_engine(server, nowhere, redis)
        with pytest.raises(DatabaseUnavailableError):
            await engine.ensure_workspace("Shop")
        await engine.aclose()


# Embedding


async def test_first_embeddings_of_many_workers_lose_nothing(
    server: Server, database: DatabaseManager, redis: ArqRedis, look: Look
) -> None:
    await server.control(table_seconds=0.05)
    engines = [make_engine(server, database, redis) for _ in range(2)]
    name = f"Shop {uuid4()}"
    slugs = await asyncio.gather(*(each.ensure_workspace(name) for each in engines))
    slug = slugs[0]
    contents = [f"Article Q{number} costs {number} coins." for number in range(8)]

    async def put(number: int) -> StoredDocument:
        engine = engines[number % 2]
        stored = await engine.add_document(slug, document(contents[number]))
        await engine.embed(slug, stored)
        return stored

    stored = await asyncio.gather(*map(put, range(8)))
    counters = await server.counters()
    assert (counters.skipped, counters.lost_vectors) == ({}, {})
    assert await look.listed(slug) == sorted(each.locations[0] for each in stored)
    assert counters.most_at_once[EMBED] > 1  # after the first they are side by side
    for each in engines:
        await each.aclose()


async def test_a_document_that_was_left_out_silently_is_sent_again(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    await server.control(faults=once("embed_silent", EMBED))
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    assert (await server.counters()).faults == {"embed_silent": 1}
    await stands_once(look, slug, stored)


async def test_a_document_that_is_never_embedded_is_rejected(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(faults={"embed_silent": {"routes": [EMBED]}})
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, await engine.add_document(slug, document()))
    assert caught.value.code == "not_embedded"


async def test_a_row_without_vectors_is_repaired(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document("The farm sells milk.")))
    await server.control(faults=once("embed_row_without_vectors", EMBED))
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    assert (await server.counters()).faults == {"embed_row_without_vectors": 1}
    assert (await look.listed(slug)).count(stored.locations[0]) == 1
    assert (await look.found(slug, HOURS)).count(f"job://{stored.key}") == 1


async def test_repairing_a_document_belongs_to_its_check(
    engine: AnythingLLMEngine, server: Server, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document("The farm sells milk.")))
    await server.control(faults=once("embed_row_without_vectors", EMBED))
    stored = await engine.add_document(slug, document())
    done = list[str]()
    for call in ("update_embeddings", "search"):
        monkeypatch.setattr(engine._api, call, noting(done, call, getattr(engine._api, call)))

    await engine.embed(slug, stored, on_embedded=partial(done.append, "embedded"))

    assert done[:2] == ["update_embeddings", "embedded"]
    assert done[2:].count("update_embeddings") == 1
    assert done[-1] == "search"


async def test_a_second_row_is_removed(engine: AnythingLLMEngine, look: Look, slug: str) -> None:
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    for _ in range(2):
        await look.post(f"workspace/{slug}/update-embeddings", {"adds": list(stored.locations)})
    assert len(await look.listed(slug)) == 3
    await engine.embed(slug, stored)
    await stands_once(look, slug, stored)


@pytest.mark.parametrize("kind", LOST)
async def test_an_embedding_whose_reply_is_lost_is_done_once(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str, kind: str
) -> None:
    await server.control(faults=once(kind, EMBED))
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    counters = await server.counters()
    assert sum(counters.faults.values()) == 1
    was_done = kind in {"drop_after", "drop_midway", "truncated_json"}
    assert counters.requests[EMBED] == (1 if was_done else 2)  # what was done is found, not sent again
    await stands_once(look, slug, stored)


async def test_an_embedding_that_was_given_up_is_waited_for_as_long_again(
    server: Server, database: DatabaseManager, redis: ArqRedis, look: Look
) -> None:
    bounds = {"timeout_seconds": 0.6, "embed_timeout_seconds": 0.6, "settle_seconds": 0.0}
    engine = make_engine(server, database, redis, **bounds)
    slug = await engine.ensure_workspace(f"Shop {uuid4()}")
    stored = await engine.add_document(slug, document())
    await server.control(embed_seconds=0.9)  # the server goes on when nobody waits for it any more
    await engine.embed(slug, stored)
    assert (await server.counters()).requests[EMBED] == 1
    await stands_once(look, slug, stored)
    await engine.aclose()


async def test_documents_that_begin_alike_are_told_apart_by_their_names(
    engine: AnythingLLMEngine, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_NEAREST", (1,))
    with structlog.testing.capture_logs() as logged:
        for city in ("Dresden", "Leipzig", "Chemnitz", "Zwickau"):
            await engine.embed(slug, await engine.add_document(slug, document(name=f"{city}.txt")))
    assert logged == []


@pytest.mark.parametrize("mode", ["default", "rerank"])
async def test_a_document_is_not_rejected_because_others_are_nearer(
    engine: AnythingLLMEngine, look: Look, slug: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    if mode == "default":
        monkeypatch.setattr(finding, "_NEAREST", (2, 10))
    await look.post(f"workspace/{slug}/update", {"vectorSearchMode": mode})
    job_id = uuid4()
    with structlog.testing.capture_logs() as logged:
        stored = [await engine.add_document(slug, document(job_id=job_id, position=position)) for position in range(12)]
        for each in stored:
            await engine.embed(slug, each)
    assert {entry["event"] for entry in logged} == {"engine.not_seen"}
    assert await look.listed(slug) == sorted(location for each in stored for location in each.locations)


async def test_what_is_not_stored_any_more_cannot_be_embedded(engine: AnythingLLMEngine, slug: str) -> None:
    stored = await engine.add_document(slug, document())
    await engine.remove(slug, stored.locations)
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, stored)
    assert caught.value.code == "not_stored"


async def test_a_workspace_made_anew_by_somebody_else_counts_as_empty(
    engine: AnythingLLMEngine, database: DatabaseManager, look: Look
) -> None:
    name = f"Shop {uuid4()}"
    slug = await engine.ensure_workspace(name)
    await engine.embed(slug, await engine.add_document(slug, document()))
    async with database.get_session() as session:
        assert await WorkspaceRepository(session, "anythingllm").is_embedded(slug)
    await look.delete(f"workspace/{slug}")
    again = await engine.ensure_workspace(name)
    async with database.get_session() as session:
        assert not await WorkspaceRepository(session, "anythingllm").is_embedded(again)
    assert again not in engine._embedding._has_table


# Removal


async def test_removal_leaves_no_row_of_a_document_that_was_embedded_twice(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    sent = document()
    stored = await engine.add_document(slug, sent)
    await engine.embed(slug, stored)
    await look.post(f"workspace/{slug}/update-embeddings", {"adds": list(stored.locations)})
    await engine.remove(slug, stored.locations)
    assert (await look.listed(slug), await look.on_disk(sent.job_id), await look.found(slug, HOURS)) == ([], [], [])
    await engine.remove(slug, stored.locations)  # what is not there is no error


async def test_a_sweep_removes_what_a_job_left_and_nobody_keeps(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, look: Look, slug: str
) -> None:
    job_id = uuid4()
    other = await engine.add_document(slug, document("Somebody else's."))
    await engine.embed(slug, other)
    kept = await engine.add_document(slug, document(job_id=job_id))
    twin = make_engine(server, database, redis)
    lost = await twin.add_document(slug, document(job_id=job_id))
    await twin.aclose()
    for each in (kept, lost):
        await engine.embed(slug, each)
    assert await engine.sweep(slug, job_id, kept.locations) == 1
    assert await look.on_disk(job_id) == list(kept.locations)
    assert await look.listed(slug) == sorted([*kept.locations, *other.locations])
    assert await engine.sweep(slug, job_id, []) == 1
    assert await look.folders(job_id) == []
    assert await look.listed(slug) == list(other.locations)
    assert await engine.sweep(slug, job_id, []) == 0


async def test_a_sweep_that_is_repeated_lists_no_folder_again_that_it_found_empty(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    sent = document()
    stored = await engine.add_document(slug, sent)
    tries = [naming.folder_of_item(sent.job_id, 3, attempt) for attempt in range(1, 31)]
    for folder in tries:
        await engine._removing.note_folder(sent.job_id, folder)
    asked = list[int | None]()
    for _ in range(2):
        await server.reset_counters()
        assert await engine.sweep(slug, sent.job_id, stored.locations) == 0
        asked.append((await server.counters()).requests.get("documents-folder"))
    assert asked == [31, 1]


async def test_a_sweep_leaves_one_row_of_what_is_kept(engine: AnythingLLMEngine, look: Look, slug: str) -> None:
    sent = document()
    stored = await engine.add_document(slug, sent)
    await engine.embed(slug, stored)
    for _ in range(2):  # as a server does that goes on with calls whose client has left
        await look.post(f"workspace/{slug}/update-embeddings", {"adds": list(stored.locations)})
    assert await engine.sweep(slug, sent.job_id, stored.locations) == 0
    await stands_once(look, slug, stored)


async def test_a_document_that_people_put_into_another_workspace_too_is_removed_from_both(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    elsewhere = await engine.ensure_workspace(f"Farm {uuid4()}")
    stored = await engine.add_document(slug, document())
    await engine.embed(slug, stored)
    await look.post(f"workspace/{elsewhere}/update-embeddings", {"adds": list(stored.locations)})
    await engine.remove(slug, stored.locations)
    for each in (slug, elsewhere):
        assert (await look.listed(each), await look.found(each, HOURS)) == ([], [])


async def test_an_attempt_that_is_lost_removes_nothing_of_the_one_that_owns_the_job(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, look: Look, slug: str
) -> None:
    job_id = uuid4()
    owned = await engine.add_document(slug, document(job_id=job_id, attempt=2))
    await server.control(faults=once("drop_after", UPLOAD))
    late = make_engine(server, database, redis)  # sends as attempt 1, loses the reply, and looks
    found = await late.add_document(slug, document(job_id=job_id))
    assert found.locations == owned.locations
    assert set(owned.locations) < set(await look.on_disk(job_id))
    await engine.embed(slug, owned)
    assert await engine.sweep(slug, job_id, owned.locations) == 1
    await stands_once(look, slug, owned)
    await late.aclose()


# Files that become several documents


def book_of(*titles: str, **said: Any) -> Document:
    sheets = {title: f"{title} costs {at} coins" for at, title in enumerate(titles)}
    return document(workbook(**sheets), name="book.xlsx", media_type=XLSX, **said)


async def test_a_workbook_of_three_hundred_sheets_stands_once(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    book = book_of(*(f"Sheet{number}" for number in range(300)))
    stored = await engine.add_document(slug, book)
    await engine.embed(slug, stored)
    assert len(stored.locations) == 300
    assert await look.listed(slug) == await look.on_disk(book.job_id) == sorted(stored.locations)
    assert (await server.counters()).requests[EMBED] == 6  # 50 a call: each has its own time
    await engine.remove(slug, stored.locations)
    assert await look.listed(slug) == []


async def test_a_workbook_of_too_many_sheets_is_rejected_and_leaves_nothing(
    engine: AnythingLLMEngine, look: Look, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_MOST_PARTS", 2)
    book = book_of("Nails", "Screws", "Bolts")
    with pytest.raises(DocumentRejectedError, match=r"book.xlsx has 3 sheets") as caught:
        await engine.add_document(slug, book)
    assert caught.value.code == "too_large"
    assert await look.on_disk(book.job_id) == []


async def test_each_sheet_of_a_workbook_needs_its_vectors(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document("The farm sells milk.")))
    await server.control(faults=once("embed_row_without_vectors", EMBED))
    stored = await engine.add_document(slug, book_of("Nails", "Screws", "Bolts"))
    await engine.embed(slug, stored)
    assert (await server.counters()).faults == {"embed_row_without_vectors": 1}
    assert (await look.found(slug, "costs coins")).count(f"job://{stored.key}") == 3


async def test_a_sheet_is_not_stored_because_another_workbook_has_one_of_its_name(
    engine: AnythingLLMEngine, slug: str
) -> None:
    job_id = uuid4()
    first, second = [
        await engine.add_document(slug, book_of("Nails", job_id=job_id, position=position)) for position in range(2)
    ]
    await engine.remove(slug, first.locations)
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, first)
    assert caught.value.code == "not_stored"
    await engine.embed(slug, second)


async def test_every_sheet_of_a_workbook_is_stored_and_searchable(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    job_id = uuid4()
    books = [
        document(
            workbook(Prices=f"Nails {at}", Stock=f"Screws {at}"),
            job_id=job_id,
            position=at,
            name="book.xlsx",
            media_type=XLSX,
        )
        for at in range(2)
    ]
    stored = [await engine.add_document(slug, book) for book in books]
    for each in stored:
        await engine.embed(slug, each)
    # Both have a sheet of each name: in one folder the second would have overwritten the first.
    everything = sorted(location for each in stored for location in each.locations)
    assert len(everything) == 4
    assert await look.listed(slug) == await look.on_disk(job_id) == everything


@pytest.mark.parametrize("kind", ["drop_after", "truncated_json"])
async def test_a_workbook_whose_reply_is_lost_is_stored_once(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str, kind: str
) -> None:
    await server.control(faults=once(kind, UPLOAD))
    book = document(workbook(Prices="Nails", Stock="Screws"), name="book.xlsx", media_type=XLSX)
    stored = await engine.add_document(slug, book)
    assert await look.on_disk(book.job_id) == sorted(stored.locations)
    assert await engine.add_document(slug, book) == stored


async def test_a_sweep_finds_the_workbook_of_an_attempt_that_was_lost(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, look: Look, slug: str
) -> None:
    lost = make_engine(server, database, redis)
    book = document(workbook(Prices="Nails", Stock="Screws"), name="book.xlsx", media_type=XLSX)
    await lost.add_document(slug, book)
    await lost.aclose()
    assert await engine.sweep(slug, book.job_id, []) == 2
    assert await look.folders(book.job_id) == []


# Workspaces


async def test_many_that_ask_for_one_name_get_one_workspace(
    server: Server, database: DatabaseManager, redis: ArqRedis, look: Look
) -> None:
    engines = [make_engine(server, database, redis) for _ in range(3)]
    name = f"Shop {uuid4()}"
    slugs = await asyncio.gather(*(engines[at % 3].ensure_workspace(name) for at in range(9)))
    assert len(set(slugs)) == 1
    assert (await server.counters()).requests["workspace-new"] == 1
    for each in engines:
        await each.aclose()


@pytest.mark.parametrize("kind", ["drop_after", "truncated_json"])
async def test_a_workspace_whose_making_was_not_answered_is_found(
    engine: AnythingLLMEngine, server: Server, kind: str
) -> None:
    await server.control(faults=once(kind, "workspace-new"))
    await engine.ensure_workspace(f"Shop {uuid4()}")
    assert (await server.counters()).requests["workspace-new"] == 1


async def test_the_oldest_workspace_of_a_name_is_taken(engine: AnythingLLMEngine, look: Look) -> None:
    name = f"Shop {uuid4()}"
    made = [(await look.post("workspace/new", {"name": name}))["workspace"]["slug"] for _ in range(2)]
    assert await engine.ensure_workspace(name) == made[0]


async def test_settings_are_sent_only_where_they_differ(engine: AnythingLLMEngine, server: Server) -> None:
    name, settings = f"Shop {uuid4()}", WorkspaceSettings(top_n=7, refusal="We do not know.")
    slug = await engine.ensure_workspace(name, settings)
    await engine.ensure_workspace(name, settings)
    await engine.ensure_workspace(name)
    assert (await server.counters()).requests["workspace-update"] == 1
    assert await engine.ask(slug, "What?") is not None
    assert (await engine.ask(slug, "What?")).text == "We do not know."


async def test_a_deleted_workspace_leaves_nothing_and_its_name_is_free(
    engine: AnythingLLMEngine, database: DatabaseManager, look: Look
) -> None:
    name, sent = f"Shop {uuid4()}", document()
    slug = await engine.ensure_workspace(name)
    await engine.embed(slug, await engine.add_document(slug, sent))
    assert await engine.delete_workspace(slug)
    assert await look.on_disk(sent.job_id) == []
    async with database.get_session() as session:
        assert await WorkspaceRepository(session, "anythingllm").get(name) is None
    assert not await engine.delete_workspace(slug)
    for call in (engine.locations(slug), engine.add_document(slug, sent), engine.ask(slug, "What?")):
        with pytest.raises(WorkspaceUnknownError):
            await call
    assert await engine.locations(await engine.ensure_workspace(name)) == frozenset()


async def test_deleting_a_workspace_takes_no_document_from_another(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    elsewhere, job_id = await engine.ensure_workspace(f"Farm {uuid4()}"), uuid4()
    shared, own, waiting = [
        await engine.add_document(slug, document(job_id=job_id, position=position)) for position in range(3)
    ]
    (lonely,) = (await engine.add_document(elsewhere, document("The farm sells milk."))).locations
    for each in (shared, own):
        await engine.embed(slug, each)
    people = [*shared.locations, lonely]
    await look.post(f"workspace/{elsewhere}/update-embeddings", {"adds": people})
    assert await engine.delete_workspace(elsewhere)
    assert await look.on_disk(job_id) == sorted([*shared.locations, *own.locations, *waiting.locations])
    assert await look.listed(slug) == sorted([*shared.locations, *own.locations])

    elsewhere = await engine.ensure_workspace(f"Farm {uuid4()}")
    await look.post(f"workspace/{elsewhere}/update-embeddings", {"adds": list(shared.locations)})
    assert await engine.delete_workspace(slug)
    assert await look.listed(elsewhere) == list(shared.locations)
    assert own.locations[0] not in await look.on_disk(job_id)


async def test_a_workspace_that_two_delete_at_once_is_deleted(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis, slug: str
) -> None:
    await server.control(latency_seconds=0.05)
    engines = [engine, *(make_engine(server, database, redis) for _ in range(4))]
    assert any(await asyncio.gather(*(each.delete_workspace(slug) for each in engines)))
    with pytest.raises(WorkspaceUnknownError):
        await engine.locations(slug)
    for each in engines[1:]:
        await each.aclose()


async def test_a_workspace_is_made_anew_only_when_its_deletion_is_over(
    engine: AnythingLLMEngine, server: Server, database: DatabaseManager, redis: ArqRedis
) -> None:
    name, sent, other = f"Shop {uuid4()}", document(), make_engine(server, database, redis)
    slug = await engine.ensure_workspace(name)
    await engine.embed(slug, await engine.add_document(slug, sent))
    await server.control(latency_seconds=0.05)
    deleting = asyncio.create_task(engine.delete_workspace(slug))

    async def is_deleted() -> bool:
        return await other._api.workspace(slug) is None

    await until(is_deleted)
    assert not deleting.done()
    assert await other.ensure_workspace(name) == slug
    assert deleting.done()
    assert await deleting
    async with database.get_session() as session:
        assert await WorkspaceRepository(session, "anythingllm").get(name) is not None
    await other.aclose()


@pytest.mark.parametrize("sign", ["x", "\N{GRINNING FACE}"])
async def test_a_workspace_of_the_longest_name_whose_making_was_not_answered_is_found(
    engine: AnythingLLMEngine, server: Server, sign: str
) -> None:
    name = f"{uuid4()}".ljust(255, sign)
    await server.control(faults=once("drop_after", "workspace-new"))
    slug = await engine.ensure_workspace(name)
    assert (await server.counters()).requests["workspace-new"] == 1
    assert await engine.ensure_workspace(name) == slug


@pytest.mark.parametrize(
    "name",
    ['"quoted" & <b>bold</b>.txt', "two\nlines\t.txt", "\N{GRINNING FACE}/\u4e2d\u6587%20.txt", "\\u0041 \0 {}.txt"],
)
async def test_a_document_keeps_its_name_whatever_signs_are_in_it(
    engine: AnythingLLMEngine, look: Look, slug: str, name: str
) -> None:
    stored = await engine.add_document(slug, document(name=name))
    await engine.embed(slug, stored)
    await stands_once(look, slug, stored)
    (source,) = (await engine.ask(slug, "When does the shop open on Saturdays?")).sources
    assert source.document == name


async def test_a_name_with_what_is_no_character_does_not_stop_a_document(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    stored = await engine.add_document(slug, document(name="caf\udce9.txt"))  # as an old archive has it
    await engine.embed(slug, stored)
    await stands_once(look, slug, stored)


# Questions


async def test_a_refusal_is_told_apart_from_an_answer(engine: AnythingLLMEngine, slug: str) -> None:
    answer = await engine.ask(slug, "What is the salary of the chief accountant?")
    assert (answer.refused, answer.sources) == (True, ())
    assert answer.text


async def test_no_question_has_a_part_in_the_next_ones_answer(engine: AnythingLLMEngine, slug: str) -> None:
    await engine.embed(slug, await engine.add_document(slug, document()))
    assert not (await engine.ask(slug, "When does the shop open on Saturdays?")).refused
    assert (await engine.ask(slug, "xylophone zebra quasar?")).refused


async def test_a_question_that_begins_like_a_call_of_an_agent_is_a_question(
    engine: AnythingLLMEngine, slug: str
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document()))
    answer = await engine.ask(slug, "@agent when does the shop open on Saturdays?")
    assert answer.sources


async def test_a_distance_beyond_a_right_angle_scores_nothing(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await server.control(opposite_word="opposite")
    await engine.embed(slug, await engine.add_document(slug, document("The opposite shop opens on Saturdays at nine.")))
    answer = await engine.ask(slug, "The shop opens on Saturdays at nine?")
    assert [source.score for source in answer.sources] == [0.0]


async def test_a_model_that_fails_is_sorted_by_what_it_said(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    await engine.embed(slug, await engine.add_document(slug, document()))
    question = "When does the shop open on Saturdays?"
    await server.control(faults=once("llm_error", "chat"))
    with pytest.raises(EngineError, match="told to fail") as caught:
        await engine.ask(slug, question)
    assert caught.value.code == "unanswered"
    await server.control(faults=once("llm_empty", "chat", most=2))
    await server.reset_counters()
    assert "nine" in (await engine.ask(slug, question)).text
    await server.control(faults={"llm_empty": {"routes": ["chat"]}})
    with pytest.raises(EngineUnavailableError):
        await engine.ask(slug, question)


@pytest.mark.parametrize("question", ["", "  ", "why " * 501])
async def test_a_question_beyond_the_bounds_is_an_error_of_the_caller(
    engine: AnythingLLMEngine, slug: str, question: str
) -> None:
    with pytest.raises(ValueError, match="characters"):
        await engine.ask(slug, question)


# The circuit


async def test_an_engine_that_is_down_is_left_alone_and_tried_again(
    server: Server, database: DatabaseManager, redis: ArqRedis
) -> None:
    engine = make_engine(server, database, redis, circuit_failures=2, circuit_cooling_seconds=0.2)
    slug = await engine.ensure_workspace(f"Shop {uuid4()}")
    await server.control(collector_down=True)
    for _ in range(2):
        with pytest.raises(EngineUnavailableError):
            await engine.add_document(slug, document())
    await server.reset_counters()
    with pytest.raises(EngineUnavailableError) as caught:
        await engine.locations(slug)
    assert caught.value.retry_after is not None
    assert (await server.counters()).requests == {}
    assert (await engine.ask(slug, "When?")).refused  # questions need no collector
    await server.reset_counters()
    state = await engine.circuits[Work.DOCUMENTS].state()
    assert state is not None
    assert (state.is_open, "collector is down" in state.reason) == (True, True)
    away = await engine.away()
    assert away.keys() == {Work.DOCUMENTS}
    assert "collector is down" in away[Work.DOCUMENTS]
    assert (await server.counters()).requests == {}
    await server.control(collector_down=False)

    async def answers() -> bool:
        try:
            return await engine.locations(slug) == frozenset()
        except EngineUnavailableError:
            return False

    await until(answers, seconds=5)
    closed = await engine.circuits[Work.DOCUMENTS].state()
    assert closed is not None
    assert not closed.is_open
    assert await engine.away() == {}
    await engine.aclose()


# All of it at once


async def test_whatever_goes_wrong_each_document_stands_once(
    server: Server, database: DatabaseManager, redis: ArqRedis, look: Look
) -> None:
    engines = [make_engine(server, database, redis, circuit_failures=1_000) for _ in range(2)]
    slug = await engines[0].ensure_workspace(f"Shop {uuid4()}")
    await engines[1].ensure_workspace("Shop")
    everywhere = ("drop_before", "drop_after", "drop_midway", "truncated_json", "http_500", "http_502")
    faults: dict[str, object] = {kind: {"rate": 0.04} for kind in everywhere}
    faults |= {kind: {"rate": 0.1} for kind in ("embed_silent", "embed_row_without_vectors", "upload_clash")}
    await server.control(faults=faults, seed=20_26, table_seconds=0.02)
    job_id = uuid4()

    async def put(position: int) -> StoredDocument:
        for attempt in range(1, 30):
            engine = engines[(position + attempt) % 2]  # the next attempt is another worker's
            sent = document(f"Article Q{position} costs {position} coins.", job_id=job_id, position=position)
            try:
                stored = await engine.add_document(slug, replace(sent, attempt=attempt))
                await engine.embed(slug, stored)
            except (EngineUnavailableError, DocumentRejectedError):
                continue
            return stored
        raise AssertionError(f"document {position} was never stored")

    stored = await asyncio.gather(*map(put, range(24)))
    injected = sum((await server.counters()).faults.values())
    await server.control(faults={})
    assert injected > 20
    keep = [location for each in stored for location in each.locations]
    await engines[0].sweep(slug, job_id, keep)
    assert await look.listed(slug) == sorted(keep)
    assert await look.on_disk(job_id) == sorted(keep)
    found = await look.found(slug, "Article costs coins")
    assert sorted(found) == sorted(f"job://{each.key}" for each in stored)
    for each in engines:
        await each.aclose()
