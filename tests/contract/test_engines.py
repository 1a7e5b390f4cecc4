"""What every engine promises a task, whichever it is.

Each test here runs on each engine in ``ENGINES``; an engine that is added there keeps the same contract. It asks for
nothing that depends on how an engine words an answer, counts words or parts a document: what is promised of one engine
alone is in a module of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from tests.anythingllm_server import Behaviour, Server, running_server
from tests.anythingllm_server.driver import Driver
from tests.contract.engine_fixtures import (
    HOURS,
    JOB,
    OTHER_JOB,
    PARKING,
    WHEN,
    WORKSPACE,
    again,
    document,
    places,
    put,
    quoted,
)
from tests.integration.anythingllm_engines import make_engine
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.base import (
    Document,
    DocumentRejectedError,
    Engine,
    StoredDocument,
    WorkspaceSettings,
    WorkspaceUnknownError,
)
from worker.engines.local import LocalEngine

Make = Callable[[], Engine]
"""Makes an engine as one more worker has it; all of them work against the same system."""

BRANCHES = tuple(enumerate(("Dresden", "Leipzig", "Chemnitz", "Zwickau", "Plauen", "Bautzen"), start=6))


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Server]:
    with running_server(Behaviour.quick()) as server:
        yield server


@asynccontextmanager
async def local_engines(database: DatabaseManager, _redis: ArqRedis, _server: Server) -> AsyncIterator[Make]:
    made: list[LocalEngine] = []

    def make() -> Engine:
        made.append(LocalEngine(database, parsers=1))
        return made[-1]

    yield make
    for engine in made:
        await engine.aclose()


@asynccontextmanager
async def anythingllm_engines(database: DatabaseManager, redis: ArqRedis, server: Server) -> AsyncIterator[Make]:
    made = list[AnythingLLMEngine]()

    def make() -> Engine:
        made.append(make_engine(server, database, redis))
        return made[-1]

    yield make
    for engine in made:
        await engine.aclose()
    await leave_empty(server)


async def leave_empty(server: Server) -> None:
    """Remove all workspaces and all folders of jobs: each test has a database of its own, and one server for all."""
    async with Driver(server.url, server.api_key.get_secret_value()) as driver:
        for workspace in (await driver.get("workspaces")).json()["workspaces"]:
            await driver.delete(f"workspace/{workspace['slug']}")
        for folder in (await driver.get("documents")).json()["localFiles"]["items"]:
            await driver.delete("document/remove-folder", {"name": folder["name"]})


# For each engine, what opens the system it works against and closes it at the end.
ENGINES: dict[str, Callable[[DatabaseManager, ArqRedis, Server], AbstractAsyncContextManager[Make]]] = {
    "anythingllm": anythingllm_engines,
    "local": local_engines,
}


@pytest.fixture(params=sorted(ENGINES))
async def workers(
    request: pytest.FixtureRequest, database: DatabaseManager, redis: ArqRedis, stand_in: Server
) -> AsyncIterator[Make]:
    """Makes engines of one kind that share their system, and gives back what they hold."""
    async with ENGINES[request.param](database, redis, stand_in) as make:
        yield make


@pytest.fixture
def engine(workers: Make) -> Engine:
    return workers()


@pytest.fixture
def other(engine: Engine, workers: Make) -> Engine:
    """The same engine, as another worker has it."""
    return workers()


async def test_a_workspace_keeps_its_slug_whoever_asks_for_it(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Field service 2025")
    assert (
        slug
        == await engine.ensure_workspace("Field service 2025")
        == await other.ensure_workspace("Field service 2025")
    )


async def test_two_names_that_look_alike_are_two_workspaces(engine: Engine) -> None:
    names = ("Field service", "field-service", "FIELD SERVICE!", "\u4e2d\u6587", "\u6587\u4e2d")
    assert len({await engine.ensure_workspace(name) for name in names}) == len(names)


async def test_a_workspace_made_by_many_at_once_is_one(engine: Engine, other: Engine) -> None:
    made = await asyncio.gather(*(maker.ensure_workspace("New") for maker in [engine, other] * 10))
    assert len(set(made)) == 1


async def test_a_workspace_refuses_in_the_words_of_its_settings_until_others_are_given(
    engine: Engine, other: Engine
) -> None:
    slug = await engine.ensure_workspace("Shop", WorkspaceSettings(refusal="Ask at the counter.", top_n=5))
    assert (await engine.ask(slug, WHEN)).text == "Ask at the counter."
    await other.ensure_workspace("Shop")
    await other.ensure_workspace("Shop", WorkspaceSettings(top_n=3))
    assert (await other.ask(slug, WHEN)).text == "Ask at the counter."
    await other.ensure_workspace("Shop", WorkspaceSettings(refusal="Ask Marta."))
    answer = await engine.ask(slug, WHEN)
    assert (answer.text, answer.refused) == ("Ask Marta.", True)


async def test_a_deleted_workspace_is_unknown_and_made_anew_it_is_empty(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    await put(engine, slug, HOURS)
    assert await engine.delete_workspace(slug) is True
    assert await other.delete_workspace(slug) is False
    with pytest.raises(WorkspaceUnknownError):
        await other.locations(slug)

    made_anew = await other.ensure_workspace("Shop")

    assert await other.locations(made_anew) == frozenset()
    assert (await other.ask(made_anew, WHEN)).refused
    await put(other, made_anew, again(HOURS))
    assert not (await other.ask(made_anew, WHEN)).refused


async def test_a_document_is_stored_once_per_key_whichever_attempt_brings_it(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    first = await engine.add_document(slug, HOURS)
    assert first.key == HOURS.key
    same = await engine.add_document(slug, again(HOURS))
    later = await other.add_document(slug, again(HOURS, attempt=2))
    assert (same.key, same.locations) == (later.key, later.locations) == (first.key, first.locations)
    await other.embed(slug, later)
    assert await engine.locations(slug) == places(first)


async def test_a_key_that_is_held_decides_whatever_its_content_is_now(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    first = await engine.add_document(slug, HOURS)
    changed = document("hours.md", PARKING.read(), position=HOURS.position, attempt=2)
    assert (await engine.add_document(slug, changed)).locations == first.locations


async def test_the_same_content_under_another_key_is_another_document(engine: Engine) -> None:
    slug, elsewhere = await engine.ensure_workspace("Shop"), await engine.ensure_workspace("Farm")
    copy = document("copy of hours.md", HOURS.read())
    stored = await put(engine, slug, HOURS, copy)
    (far,) = await put(engine, elsewhere, document("hours.md", HOURS.read(), job_id=OTHER_JOB))
    assert len(places(*stored, far)) == 3
    assert await engine.locations(slug) == places(*stored)
    assert await engine.locations(elsewhere) == places(far)


async def test_an_embedded_document_answers_and_is_named_as_the_source(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    await put(engine, slug, HOURS)
    answer = await engine.ask(slug, WHEN)
    assert not answer.refused
    assert answer.text
    assert [source.document for source in answer.sources] == ["hours.md"]
    assert "9:15" in answer.sources[0].text
    assert answer.sources[0].page is None


async def test_a_source_has_the_whole_name_that_its_document_was_stored_under(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    name = "manuals/2025 \u2013 caf\u00e9/opening hours (v2).md"
    await put(engine, slug, document(name, HOURS.read()))
    assert {source.document for source in (await engine.ask(slug, WHEN)).sources} == {name}


async def test_embedding_again_changes_nothing(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored = [await engine.add_document(slug, each) for each in WORKSPACE[:3]]
    await asyncio.gather(*(worker.embed(slug, each) for each in stored for worker in (engine, other)))
    before = await engine.ask(slug, "What does the Tern T7 weigh?")
    assert before.sources
    for each in stored:
        await other.embed(slug, each)
    assert await engine.locations(slug) == places(*stored)
    assert quoted(await engine.ask(slug, "What does the Tern T7 weigh?")) == quoted(before)


async def test_it_is_told_once_when_a_document_is_embedded_and_only_its_check_is_left(
    engine: Engine, other: Engine
) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored, later = [await engine.add_document(slug, each) for each in (HOURS, PARKING)]
    told = list[str]()

    await engine.embed(slug, stored, on_embedded=partial(told.append, "the first of its workspace"))
    await other.embed(slug, later, on_embedded=partial(told.append, "another"))
    await other.embed(slug, stored, on_embedded=partial(told.append, "one that is embedded"))

    assert told == ["the first of its workspace", "another", "one that is embedded"]


async def test_many_first_documents_at_once_all_become_searchable(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    files = [document(f"{city}.md", f"The branch in {city} opens at {at}:30 on Saturdays.\n") for at, city in BRANCHES]

    async def store(worker: Engine, file: Document) -> StoredDocument:
        stored = await worker.add_document(slug, file)
        await worker.embed(slug, stored)
        return stored

    stored = await asyncio.gather(*(store((engine, other)[at % 2], file) for at, file in enumerate(files)))

    assert await engine.locations(slug) == places(*stored)
    for _, city in BRANCHES:
        answer = await other.ask(slug, f"When does the branch in {city} open on Saturdays?")
        assert f"{city}.md" in {source.document for source in answer.sources}


async def test_a_workspace_answers_from_its_own_documents_alone(engine: Engine) -> None:
    shop, farm, empty = [await engine.ensure_workspace(name) for name in ("Shop", "Farm", "Empty")]
    rules = document("rules.md", "# Rules\n\nOn Saturdays dogs wait outside the farm shop, which opens late.")
    await put(engine, shop, HOURS)
    await put(engine, farm, rules)
    assert {source.document for source in (await engine.ask(shop, WHEN)).sources} == {"hours.md"}
    assert {source.document for source in (await engine.ask(farm, WHEN)).sources} <= {"rules.md"}
    answer = await engine.ask(empty, WHEN)
    assert (answer.refused, answer.sources) == (True, ())
    assert answer.text


async def test_a_removed_document_stands_and_answers_no_more_and_the_others_do(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    hours, parking = await put(engine, slug, HOURS, PARKING)
    for _ in range(2):  # what is not there is no error
        await other.remove(slug, [*hours.locations, "0198c0de-0000-7000-8000-000000000000", "no location at all"])
    await other.remove(slug, [])
    assert await engine.locations(slug) == places(parking)
    assert "hours.md" not in {source.document for source in (await engine.ask(slug, WHEN)).sources}
    answer = await engine.ask(slug, "Where are bicycles parked, behind the dairy?")
    assert "parking.md" in {source.document for source in answer.sources}


async def test_a_removed_document_is_stored_anew_by_a_later_attempt(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    (first,) = await put(engine, slug, HOURS)
    await engine.remove(slug, first.locations)
    (anew,) = await put(engine, slug, again(HOURS, attempt=2))
    assert await engine.locations(slug) == places(anew)
    assert {source.document for source in (await engine.ask(slug, WHEN)).sources} == {"hours.md"}


async def test_a_sweep_removes_what_a_job_left_behind_and_nothing_else(engine: Engine, other: Engine) -> None:
    slug, elsewhere = await engine.ensure_workspace("Shop"), await engine.ensure_workspace("Farm")
    kept, embedded = await put(engine, slug, HOURS, PARKING)
    await engine.add_document(slug, WORKSPACE[0])
    foreign = document("foreign.md", WORKSPACE[1].read(), job_id=OTHER_JOB, position=HOURS.position)
    (of_other_job,) = await put(engine, slug, foreign)
    (far,) = await put(engine, elsewhere, document("far.md", WORKSPACE[2].read(), job_id=OTHER_JOB))

    assert await other.sweep(slug, JOB, kept.locations) == 2
    assert await other.sweep(slug, JOB, kept.locations) == 0

    assert await engine.locations(slug) == places(kept, of_other_job)
    assert await engine.locations(elsewhere) == places(far)
    assert (await engine.add_document(slug, again(HOURS, attempt=2))).locations == kept.locations
    assert not places(await engine.add_document(slug, again(PARKING, attempt=2))) & places(embedded)


async def test_a_workspace_that_nobody_made_is_unknown(engine: Engine) -> None:
    nothing = StoredDocument(key=HOURS.key, locations=("0198c0de-0000-7000-8000-000000000000",))
    with pytest.raises(WorkspaceUnknownError):
        await engine.add_document("nowhere", HOURS)
    with pytest.raises(WorkspaceUnknownError):
        await engine.embed("nowhere", nothing)
    with pytest.raises(WorkspaceUnknownError):
        await engine.locations("nowhere")
    with pytest.raises(WorkspaceUnknownError):
        await engine.remove("nowhere", nothing.locations)
    with pytest.raises(WorkspaceUnknownError):
        await engine.ask("nowhere", WHEN)
    assert await engine.delete_workspace("nowhere") is False


@pytest.mark.parametrize("location", ["0198c0de-0000-7000-8000-000000000000", "no id at all"])
async def test_what_is_not_stored_cannot_be_embedded(engine: Engine, location: str) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored = await engine.add_document(slug, HOURS)
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, stored.model_copy(update={"locations": (*stored.locations, location)}))
    assert caught.value.code == "not_stored"


@pytest.mark.parametrize(("name", "content"), [("cut.pdf", b"%PDF-1.7\n1 0 obj"), ("blank.txt", b" \n ")])
async def test_a_broken_document_is_refused_and_the_next_is_stored(engine: Engine, name: str, content: bytes) -> None:
    slug = await engine.ensure_workspace("Shop")
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.add_document(slug, document(name, content))
    assert caught.value.code in {"corrupt", "no_text"}
    assert name in caught.value.message
    (stored,) = await put(engine, slug, HOURS)
    assert await engine.locations(slug) == places(stored)


async def test_a_file_is_read_from_its_start_wherever_it_was_left(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    file = again(HOURS)
    file.file.read()
    await put(engine, slug, file)
    assert "9:15" in (await engine.ask(slug, WHEN)).sources[0].text
    assert not file.file.closed, "whoever made it closes it"


async def test_an_engine_that_answers_is_healthy(engine: Engine) -> None:
    await engine.health()


async def test_an_engine_that_answers_is_not_left_alone(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    for position in range(6):
        with pytest.raises(DocumentRejectedError):  # the document's fault, not the engine's
            await engine.add_document(slug, document("cut.pdf", b"%PDF-1.7\n1 0 obj", position=position))
    assert await engine.away() == {}
    assert await other.away() == {}
