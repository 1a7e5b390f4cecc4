"""Whatever uploads run at once, and whichever of them die: in the end record, engine and what the jobs told agree.

Every call of the engine lets others go first, removals are done in two halves and may fail between them, jobs lose
their workers at any call. When all is over, each content that a completed job told stands once, unless a newer job
replaced it or synced it away, and nothing stands that nobody stored.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from repositories.jobs import JobRepository
from repositories.states import ItemStatus, JobStatus
from tests.engines import NotingEngine
from tests.factories import expire_lease
from tests.waiting import until
from worker.client import JobClient
from worker.engines.base import Document, EngineUnavailableError, StoredDocument
from worker.execution import execute
from worker.files import FileSource
from worker.payloads import OnDuplicate
from worker.run import Runtime
from worker.tasks.maintenance import sweep_documents
from worker.uploads import storing

ROUNDS = 30
_WORKSPACES = count()


@dataclass(frozen=True)
class Upload:
    """A job of the plan: which content under which name, and how often its worker dies."""

    files: dict[str, int]
    replaces: bool = False
    source: str | None = None
    syncs: bool = False
    deaths: int = 0


class UnrulyEngine(NotingEngine):
    """Lets others go first at every call; its locations are never used twice."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance, self._number = chance, count()
        self.calls = 0

    async def _others(self) -> None:
        self.calls += 1
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(self._chance.random() / 500)

    async def locations(self, slug: str) -> frozenset[str]:
        await self._others()
        there = await super().locations(slug)
        await self._others()
        return there

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        await self._others()
        place = next((place for place in self.documents if place.startswith(f"{document.key}#")), None)
        if place is None:
            place = f"{document.key}#{next(self._number)}"
            self.documents[place] = document.read()
        return StoredDocument(key=document.key, locations=(place,), words=1, passages=1)

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        given = sorted(locations)
        await self._others()
        await super().remove(slug, given[::2])
        await self._others()
        if self._chance.random() < 0.2:
            raise EngineUnavailableError("engine_unavailable", "it went away in the middle")
        await super().remove(slug, given[1::2])
        await self._others()

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        await self._others()
        return await super().sweep(slug, job_id, keep)


async def _lose(runtime: Runtime, job_id: UUID) -> None:
    """The worker of a job dies, if it has one."""
    async with runtime.database.get_transaction() as session:
        await expire_lease(session, job_id)
        await JobRepository(session).rescue()


async def _reached(running: "asyncio.Task[None]", engine: UnrulyEngine, calls: int) -> bool:
    return running.done() or engine.calls >= calls


async def _until_over(runtime: Runtime, client: JobClient, job_id: UUID, deaths: int, chance: random.Random) -> None:
    engine = runtime.engine
    assert isinstance(engine, UnrulyEngine)
    for _ in range(ROUNDS):
        running = asyncio.create_task(execute(runtime, str(job_id)))
        if deaths:
            deaths -= 1
            calls = engine.calls + chance.randrange(12)
            await until(partial(_reached, running, engine, calls))
            await _lose(runtime, job_id)
            if chance.random() < 0.5:  # the other half goes on as if it lived, beside the next attempt
                await asyncio.wait({running}, timeout=20)
        else:
            await running
        if (await client.status(job_id)).status.is_final:
            await asyncio.wait({running}, timeout=20)
            return
        async with runtime.database.get_transaction() as session:  # it need not wait for its time
            await session.execute(
                text("UPDATE jobs SET scheduled_at = NULL WHERE id = :id AND status = 'queued'"), {"id": job_id}
            )
    raise AssertionError(f"job {job_id} was not over after {ROUNDS} attempts")


async def _agrees(client: JobClient, runtime: Runtime, uploads: list[Upload], seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    engine = UnrulyEngine(chance)
    runtime = replace(runtime, engine=engine)
    workspace = f"shop {next(_WORKSPACES)}"
    jobs = [
        await client.upload_documents(
            workspace,
            [FileSource(name, b"content %d" % content) for name, content in upload.files.items()],
            on_duplicate=OnDuplicate.REPLACE if upload.replaces else OnDuplicate.SKIP,
            source=upload.source,
            sync=upload.syncs and upload.source is not None,
            max_crashes=ROUNDS,
        )
        for upload in uploads
    ]
    order = [*range(len(jobs))]
    chance.shuffle(order)
    async with asyncio.timeout(50):
        await asyncio.gather(
            *(_until_over(runtime, client, jobs[at].id, uploads[at].deaths, chance) for at in order),
            sweep_documents({"runtime": runtime}),
        )
        async with runtime.database.get_session() as session:
            left = "SELECT count(*) FROM workspace_documents WHERE state = 'removing'"
            for _ in range(ROUNDS):
                if not await session.scalar(text(left)):
                    break
                await sweep_documents({"runtime": runtime})

    async with runtime.database.get_session() as session:
        rows = (
            await session.execute(
                text(
                    "SELECT sha256, state, locations FROM workspace_documents "
                    "JOIN workspaces ON workspaces.id = workspace_id WHERE workspaces.name = :name"
                ),
                {"name": workspace},
            )
        ).all()
    assert {row.state for row in rows} <= {"stored"}
    assert sorted(place for row in rows for place in row.locations) == sorted(engine.documents)
    assert not [content for content, times in Counter(row.sha256 for row in rows).items() if times > 1]

    told: list[dict[str, str]] = []
    stored: set[str] = set()
    for job in jobs:
        assert (await client.status(job.id)).status is JobStatus.COMPLETED
        items = await client.items(job.id)
        told.append({item.key: (item.result or {})["sha256"] for item in items})
        stored |= {(item.result or {})["sha256"] for item in items if item.status is ItemStatus.DONE}
    standing = {row.sha256 for row in rows}
    assert standing <= stored
    for at, upload in enumerate(uploads):
        for name, content in told[at].items():
            newer = [(uploads[later], told[later]) for later in range(at + 1, len(uploads))]
            assert content in standing or any(_supersedes(by, has, upload, name, content) for by, has in newer), name


def _supersedes(by: Upload, has: dict[str, str], upload: Upload, name: str, content: str) -> bool:
    """Whether a newer job may have removed what an older one told."""
    if content in has.values():
        return by.syncs and by.source == upload.source and by.source is not None and has.get(name) != content
    return (by.replaces and name in has) or (by.syncs and by.source is not None and by.source == upload.source)


@st.composite
def _uploads(draw: st.DrawFn) -> Upload:
    contents = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    names = draw(st.lists(st.sampled_from("abc"), min_size=len(contents), max_size=len(contents), unique=True))
    return Upload(
        dict(zip([f"{name}.txt" for name in names], contents, strict=True)),
        replaces=draw(st.booleans()),
        source=draw(st.sampled_from([None, "folder", "other"])),
        syncs=draw(st.booleans()),
        deaths=draw(st.sampled_from([0, 0, 0, 1, 2])),
    )


PLANS = st.lists(_uploads(), min_size=2, max_size=7)
PROPERTY = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def looks_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_ASK_AGAIN_SECONDS", 0.02)


@given(uploads=PLANS, seed=st.integers(0, 10_000))
@settings(PROPERTY, max_examples=8)
async def test_what_uploads_tell_at_once_stands_once_and_nothing_else(
    client: JobClient, runtime: Runtime, uploads: list[Upload], seed: int
) -> None:
    await _agrees(client, runtime, uploads, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@given(uploads=PLANS, seed=st.integers(0, 10_000))
@settings(PROPERTY, max_examples=60)
async def test_what_sixty_plans_tell_stands_once_and_nothing_else(
    client: JobClient, runtime: Runtime, uploads: list[Upload], seed: int
) -> None:
    await _agrees(client, runtime, uploads, seed)
