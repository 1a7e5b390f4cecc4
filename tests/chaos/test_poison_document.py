"""A document that kills AnythingLLM's collector each time fails alone and by name; the others of its job go on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from repositories.states import ItemStatus, JobStatus
from tests.anythingllm_server import Behaviour, Server, anythingllm_server
from tests.chaos.programs import Programs
from worker.client import JobClient
from worker.files import FileSource
from worker.settings import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(170)]

POISON = "A scan that nobody can read."
DEATHS: dict[str, dict[str, object]] = {
    "collector": {},
    "collector that is back at once": {"collector_restart_seconds": 0.0},
    "server": {"dies_with_collector": True, "collector_restart_seconds": 2.5},
}


@pytest.fixture
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    behaviour = Behaviour.quick().changed({"poison": POISON, **request.param})
    async with anythingllm_server(behaviour, tmp_path / "state") as running:
        yield running


@pytest.fixture
def settings(settings: Settings, server: Server) -> Settings:
    return settings.model_copy(update={"anythingllm_url": server.url, "anythingllm_api_key": server.api_key})


@pytest.mark.parametrize("server", DEATHS.values(), indirect=True, ids=DEATHS.keys())
async def test_a_document_that_kills_the_collector_fails_by_name_and_the_others_are_stored(
    programs: Programs, client: JobClient, server: Server
) -> None:
    for _ in range(2):
        await programs.start("worker", "run", LEASE_SECONDS="4")
    files = [FileSource(f"note-{number}.txt", f"Note {number}".encode()) for number in range(12)]
    files.insert(5, FileSource("scan.txt", POISON.encode()))

    job = await client.upload_documents("notes", files)
    (ended,) = await client.wait([job.id], timeout_seconds=120)

    deaths = (await server.counters()).collector_deaths
    print({"deaths": deaths, "attempts": ended.attempt, "seconds": ended.duration_seconds})  # noqa: T201 - shown with -s
    failed = {item.key: item for item in await client.items(job.id) if item.status is not ItemStatus.DONE}
    assert {name: item.error_code for name, item in failed.items()} == {"scan.txt": "kills_the_collector"}
    assert "scan.txt" in (failed["scan.txt"].error or "")
    assert (ended.status, ended.failures, ended.items_done) == (JobStatus.COMPLETED, 0, 12)
    assert deaths <= 3
