"""A deletion that the server was killed in is finished by the next try, and says that it removed the workspace."""

from uuid import UUID, uuid4

import pytest

from repositories.database import DatabaseManager
from repositories.workspaces import WorkspaceRepository
from tests.anythingllm_server import Server
from tests.integration.anythingllm_engines import Look
from tests.integration.anythingllm_fixtures import *  # noqa: F403 - fixtures
from worker.client import JobClient
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.base import EngineUnavailableError
from worker.execution import execute
from worker.files import FileSource
from worker.run import Runtime

Uploaded = tuple[str, str, UUID]


@pytest.fixture
async def uploaded(client: JobClient, runtime: Runtime, engine: AnythingLLMEngine) -> Uploaded:
    """A workspace with one document of a job: its name, its slug and the job's id."""
    name = f"shop {uuid4()}"
    job = await client.upload_documents(name, [FileSource("a.txt", b"It opens at nine.")])
    await execute(runtime, str(job.id))
    return name, await engine.ensure_workspace(name), job.id


async def is_on_record(database: DatabaseManager, name: str) -> bool:
    async with database.get_session() as session:
        return await WorkspaceRepository(session, "anythingllm").get(name) is not None


@pytest.mark.parametrize(("kind", "route"), [("http_502", "workspaces"), ("drop_before", "remove-folder")])
async def test_a_deletion_that_was_broken_off_is_finished_and_says_so(
    engine: AnythingLLMEngine,
    server: Server,
    database: DatabaseManager,
    look: Look,
    uploaded: Uploaded,
    kind: str,
    route: str,
) -> None:
    name, slug, job_id = uploaded
    await server.control(faults={kind: {"routes": [route], "most": 4}})
    with pytest.raises(EngineUnavailableError):
        await engine.delete_workspace(slug)
    assert len(await look.on_disk(job_id)) == 1

    assert await engine.delete_workspace(slug)
    assert await look.on_disk(job_id) == []
    assert not await is_on_record(database, name)
    assert not await engine.delete_workspace(slug)


async def test_a_deletion_of_which_the_server_could_tell_nothing_more_is_finished_and_says_so(
    engine: AnythingLLMEngine, database: DatabaseManager, look: Look, uploaded: Uploaded
) -> None:
    name, slug, job_id = uploaded
    await look.delete(f"workspace/{slug}")  # what the try before had done when the server was killed

    assert await engine.delete_workspace(slug)
    assert await look.on_disk(job_id) == []
    assert not await is_on_record(database, name)


async def test_a_workspace_whose_deletion_was_broken_off_is_made_anew(
    engine: AnythingLLMEngine, server: Server, uploaded: Uploaded
) -> None:
    name, slug, _ = uploaded
    await server.control(faults={"http_502": {"routes": ["workspaces"], "most": 4}})
    with pytest.raises(EngineUnavailableError):
        await engine.delete_workspace(slug)
    assert await engine.locations(await engine.ensure_workspace(name)) == frozenset()
