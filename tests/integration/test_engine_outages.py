"""What an engine that is away does to jobs: they wait, nothing is counted, and not for ever."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.schemas import Held, NewJob, Outage, PutBack
from repositories.states import ItemStatus, JobStatus
from tests.anythingllm_server import Behaviour, Fault, FaultKind, ModelTrouble, Server, anythingllm_server
from tests.engines import NotingEngine
from tests.factories import LEASE
from tests.integration.anythingllm_engines import document, make_engine
from worker.client import JobClient
from worker.engines.base import Answer, EngineUnavailableError, Work
from worker.execution import execute
from worker.files import FileSource
from worker.questions.question_set import Question, QuestionSet
from worker.run import Runtime

QUESTIONS = QuestionSet(name="set.csv", questions=tuple(Question(id=f"q{n}", text=f"What is {n}?") for n in range(6)))
DAY = timedelta(hours=24)


async def _claimed(jobs: JobRepository) -> UUID:
    (job,) = await jobs.create_many([NewJob(type="x", payload={})])
    await jobs.claim([job.id], "worker", LEASE)
    return job.id


async def _again(jobs: JobRepository, job_id: UUID, *, progressed: bool = False) -> Job:
    """Put the job back for an outage, as its present attempt; return it as it is then, ready to be claimed again."""
    job = await jobs.get_by_id_or_raise(job_id)
    outage = Outage("the model is away", DAY, progressed)
    await jobs.put_back([PutBack(Held(job_id, job.attempt), timedelta(seconds=5), outage=outage)])
    jobs.session.expire_all()
    return await jobs.get_by_id_or_raise(job_id)


async def _claim_again(jobs: JobRepository, job_id: UUID, *, away_for: timedelta) -> None:
    await jobs.session.execute(
        text(
            "UPDATE jobs SET scheduled_at = NULL, away_since = clock_timestamp() - CAST(:away AS interval) "
            "WHERE id = :id"
        ),
        {"id": job_id, "away": away_for},
    )
    await jobs.claim([job_id], "worker", LEASE)
    jobs.session.expire_all()


async def test_an_outage_counts_nothing_and_is_known_since_when(jobs: JobRepository) -> None:
    job_id = await _claimed(jobs)

    job = await _again(jobs, job_id)

    assert (job.status, job.failures, job.errors) == (JobStatus.QUEUED, 0, [])
    assert (job.away_reason, job.away_since is not None) == ("the model is away", True)


async def test_the_longer_an_outage_lasts_the_longer_are_the_pauses_up_to_a_minute(jobs: JobRepository) -> None:
    job_id = await _claimed(jobs)
    pauses = []
    for away in (0, 60, 3_600):
        job = await _again(jobs, job_id)
        assert job.scheduled_at is not None
        assert job.queued_at is not None
        pauses.append(round((job.scheduled_at - job.queued_at).total_seconds()))
        await _claim_again(jobs, job_id, away_for=timedelta(seconds=away))
    job = await _again(jobs, job_id)
    assert job.scheduled_at is not None
    assert job.queued_at is not None
    pauses.append(round((job.scheduled_at - job.queued_at).total_seconds()))

    assert pauses == [5, 5, 15, 60]


async def test_a_job_is_given_up_when_an_outage_has_lasted_too_long(jobs: JobRepository) -> None:
    job_id = await _claimed(jobs)
    await _again(jobs, job_id)
    await _claim_again(jobs, job_id, away_for=timedelta(hours=25))

    job = await _again(jobs, job_id)

    assert (job.status, job.failures) == (JobStatus.FAILED, 0)
    assert job.errors[-1]["code"] == "engine_unavailable"
    assert job.errors[-1]["message"] == "the model is away; that has lasted longer than 24.00 h: given up"
    await jobs.retry([job_id])
    jobs.session.expire_all()
    assert (await jobs.get_by_id_or_raise(job_id)).away_since is None


async def test_an_attempt_that_got_on_begins_an_outage_of_its_own(jobs: JobRepository) -> None:
    job_id = await _claimed(jobs)
    await _again(jobs, job_id)
    await _claim_again(jobs, job_id, away_for=timedelta(hours=25))

    job = await _again(jobs, job_id, progressed=True)

    assert job.status is JobStatus.QUEUED


async def test_a_job_whose_cancellation_was_asked_for_is_cancelled_and_not_given_up(jobs: JobRepository) -> None:
    job_id = await _claimed(jobs)
    await _again(jobs, job_id)
    await _claim_again(jobs, job_id, away_for=timedelta(hours=25))
    await jobs.cancel([job_id])

    assert (await _again(jobs, job_id)).status is JobStatus.CANCELLED


class Fickle(NotingEngine):
    """Is away for the first calls, and says that it is well whenever it is asked."""

    calls_left = 0

    async def ask(self, slug: str, question: str) -> Answer:
        if self.calls_left > 0:
            self.calls_left -= 1
            raise EngineUnavailableError("engine_unavailable", "it restarts")
        return await super().ask(slug, question)


@pytest.fixture
def engine() -> Fickle:
    return Fickle()


async def test_a_short_outage_uses_up_no_attempt(client: JobClient, runtime: Runtime, engine: Fickle) -> None:
    await execute(runtime, str((await client.upload_documents("handbook", [FileSource("a.txt", b"a")])).id))
    job = await client.process_questions("handbook", QUESTIONS, max_attempts=1)
    engine.calls_left = 4

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.attempt, after.failures) == (JobStatus.COMPLETED, 1, 0)
    assert {item.status for item in await client.items(job.id)} == {ItemStatus.DONE}


async def test_what_always_finds_a_healthy_engine_away_fails_in_the_end(
    client: JobClient, runtime: Runtime, engine: Fickle
) -> None:
    await execute(runtime, str((await client.upload_documents("handbook", [FileSource("a.txt", b"a")])).id))
    job = await client.process_questions("handbook", QUESTIONS, max_attempts=1)
    engine.calls_left = 1_000

    await execute(runtime, str(job.id))

    after = await client.status(job.id)
    assert (after.status, after.attempt) == (JobStatus.FAILED, 1)
    assert {item.error_code for item in await client.items(job.id)} == {"engine_unavailable"}


@pytest.fixture
async def server() -> Any:
    async with anythingllm_server(Behaviour.quick()) as running:
        yield running


@pytest.mark.parametrize("trouble", ModelTrouble)
async def test_a_model_that_is_away_keeps_questions_back_and_no_documents(
    server: Server, database: DatabaseManager, redis: ArqRedis, trouble: ModelTrouble
) -> None:
    engine = make_engine(server, database, redis)
    slug = await engine.ensure_workspace("Shop")
    await engine.embed(slug, await engine.add_document(slug, document()))
    await server.control(model_down=trouble)

    await engine.health()
    with pytest.raises(EngineUnavailableError, match=r"language model|No text completion"):
        await engine.health(Work.QUESTIONS, slug)
    await server.control(model_down=None)
    await engine.health(Work.QUESTIONS, slug)
    await engine.aclose()


async def test_an_embedder_that_is_away_keeps_both_back(
    server: Server, database: DatabaseManager, redis: ArqRedis
) -> None:
    engine = make_engine(server, database, redis)
    slug = await engine.ensure_workspace("Shop")
    await server.control(embedder_down=True)

    for work in Work:
        with pytest.raises(EngineUnavailableError, match="embedder is down"):
            await engine.health(work, slug)
    await engine.aclose()


async def test_every_worker_obeys_what_one_was_asked_to_wait(
    server: Server, database: DatabaseManager, redis: ArqRedis
) -> None:
    engine, other = make_engine(server, database, redis), make_engine(server, database, redis)
    slug = await engine.ensure_workspace("Shop")
    await server.control(faults={FaultKind.HTTP_429: Fault(most=1)}, retry_after_seconds=30)
    with pytest.raises(EngineUnavailableError):
        await engine.locations(slug)
    await server.reset_counters()

    with pytest.raises(EngineUnavailableError) as caught:
        await other.locations(slug)

    assert caught.value.retry_after is not None
    assert 25 < caught.value.retry_after < 40
    assert (await server.counters()).requests == {}
    for each in (engine, other):
        await each.aclose()
