"""What every engine promises a task, and what the local engine promises beyond it.

The first part runs on each engine in ``ENGINES``; an engine that is added there keeps the same contract.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.errors import ConflictError
from tests.contract.engine_fixtures import ANSWERABLE, UNANSWERABLE, WORKSPACE, Asked, document
from worker.documents.extract.parser_process import LENGTH, Reply, Request
from worker.engines.base import (
    Answer,
    DocumentRejectedError,
    Engine,
    EngineUnavailableError,
    StoredDocument,
    WorkspaceUnknownError,
)
from worker.engines.local import LocalEngine, embedding, search
from worker.engines.local.answering import REFUSAL
from worker.engines.local.parsing import _Parser
from worker.questions.scoring import contains

ENGINES: dict[str, Callable[[DatabaseManager], Engine]] = {"local": LocalEngine}
HOURS = document("hours.md", "# Opening hours\n\nThe shop opens at 9:15 on Saturdays.\n")
HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"


@pytest.fixture(params=sorted(ENGINES))
async def engine(request: pytest.FixtureRequest, database: DatabaseManager) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param](database)
    yield engine
    await engine.aclose()


@pytest.fixture
async def other(engine: Engine, database: DatabaseManager) -> AsyncIterator[Engine]:
    """The same engine, as another worker has it."""
    engine = ENGINES[engine.name](database)
    yield engine
    await engine.aclose()


async def count(database: DatabaseManager, table: str) -> int:
    async with database.get_session() as session:
        return int(await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - a name from here


# Every engine


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


async def test_a_document_is_stored_once_per_key(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    first = await engine.add_document(slug, HOURS)
    assert first.duplicate_of is None
    assert first.words == 9
    assert await engine.add_document(slug, HOURS) == await other.add_document(slug, HOURS) == first


async def test_the_same_content_under_another_key_is_told_with_the_name_it_has(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    first = await engine.add_document(slug, HOURS)
    copy = document("copy of hours.md", HOURS.content, key="job/2")
    for _ in range(2):  # a second attempt at the copy is told the same
        again = await engine.add_document(slug, copy)
        assert (again.duplicate_of, again.location) == ("hours.md", first.location)


async def test_a_key_that_is_held_decides_whatever_its_content_is_now(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    first = await engine.add_document(slug, HOURS)
    await engine.add_document(slug, WORKSPACE[0])
    changed = document("hours.md", WORKSPACE[0].content, key=HOURS.key)
    assert await engine.add_document(slug, changed) == first


async def test_the_same_content_in_another_workspace_is_no_duplicate(engine: Engine) -> None:
    first = await engine.add_document(await engine.ensure_workspace("One"), HOURS)
    second = await engine.add_document(await engine.ensure_workspace("Two"), HOURS)
    assert second.duplicate_of is None
    assert second.location != first.location


async def test_one_key_stored_by_many_at_once_is_one_document(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored = await asyncio.gather(*(worker.add_document(slug, HOURS) for worker in [engine, other] * 5))
    assert stored == [stored[0]] * 10
    assert stored[0].duplicate_of is None


async def test_one_content_stored_under_two_keys_at_once_is_one_document(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    copy = document("copy.md", HOURS.content, key="job/2")
    stored = await asyncio.gather(engine.add_document(slug, HOURS), other.add_document(slug, copy))
    assert len({document.location for document in stored}) == 1
    assert sum(document.duplicate_of is None for document in stored) == 1


async def test_an_embedded_document_answers_and_is_named_as_the_source(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored = await engine.add_document(slug, HOURS)
    await engine.embed(slug, [stored.location])
    answer = await engine.ask(slug, "When does the shop open on Saturdays?")
    assert not answer.refused
    assert "9:15" in answer.text
    assert [source.document for source in answer.sources] == ["hours.md"]
    assert "9:15" in answer.sources[0].text
    assert answer.sources[0].page is None


async def test_a_source_tells_the_page_where_there_are_pages(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Pumps")
    name = "manuals/k20-operating-manual.pdf"
    stored = await engine.add_document(slug, document(name, (HANDBOOK / name).read_bytes()))
    assert stored.pages == 2
    await engine.embed(slug, [stored.location])
    answer = await engine.ask(slug, "How often is the shaft of a K20 that stands still turned by hand?")
    assert "every 4 weeks" in answer.text
    assert (answer.sources[0].document, answer.sources[0].page) == (name, 2)


async def test_embedding_again_changes_nothing(engine: Engine, other: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored = [await engine.add_document(slug, each) for each in WORKSPACE[:3]]
    locations = [document.location for document in stored]
    await asyncio.gather(engine.embed(slug, locations), other.embed(slug, locations[::-1]))
    before = await engine.ask(slug, "What does the Tern T7 weigh?")
    await engine.embed(slug, [*locations, *locations])
    await engine.embed(slug, [])
    assert await engine.ask(slug, "What does the Tern T7 weigh?") == before


async def test_a_workspace_answers_from_its_own_documents_alone(engine: Engine) -> None:
    shop, farm, empty = [await engine.ensure_workspace(name) for name in ("Shop", "Farm", "Empty")]
    rules = document("rules.md", "# Rules\n\nOn Saturdays dogs wait outside the farm shop, which opens late.")
    await engine.embed(shop, [(await engine.add_document(shop, HOURS)).location])
    await engine.embed(farm, [(await engine.add_document(farm, rules)).location])
    question = "When does the shop open on Saturdays?"
    assert {source.document for source in (await engine.ask(shop, question)).sources} == {"hours.md"}
    assert {source.document for source in (await engine.ask(farm, question)).sources} <= {"rules.md"}
    assert (await engine.ask(empty, question)).refused


async def test_a_question_without_an_answer_is_refused_without_sources(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Shop")
    await engine.embed(slug, [(await engine.add_document(slug, HOURS)).location])
    answer = await engine.ask(slug, "What is the salary of the chief accountant?")
    assert (answer.refused, answer.sources) == (True, ())
    assert answer.text


async def test_a_workspace_that_nobody_made_is_unknown(engine: Engine) -> None:
    with pytest.raises(WorkspaceUnknownError):
        await engine.add_document("nowhere", HOURS)
    with pytest.raises(WorkspaceUnknownError):
        await engine.embed("nowhere", ["0198c0de-0000-7000-8000-000000000000"])
    with pytest.raises(WorkspaceUnknownError):
        await engine.ask("nowhere", "When does the shop open?")


@pytest.mark.parametrize("location", ["0198c0de-0000-7000-8000-000000000000", "no id at all"])
async def test_what_is_not_stored_cannot_be_embedded(engine: Engine, location: str) -> None:
    slug = await engine.ensure_workspace("Shop")
    stored = await engine.add_document(slug, HOURS)
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.embed(slug, [stored.location, location])
    assert location in caught.value.message


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("cut.pdf", b"%PDF-1.7\n1 0 obj", "corrupt"), ("blank.txt", b" \n ", "no_text"), ("broken.json", b"{", "corrupt")],
)
async def test_a_broken_document_is_refused_with_its_code_and_the_next_is_stored(
    engine: Engine, name: str, content: bytes, code: str
) -> None:
    slug = await engine.ensure_workspace("Shop")
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.add_document(slug, document(name, content))
    assert caught.value.code == code
    assert name in caught.value.message
    assert (await engine.add_document(slug, HOURS)).duplicate_of is None


async def test_an_engine_that_answers_is_healthy(engine: Engine) -> None:
    await engine.health()


async def test_the_questions_of_a_small_workspace_are_answered_or_refused_rightly(engine: Engine) -> None:
    slug = await engine.ensure_workspace("Workshop and dairy")
    stored = await asyncio.gather(*(engine.add_document(slug, each) for each in WORKSPACE))
    await engine.embed(slug, [document.location for document in stored])

    async def is_right(asked: Asked) -> bool:
        answer = await engine.ask(slug, asked.question)
        return not answer.refused and all(contains(answer.text, fragment) for fragment in asked.fragments)

    wrong = [asked.question for asked in ANSWERABLE if not await is_right(asked)]
    invented = [asked.question for asked in UNANSWERABLE if not (await engine.ask(slug, asked.question)).refused]
    assert len(wrong) <= 1, wrong
    assert invented == []


# The local engine


@pytest.fixture
async def local(database: DatabaseManager) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(database, parsers=1)
    yield engine
    await engine.aclose()


async def embedded(engine: LocalEngine, slug: str, *names: str) -> list[StoredDocument]:
    stored = [await engine.add_document(slug, each) for each in WORKSPACE if not names or each.name in names]
    await engine.embed(slug, [document.location for document in stored])
    return stored


async def test_a_document_is_not_found_before_it_is_embedded(local: LocalEngine) -> None:
    slug = await local.ensure_workspace("Shop")
    stored = await local.add_document(slug, HOURS)
    assert (await local.ask(slug, "When does the shop open on Saturdays?")).text == REFUSAL
    await local.embed(slug, [stored.location])
    assert not (await local.ask(slug, "When does the shop open on Saturdays?")).refused


async def test_a_document_whose_passages_cannot_be_written_is_not_stored_at_all(
    local: LocalEngine, database: DatabaseManager
) -> None:
    slug = await local.ensure_workspace("Shop")
    async with database.get_transaction() as session:
        await session.execute(text("ALTER TABLE passages ADD CONSTRAINT no_shops CHECK (text NOT LIKE '%shop%')"))
    with pytest.raises(ConflictError, match="no_shops"):
        await local.add_document(slug, HOURS)
    assert await count(database, "documents") == 0


@pytest.mark.slow
async def test_a_document_of_many_passages_is_stored_and_embedded_whole(
    local: LocalEngine, database: DatabaseManager
) -> None:
    slug = await local.ensure_workspace("Shop")
    content = "\n\n".join(
        f"# Article {number}\n\nArticle Q{number} is {number * 3} mm long." for number in range(4_500)
    )
    stored = await local.add_document(slug, document("articles.md", content))
    await local.embed(slug, [stored.location])
    assert stored.passages == await count(database, "passages") == 4_500
    assert await count(database, "passages WHERE embedding IS NULL") == 0
    assert "12300 mm" in (await local.ask(slug, "How long is article Q4100?")).text


@pytest.mark.own_database  # an index that holds its passages alone
async def test_a_small_workspace_beside_a_large_one_is_found_by_index_as_by_exact_distance(
    local: LocalEngine, database: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index knows nothing of workspaces: the nearest passages of all may all belong to another."""
    async with database.get_transaction() as session:  # the planner prefers to sort what is as little as in a test
        name = await session.scalar(text("SELECT current_database()"))
        await session.execute(text(f"ALTER DATABASE {name} SET enable_sort = off"))
    await database.engine.dispose()
    small = await local.ensure_workspace("Small")
    stored = await embedded(local, small)
    large = await local.ensure_workspace("Large")
    content = "\n\n".join(f"# Bicycle {number}\n\nThe bicycle number {number} weighs much." for number in range(400))
    await local.embed(large, [(await local.add_document(large, document("many.md", content))).location])
    (vector,) = await embedding.embed(["bicycle number one"])

    async def nearest() -> set[str]:
        async with database.get_session() as session:
            counts = await search.count_words(session, small, [])
            assert counts is not None
            found = await search.find_candidates(session, counts, [], vector, iterative=True)
            return {f"{candidate.document} {candidate.position}" for candidate in found}

    exact = await nearest()
    assert len(exact) == min(search.CANDIDATES, sum(document.passages for document in stored))
    monkeypatch.setattr(search, "EXACT_BELOW", 0)
    assert await nearest() == exact


async def test_without_pgvector_full_text_alone_answers_and_the_log_says_so_once(
    local: LocalEngine, database: DatabaseManager
) -> None:
    async with database.get_transaction() as session:
        await session.execute(text("DROP EXTENSION vector CASCADE"))
    slug = await local.ensure_workspace("Shop")
    with structlog.testing.capture_logs() as logged:
        await embedded(local, slug)
        answers = [await local.ask(slug, asked.question) for asked in ANSWERABLE]
    right = [all(contains(a.text, part) for part in q.fragments) for a, q in zip(answers, ANSWERABLE, strict=True)]
    assert sum(right) >= len(right) - 2
    assert [entry["event"] for entry in logged] == ["engine.without_vectors"]


@pytest.mark.slow
async def test_a_parser_ends_itself_when_its_time_is_up() -> None:
    """Also when nobody is left to end it: its parent may have been killed."""
    content = b"word after word. " * 3_000_000
    asked = Request(name="endless.txt", media_type="text/plain", seconds=1, max_characters=10**9).model_dump_json()
    head = LENGTH.pack(len(asked)) + LENGTH.pack(len(content)) + asked.encode()
    parser = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker.documents.extract.parser_process",
        str(4 * 2**30),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    replied, _ = await asyncio.wait_for(parser.communicate(head + content), timeout=30)
    assert parser.returncode == -signal.SIGALRM
    assert replied == LENGTH.pack(0)  # it was ready, and then said no more


@pytest.mark.slow
async def test_a_document_that_takes_too_long_is_refused_and_the_next_one_is_read(database: DatabaseManager) -> None:
    engine = LocalEngine(database, parsers=1, parse_seconds=1, max_characters=10**9)
    slug = await engine.ensure_workspace("Shop")
    with pytest.raises(DocumentRejectedError) as caught:
        await engine.add_document(slug, document("endless.txt", b"word after word. " * 3_000_000))
    assert caught.value.code == "too_large"
    assert "endless.txt" in caught.value.message
    assert "within 1 seconds" in caught.value.message
    assert (await engine.add_document(slug, HOURS)).passages == 1
    await engine.aclose()


async def reading_a_long_document(
    local: LocalEngine, slug: str, patch: pytest.MonkeyPatch
) -> tuple["asyncio.Task[StoredDocument]", _Parser]:
    """Return a task that is in the middle of a document, and the parser that reads it."""
    await local.add_document(slug, HOURS)
    (parser,) = local._parsers._idle
    asked, ask = asyncio.Event(), parser.ask

    async def notice(request: Request, content: bytes) -> Reply:
        asked.set()
        return await ask(request, content)

    patch.setattr(parser, "ask", notice)
    long = document("big.txt", b"word after word. " * 1_000_000)
    reading = asyncio.create_task(local.add_document(slug, long))
    await asyncio.wait_for(asked.wait(), timeout=10)
    return reading, parser


async def test_a_parser_that_dies_takes_one_document_with_it_and_no_more(
    local: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = await local.ensure_workspace("Shop")
    reading, parser = await reading_a_long_document(local, slug, monkeypatch)
    os.kill(parser._process.pid, signal.SIGKILL)
    with pytest.raises(DocumentRejectedError) as caught:
        await reading
    assert caught.value.code == "corrupt"
    assert "big.txt" in caught.value.message
    assert (await local.add_document(slug, WORKSPACE[0])).passages == 2


async def test_giving_up_a_document_ends_its_parser_and_stores_nothing(
    local: LocalEngine, database: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = await local.ensure_workspace("Shop")
    reading, parser = await reading_a_long_document(local, slug, monkeypatch)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not parser.is_running
    assert await count(database, "documents") == 1


async def test_without_a_database_the_local_engine_is_unavailable() -> None:
    async with DatabaseManager("postgresql+asyncpg://nobody@127.0.0.1:1/none") as nowhere:
        engine = LocalEngine(nowhere)
        with pytest.raises(EngineUnavailableError) as caught:
            await engine.health()
        assert caught.value.code == "engine_unavailable"
        with pytest.raises(EngineUnavailableError):
            await engine.ask("shop", "When does the shop open?")


async def test_a_database_without_the_tables_is_not_healthy(local: LocalEngine, database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        await session.execute(text("DROP TABLE passages"))
    with pytest.raises(EngineUnavailableError, match="passages"):
        await local.health()


@pytest.mark.parametrize("question", ["", "  ", "why " * 501, "\x00"])
async def test_a_question_beyond_the_bounds_is_an_error_of_the_caller(local: LocalEngine, question: str) -> None:
    slug = await local.ensure_workspace("Shop")
    with pytest.raises(ValueError, match="characters"):
        await local.ask(slug, question)


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_a_workspace_name_beyond_the_bounds_is_an_error_of_the_caller(local: LocalEngine, name: str) -> None:
    with pytest.raises(ValueError, match="characters"):
        await local.ensure_workspace(name)


async def test_questions_with_odd_signs_harm_nothing(local: LocalEngine) -> None:
    slug = await local.ensure_workspace("Shop")
    await embedded(local, slug, "faq.html")
    for question in (
        "' OR 1=1 --",
        "!!! & | ( ) : * <->",
        "\ud800 \x00 ?",
        "C++/C# & R&D?",
        "\u0663\u0664 \u4e2d\u6587?",
    ):
        assert isinstance(await local.ask(slug, question), Answer)
