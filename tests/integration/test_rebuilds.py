"""Vectors that belong to no document: they are noticed, and a rebuild of the workspace is rid of them, once."""

import asyncio
from uuid import uuid4

import pytest
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from repositories.states import ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.anythingllm_server import Fault, FaultKind, Server
from tests.integration.anythingllm_engines import HOURS, Look, document, make_engine
from tests.integration.anythingllm_own_server import *  # noqa: F403 - fixtures
from worker.client import JobClient
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.base import StoredDocument, WorkspaceSettings
from worker.execution import execute
from worker.files import FileSource
from worker.questions.question_set import Question, QuestionSet
from worker.run import Runtime

OLD, NEW = "The pump needs oil of grade 5W30.", "The pump needs oil of grade 10W40."
KILLED = {FaultKind.EMBED_KILLED: Fault(most=1)}


@pytest.fixture
async def slug(engine: AnythingLLMEngine) -> str:
    """A workspace with a document in it."""
    slug = await engine.ensure_workspace(f"Shop {uuid4()}", WorkspaceSettings(top_n=7, refusal="Not in the books."))
    stored = await engine.add_document(slug, document())
    assert await engine.embed(slug, stored) is False
    return slug


async def _killed_while_embedding(engine: AnythingLLMEngine, server: Server, slug: str, text: str = OLD) -> bool:
    stored = await engine.add_document(slug, document(text, name="oil.txt"))
    await server.control(faults=KILLED)
    return await engine.embed(slug, stored)


async def test_a_server_that_dies_while_it_embeds_leaves_a_second_set_of_vectors_which_is_noticed(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str
) -> None:
    assert await _killed_while_embedding(engine, server, slug)

    assert len(await look.found(slug, OLD)) == 3  # the first document, and this one twice
    assert len(await look.listed(slug)) == 2


async def test_a_document_that_says_something_twice_is_no_orphan(engine: AnythingLLMEngine, slug: str) -> None:
    twice = "\n\n".join(["The same words fill a passage of their own. " * 9] * 2)
    stored = await engine.add_document(slug, document(twice, name="twice.txt"))

    assert await engine.embed(slug, stored) is False


async def test_old_text_that_a_replaced_document_left_behind_is_noticed_by_the_next_one(
    engine: AnythingLLMEngine, server: Server, slug: str
) -> None:
    old = await engine.add_document(slug, document(OLD, name="oil.txt"))
    await server.control(faults=KILLED)
    await engine.embed(slug, old)
    await engine.remove(slug, old.locations)

    stored = await engine.add_document(slug, document(NEW, name="oil.txt"))

    assert await engine.embed(slug, stored)


async def _recorded_nothing() -> list[str]:
    return []


async def _rid_of_orphans(look: Look, slug: str, stored: int) -> None:
    found, listed = await look.found(slug, OLD), await look.listed(slug)
    assert (len(found), len(set(found)), len(listed)) == (stored, stored, stored)


async def test_a_rebuilt_workspace_holds_each_document_once_with_its_settings_and_slug(
    engine: AnythingLLMEngine, server: Server, look: Look, slug: str, database: DatabaseManager
) -> None:
    await _killed_while_embedding(engine, server, slug)

    rebuilt = await engine.rebuild(slug, _recorded_nothing)

    assert rebuilt == (slug, 2)
    await _rid_of_orphans(look, slug, 2)
    assert (await engine.ask(slug, "Who was the first king of Sweden?")).text == "Not in the books."
    async with database.get_session() as session:
        found = await WorkspaceRepository(session, "anythingllm").by_slug(slug)
    assert found is not None
    assert (found.rebuild, found.rebuilt_at is not None, found.embedded_at is not None) == (None, True, True)


@pytest.mark.parametrize("route", ["workspace-delete", "workspace-new", "workspace-update", "update-embeddings"])
@pytest.mark.parametrize("kind", [FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER])
async def test_a_rebuild_that_broke_off_goes_on_where_it_was(
    engine: AnythingLLMEngine,
    server: Server,
    look: Look,
    slug: str,
    database: DatabaseManager,
    redis: ArqRedis,
    route: str,
    kind: FaultKind,
) -> None:
    await _killed_while_embedding(engine, server, slug)
    await server.control(faults={kind: Fault(routes=(route,))})
    first = asyncio.create_task(engine.rebuild(slug, _recorded_nothing))
    done, _ = await asyncio.wait({first}, timeout=20)
    assert done, "it ends by itself"
    assert first.exception() is not None or kind is FaultKind.DROP_AFTER  # it may have seen that it was done
    await server.control(faults={})
    other = make_engine(server, database, redis)

    if first.exception() is not None:
        assert await other.rebuild(slug, _recorded_nothing) == (slug, 2)

    await _rid_of_orphans(look, slug, 2)
    workspaces = await look.get("workspaces")
    assert [each["slug"] for each in workspaces["workspaces"]] == [slug]
    await other.aclose()


async def test_what_an_upload_put_there_meanwhile_is_put_in_as_well(
    engine: AnythingLLMEngine, look: Look, slug: str
) -> None:
    late: list[StoredDocument] = []

    async def recorded() -> list[str]:
        if not late:  # stored on the server, on the record, and not in the new workspace
            late.append(await engine.add_document(slug, document(OLD, name="late.txt")))
        return [location for stored in late for location in stored.locations]

    assert (await engine.rebuild(slug, recorded)).documents == 2
    await _rid_of_orphans(look, slug, 2)


@pytest.fixture
def working(runtime: Runtime, engine: AnythingLLMEngine) -> Runtime:
    runtime.engine = engine
    return runtime


async def _ran(client: JobClient, runtime: Runtime, job_id: object) -> JobStatus:
    await execute(runtime, str(job_id))
    return (await client.status(str(job_id))).status


async def test_orphans_are_told_of_on_the_item_and_the_workspace_until_it_is_rebuilt(
    client: JobClient, working: Runtime, server: Server
) -> None:
    await _ran(client, working, (await client.upload_documents("pumps", [FileSource("a.txt", b"alpha")])).id)
    await server.control(faults=KILLED)
    job = await client.upload_documents("pumps", [FileSource("oil.txt", OLD.encode())])
    assert await _ran(client, working, job.id) is JobStatus.COMPLETED

    (item,) = await client.items(job.id)
    assert (item.status, (item.result or {})["orphans"]) == (ItemStatus.DONE, True)
    (workspace,) = await client.workspaces()
    assert (workspace.name, workspace.documents, workspace.orphans_seen_at is not None) == ("pumps", 2, True)

    assert await _ran(client, working, (await client.rebuild_workspace("pumps")).id) is JobStatus.COMPLETED

    (workspace,) = await client.workspaces()
    assert (workspace.documents, workspace.orphans_seen_at) == (2, None)


async def test_a_workspace_is_rebuilt_by_itself_where_that_is_wanted_once(
    client: JobClient, working: Runtime, server: Server
) -> None:
    working.settings = working.settings.model_copy(update={"anythingllm_rebuild": True})
    await _ran(client, working, (await client.upload_documents("pumps", [FileSource("a.txt", b"alpha")])).id)
    await server.control(faults=KILLED)
    uploads = [
        await client.upload_documents("pumps", [FileSource(name, text.encode())])
        for name, text in (("oil.txt", OLD), ("new.txt", NEW))
    ]
    for upload in uploads:
        await _ran(client, working, upload.id)

    rebuilds = {((await client.status(upload.id)).result or {}).get("rebuild") for upload in uploads}

    (rebuild,) = rebuilds
    assert await _ran(client, working, rebuild) is JobStatus.COMPLETED
    (workspace,) = await client.workspaces()
    assert (workspace.documents, workspace.orphans_seen_at) == (3, None)


async def test_uploads_and_questions_wait_while_their_workspace_is_rebuilt(
    client: JobClient, working: Runtime, database: DatabaseManager
) -> None:
    await _ran(client, working, (await client.upload_documents("pumps", [FileSource("a.txt", HOURS.encode())])).id)
    questions = QuestionSet(name="q.csv", questions=(Question(id="1", text="When does the shop open?"),))
    async with database.get_transaction() as session:
        workspaces = WorkspaceRepository(session, "anythingllm")
        found = await workspaces.get_or_raise("pumps")
        await workspaces.note_rebuild("pumps", found.slug, {"begun": True})
    upload = await client.upload_documents("pumps", [FileSource("b.txt", b"beta")])
    asked = await client.process_questions("pumps", questions)

    for job in (upload, asked):
        assert await _ran(client, working, job.id) is JobStatus.QUEUED
        assert (await client.status(job.id)).failures == 0
    async with database.get_transaction() as session:
        await WorkspaceRepository(session, "anythingllm").end_rebuild("pumps")

    documents = await client.workspaces()
    assert documents[0].documents == 1


async def test_an_answer_from_a_workspace_that_was_rebuilt_meanwhile_is_not_taken(
    client: JobClient, working: Runtime, database: DatabaseManager, server: Server
) -> None:
    await _ran(client, working, (await client.upload_documents("pumps", [FileSource("a.txt", HOURS.encode())])).id)
    await server.control(llm_seconds=1.0)
    questions = QuestionSet(name="q.csv", questions=(Question(id="1", text="When does the shop open?"),))
    job = await client.process_questions("pumps", questions)
    running = asyncio.create_task(execute(working, str(job.id)))
    async for view in client.events([job.id]):
        if view.status is JobStatus.PROCESSING and view.items_total:
            break
    async with database.get_transaction() as session:
        await WorkspaceRepository(session, "anythingllm").end_rebuild("pumps")
    await running

    assert (await client.status(job.id)).status is JobStatus.QUEUED
    (item,) = await client.items(job.id)
    assert item.status is ItemStatus.PENDING
