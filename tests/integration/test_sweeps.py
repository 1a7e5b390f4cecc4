"""Removing from the engine what attempts left there: whose it is, and that nobody's document goes with it."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.states import JobStatus
from tests.engines import NotingEngine
from tests.waiting import until
from worker.client import JobClient
from worker.engines.base import EngineError, EngineUnavailableError, WorkspaceUnknownError
from worker.execution import execute
from worker.files import FileSource
from worker.recorder import AttemptLostError
from worker.run import Run, Runtime
from worker.tasks.maintenance import sweep_documents
from worker.uploads.sweeping import sweep_at_end

LEASE = timedelta(seconds=30)


async def ran(client: JobClient, runtime: Runtime, *contents: bytes) -> Job:
    files = [FileSource(f"{number}.txt", content) for number, content in enumerate(contents)]
    job = await client.upload_documents("handbook", files)
    await execute(runtime, str(job.id))
    return await client.status(job.id)


async def ended_ago(runtime: Runtime, minutes: int) -> None:
    """Let time pass since all jobs ended."""
    async with runtime.database.get_transaction() as session:
        statement = text("UPDATE jobs SET completed_at = clock_timestamp() - make_interval(mins => :minutes)")
        await session.execute(statement, {"minutes": minutes})


class SweepingEngine(NotingEngine):
    """Answers its first sweep with an error."""

    def __init__(self, error: EngineError) -> None:
        super().__init__()
        self._errors = [error]
        self.asked_to_sweep: list[UUID] = []

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        self.asked_to_sweep.append(job_id)
        if self._errors:
            raise self._errors.pop()
        return await super().sweep(slug, job_id, keep)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (WorkspaceUnknownError("workspace_unknown", "there is no such workspace"), 2),
        (EngineUnavailableError("engine_unavailable", "the engine is away"), 1),
    ],
)
async def test_one_jobs_error_does_not_keep_the_others_from_being_swept_unless_the_engine_is_away(
    client: JobClient, runtime: Runtime, error: EngineError, asked: int
) -> None:
    for content in (b"reject one", b"reject two"):
        await ran(client, runtime, content)
    engine = SweepingEngine(error)

    await sweep_documents({"runtime": replace(runtime, engine=engine)})

    assert len(engine.asked_to_sweep) == asked
    assert len(engine.swept) == asked - 1


@pytest.mark.parametrize(("minutes", "swept"), [(1, False), (15, True), (45, False)])
async def test_a_job_that_completed_at_once_is_swept_some_minutes_later(
    client: JobClient, runtime: Runtime, engine: NotingEngine, minutes: int, swept: bool
) -> None:
    job = await ran(client, runtime, b"alpha")
    engine.documents[f"{job.id}/7"] = b"made by a request whose reply was lost"
    await ended_ago(runtime, minutes)

    await sweep_documents({"runtime": runtime})

    assert engine.removed == ([f"{job.id}/7"] if swept else [])
    assert f"{job.id}/0" in engine.documents


@pytest.mark.parametrize(("minutes", "swept"), [(1, True), (45, True), (75, False)])
async def test_a_job_that_did_not_complete_is_swept_for_an_hour(
    client: JobClient, runtime: Runtime, engine: NotingEngine, minutes: int, swept: bool
) -> None:
    job = await ran(client, runtime, b"reject this")
    engine.documents[f"{job.id}/7"] = b"made by a request of a dead worker"
    await ended_ago(runtime, minutes)

    await sweep_documents({"runtime": runtime})

    assert engine.removed == ([f"{job.id}/7"] if swept else [])


class HeldUpEngine(NotingEngine):
    """Its sweep begins with what is to be kept, and then waits for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeping, self.may_sweep = asyncio.Event(), asyncio.Event()

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        self.sweeping.set()
        await self.may_sweep.wait()
        return await super().sweep(slug, job_id, keep)


async def test_a_sweep_that_had_begun_removes_nothing_of_a_job_that_was_asked_for_again(
    client: JobClient, runtime: Runtime, engine: NotingEngine, statements: list[str]
) -> None:
    job = await ran(client, runtime, b"reject this", b"reject that")
    assert job.status is JobStatus.FAILED
    held_up = HeldUpEngine()
    held_up.mended = True
    runtime.engine = held_up
    sweep = asyncio.create_task(sweep_documents({"runtime": runtime}))
    await asyncio.wait_for(held_up.sweeping.wait(), 10)
    statements.clear()

    async def asks_for_the_lock() -> bool:
        return any("INSERT INTO locks" in statement for statement in statements)

    await client.retry([job.id])
    attempt = asyncio.create_task(execute(runtime, str(job.id)))
    await until(asks_for_the_lock, 10)
    held_up.may_sweep.set()
    await asyncio.wait_for(asyncio.gather(sweep, attempt), 20)

    assert (await client.status(job.id)).status is JobStatus.COMPLETED
    assert held_up.documents.keys() == {f"{job.id}/0", f"{job.id}/1"}


async def test_an_attempt_that_lost_its_job_sweeps_nothing(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    job = await ran(client, runtime, b"reject this")
    await client.retry([job.id])
    async with runtime.database.get_transaction() as session:
        (claimed,) = await JobRepository(session).claim([job.id], "worker-1", LEASE, runtime.tasks)
        await session.execute(text("UPDATE jobs SET attempt = attempt + 1"))
    engine.documents[f"{job.id}/0"] = b"stored by the attempt that owns the job"
    engine.swept.clear()

    with pytest.raises(AttemptLostError):
        await sweep_at_end(Run(claimed, runtime), "slug-handbook")

    assert engine.swept == []
