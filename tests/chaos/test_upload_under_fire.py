"""A large upload into a server that fails in every way it can, while workers die: every document exactly once.

``FIRE_SEED`` is the seed of the server's chance and of the moments at which workers die.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from repositories.models import Job, JobItem
from repositories.states import ItemStatus, JobStatus
from tests.anythingllm_server import Behaviour, Fault, FaultKind, Server, anythingllm_server
from tests.chaos.programs import Programs
from tests.chaos.uploads.corpus import make_corpus, names, pack
from tests.chaos.uploads.inspection import Inspection
from worker.client import JobClient
from worker.files import FileSource
from worker.settings import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1_200)]

SEED = int(os.environ.get("FIRE_SEED", "7"))
RATE = 0.1
KINDS = (
    FaultKind.DROP_BEFORE,
    FaultKind.DROP_AFTER,
    FaultKind.DROP_MIDWAY,
    FaultKind.TRUNCATED_JSON,
    FaultKind.HTTP_500,
    FaultKind.HTTP_502,
    FaultKind.UPLOAD_CLASH,
    FaultKind.EMBED_SILENT,
    FaultKind.EMBED_ROW_WITHOUT_VECTORS,
)
OUTAGES = {
    FaultKind.COLLECTOR_DOWN: Fault(rate=0.01, routes=("upload-to-folder",)),
    FaultKind.EMBEDDER_DOWN: Fault(rate=0.01, routes=("update-embeddings",)),
    FaultKind.HTTP_429: Fault(rate=0.01),
    FaultKind.EMBED_KILLED: Fault(rate=0.02),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    behaviour = Behaviour.quick().changed({"seed": SEED, "window_seconds": 1.0, "retry_after_seconds": 1})
    async with anythingllm_server(behaviour, tmp_path / "state") as running:
        yield running


@pytest.fixture
def settings(settings: Settings, server: Server) -> Settings:
    return settings.model_copy(update={"anythingllm_url": server.url, "anythingllm_api_key": server.api_key})


async def until(client: JobClient, job: Job, finished: int) -> None:
    async for view in client.events([job.id]):
        if view.items_finished >= finished or view.status.is_final:
            assert not view.status.is_final, "the job was over before its worker was killed"
            return


async def upload(client: JobClient, archives: dict[str, bytes]) -> Job:
    files = [FileSource(name, content) for name, content in archives.items()]
    return await client.upload_documents("handbook", files, max_attempts=20, timeout_seconds=1_000)


async def test_every_good_file_stands_once_with_vectors_and_every_bad_one_is_told_with_its_code(
    server: Server, programs: Programs, client: JobClient
) -> None:
    files = make_corpus()
    expected = names(files)
    chance = random.Random(SEED)  # noqa: S311 - no secret
    await server.control(faults={kind: Fault(rate=RATE) for kind in KINDS} | OUTAGES)
    workers = [await programs.start("worker", "run", LEASE_SECONDS="4") for _ in range(3)]
    job = await upload(client, pack(files))

    for kill_at in sorted(chance.sample(range(50, 350), 2)):
        await until(client, job, kill_at)
        claimed = (await client.status(job.id)).worker_id or ""
        victim = next(worker for worker in workers if f"-{worker.pid}-" in claimed)
        victim.send_signal(signal.SIGKILL)
        await victim.wait()
    (ended,) = await client.wait([job.id], timeout_seconds=900)

    faults = (await server.counters()).faults
    await server.control(faults={})
    assert (ended.status, ended.items_total) == (JobStatus.COMPLETED, len(files)), ended.errors
    lost = sum(error["code"] == "worker_lost" for error in ended.errors)
    assert (lost, ended.crashes) == (2, 0), ended.errors
    items = await client.items(job.id)
    told = {item.key: (item.status, item.error_code) for item in items}
    assert told == {
        name: (ItemStatus.DONE, None) if file.code is None else (ItemStatus.FAILED, file.code)
        for name, file in expected.items()
    }
    assert set(faults) >= {str(kind) for kind in KINDS}, f"not every fault happened: {faults}"
    assert ended.result is not None
    slug = ended.result["workspace_slug"]
    await look(server, slug, items)
    (workspace,) = await client.workspaces()
    assert workspace.orphans_seen_at is not None, "vectors of nobody were not noticed"
    rebuild = await client.rebuild_workspace("handbook")
    (rebuilt,) = await client.wait([rebuild.id], timeout_seconds=200)
    assert (rebuilt.status, rebuilt.result) == (
        JobStatus.COMPLETED,
        {"workspace_slug": slug, "engine": "anythingllm", "documents": sum(len(places) for places in _places(items))},
    )
    await look(server, slug, items)

    before = len((await server.counters()).uploads)
    again = await upload(client, pack(files))
    (ended,) = await client.wait([again.id], timeout_seconds=300)
    assert Counter(item.status for item in await client.items(again.id)) == {
        ItemStatus.SKIPPED: sum(file.code is None for file in files),
        ItemStatus.FAILED: sum(file.code is not None for file in files),
    }
    sent = [made.file for made in (await server.counters()).uploads[before:]]
    assert sent == []
    print({"faults": faults, "attempts": ended.attempt, "seconds": ended.duration_seconds})  # noqa: T201 - shown with -s


def _places(items: list[JobItem]) -> list[list[str]]:
    return [(item.result or {})["locations"] for item in items if item.status is ItemStatus.DONE]


async def look(server: Server, slug: str, items: list[JobItem]) -> None:
    """Compare what stands on the server with the record."""
    done = [item for item in items if item.status is ItemStatus.DONE]
    inspection = Inspection(server)
    try:
        recorded = sorted(place for places in _places(items) for place in places)
        assert sorted(await inspection.locations_of(slug)) == recorded, "more or less stands there than is recorded"
        assert sorted(await inspection.stored()) == recorded, "something was left behind on the server"
        keys = await inspection.keys_of(slug)
        assert keys.keys() == {f"job://{item.job_id}/{item.position}" for item in done}
        assert await inspection.finds(slug, "oil", most=100_000) == keys.keys(), "a document has no vectors"
    finally:
        await inspection.close()
