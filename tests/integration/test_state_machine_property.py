"""Whatever is asked of a job, in whatever order, by however many at once: it moves as the table lets it, or not at all.

A small model of one job, built from the rows of ``states.py``, is asked the same as a real PostgreSQL, and the two must
agree after every step. Sequences are made by hypothesis, which also finds the shortest one that fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.errors import InvalidTransitionError
from repositories.jobs import JobRepository
from repositories.models import CALLER, SUSPECT_FROM, Job
from repositories.schemas import Finish, Held
from repositories.states import TRANSITIONS, JobStatus, Verb
from tests.factories import ERROR, LEASE, expire_lease, new_job

S = JobStatus
MAX_CRASHES = 5  # the default of the column
STARTS = ("runnable", "waiting", "caller's")


@dataclass(frozen=True)
class Model:
    """One job, as far as its moves depend on it."""

    status: JobStatus
    payload: bool = True
    attempt: int = 0
    version: int = 1
    failures: int = 0
    crashes: int = 0
    suspicion: int = 0
    worker: str | None = None
    cancel_requested: bool = False
    scheduled: bool = False
    expired: bool = False
    waits: bool = False  # for a parent that never ends

    def may(self, verb: Verb, target: JobStatus) -> bool:
        return any((row.verb, row.source, row.target) == (verb, self.status, target) for row in TRANSITIONS)

    def moved(self, to: JobStatus, **changes: object) -> "Model":
        """The job after one transition: the version grows by one, and what only a state has is gone with it."""
        kept = {"expired": False, "scheduled": False} | changes
        return replace(self, status=to, version=self.version + 1, **kept)  # type: ignore[arg-type]  # names of fields


@dataclass(frozen=True)
class Step:
    """Something that is asked of a job: of the model through ``expect``, of PostgreSQL through ``ask``.

    ``stale`` is how many attempts ago the asker claimed the job.
    """

    verb: str
    to: JobStatus = S.COMPLETED
    stale: int = 0
    failed: bool = False
    later: bool = False

    def expect(self, job: Model, held: int) -> Model:
        """The job afterwards; the same one if the step must be refused. ``held`` is the asker's attempt."""
        return VERBS[self.verb][0](self, job, held)

    async def ask(self, jobs: JobRepository, job_id: UUID, held: int) -> None:
        """Ask it of PostgreSQL. What is refused comes back as data or as an error that says so, never as another."""
        await VERBS[self.verb][1](self, jobs, Held(job_id, held))


def _is_mine(job: Model, held: int) -> bool:
    return job.status is S.PROCESSING and job.attempt == held


def _claimed(_: Step, job: Model, held: int) -> Model:
    if job.may(Verb.CLAIM, S.PROCESSING) and not job.scheduled:
        return job.moved(S.PROCESSING, attempt=job.attempt + 1, worker="worker-1")
    return job


async def _claim(_: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.claim([mine.job_id], "worker-1", LEASE)


def _extended(_: Step, job: Model, held: int) -> Model:
    return replace(job, expired=False) if _is_mine(job, held) else job


async def _extend(_: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.extend_leases([mine], LEASE)


def _finished(step: Step, job: Model, held: int) -> Model:
    if _is_mine(job, held) and job.may(Verb.FINISH, step.to):
        return job.moved(step.to, failures=job.failures + step.failed)
    return job


async def _finish(step: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.finish([Finish(mine, step.to, None, ERROR if step.failed else None)])


def _was_put_back(step: Step, job: Model, held: int) -> Model:
    if _is_mine(job, held) and job.payload and job.may(Verb.PUT_BACK, S.QUEUED):
        to = S.CANCELLED if job.cancel_requested else S.QUEUED
        return job.moved(to, failures=job.failures + step.failed, scheduled=step.later and to is S.QUEUED, suspicion=0)
    return job


async def _put_back(step: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.put_back([mine], timedelta(hours=step.later), ERROR if step.failed else None)


def _expired(_: Step, job: Model, held: int) -> Model:
    return replace(job, expired=True) if job.status is S.PROCESSING else job


async def _expire(_: Step, jobs: JobRepository, mine: Held) -> None:
    if (await jobs.get_by_id_or_raise(mine.job_id)).status is S.PROCESSING:
        await expire_lease(jobs.session, mine.job_id)


def _rescued(_: Step, job: Model, held: int) -> Model:
    if job.worker == CALLER:
        to = S.FAILED
    elif job.cancel_requested:
        to = S.CANCELLED
    else:
        to = S.QUEUED
    if not (job.expired and job.may(Verb.RESCUE, to)):
        return job
    suspicion = job.suspicion + 1  # nothing here is claimed to run alone
    crashes = job.crashes + (job.worker == CALLER)
    return job.moved(to, crashes=crashes, suspicion=suspicion, scheduled=to is S.QUEUED and suspicion >= SUSPECT_FROM)


async def _rescue(_: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.rescue()


def _cancelled(_: Step, job: Model, held: int) -> Model:
    if not job.may(Verb.CANCEL, S.CANCELLED):
        return job
    if job.status is S.PROCESSING and job.worker != CALLER:  # its worker is told, and stops
        return job.moved(S.PROCESSING, cancel_requested=True, expired=job.expired)
    return job.moved(S.CANCELLED, cancel_requested=True)


async def _cancel(_: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.cancel([mine.job_id])


def _retried(_: Step, job: Model, held: int) -> Model:
    to = S.PENDING if job.waits else S.QUEUED
    if job.payload and job.may(Verb.RETRY, to):
        return job.moved(to, failures=0, crashes=0, suspicion=0, cancel_requested=False)
    return job


async def _retry(_: Step, jobs: JobRepository, mine: Held) -> None:
    await jobs.retry([mine.job_id])


def _reported(step: Step, job: Model, held: int) -> Model:
    if step.to is S.CANCELLED:
        return _cancelled(step, job, held)
    if job.payload:
        return job
    if (job.status, step.to) == (S.PROCESSING, S.PROCESSING):
        return replace(job, expired=False)  # a further report: no transition
    if job.may(Verb.REPORT, step.to):
        return job.moved(step.to, attempt=job.attempt + (job.status is S.PENDING), worker=CALLER)
    return job


async def _report(step: Step, jobs: JobRepository, mine: Held) -> None:
    # Whether it was right to refuse, the model tells.
    with suppress(InvalidTransitionError):
        await jobs.update_job_status(mine.job_id, step.to, progress=50.0)


def _became_due(_: Step, job: Model, held: int) -> Model:
    return replace(job, scheduled=False)


async def _become_due(_: Step, jobs: JobRepository, mine: Held) -> None:
    past = "UPDATE jobs SET scheduled_at = now() - interval '1 hour' WHERE id = :id AND scheduled_at > now()"
    await jobs.session.execute(text(past), {"id": mine.job_id})
    await jobs.take_due()


Expect = Callable[[Step, Model, int], Model]
Ask = Callable[[Step, JobRepository, Held], Awaitable[None]]
VERBS: dict[str, tuple[Expect, Ask]] = {
    "claim": (_claimed, _claim),
    "extend": (_extended, _extend),
    "finish": (_finished, _finish),
    "put back": (_was_put_back, _put_back),
    "expire": (_expired, _expire),
    "rescue": (_rescued, _rescue),
    "cancel": (_cancelled, _cancel),
    "retry": (_retried, _retry),
    "report": (_reported, _report),
    "become due": (_became_due, _become_due),
}


async def _start(jobs: JobRepository, kind: str) -> tuple[UUID, Model]:
    if kind == "caller's":
        job = await jobs.create_job("document_upload")
        return job.id, Model(S.PENDING, payload=False)
    if kind == "waiting":
        (parent,) = await jobs.create_many([new_job()])
        (job,) = await jobs.create_many([new_job(depends_on=[parent.id])])
        return job.id, Model(S.PENDING, waits=True)
    (job,) = await jobs.create_many([new_job()])
    return job.id, Model(S.QUEUED)


def _as_model(job: Job, like: Model) -> Model:
    """The row as the model sees it. Whether the lease ran out and a parent lives is taken over."""
    return Model(
        status=job.status,
        payload=job.payload is not None,
        attempt=job.attempt,
        version=job.version,
        failures=job.failures,
        crashes=job.crashes,
        suspicion=job.suspicion,
        worker=job.worker_id,
        cancel_requested=job.cancel_requested_at is not None,
        scheduled=job.scheduled_at is not None,
        expired=like.expired,
        waits=like.waits,
    )


def _fenced(verb: str, **further: st.SearchStrategy[object]) -> st.SearchStrategy[Step]:
    # The present attempt most often, and the two before it.
    return st.builds(Step, verb=st.just(verb), stale=st.sampled_from([0, 0, 0, 1, 2]), **further)


def _finishes(stale: int) -> st.SearchStrategy[Step]:
    ends = [(S.COMPLETED, False), (S.FAILED, True), (S.CANCELLED, False)]
    return st.sampled_from([Step("finish", to, stale, failed) for to, failed in ends])


STEPS = st.one_of(
    st.just(Step("claim")),
    st.just(Step("claim")),
    _fenced("extend"),
    st.sampled_from([0, 0, 0, 1, 2]).flatmap(_finishes),
    _fenced("put back", failed=st.booleans(), later=st.booleans()),
    st.just(Step("expire")),
    st.just(Step("rescue")),
    st.just(Step("cancel")),
    st.just(Step("retry")),
    st.sampled_from([Step("report", to) for to in JobStatus]),
    st.just(Step("become due")),
)
# A step may come twice in a row: a request that is repeated, a message that is delivered again.
SEQUENCES = st.lists(
    STEPS.flatmap(lambda step: st.sampled_from([[step], [step], [step, step]])), min_size=1, max_size=15
)

PROPERTY = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


async def _agrees(session: AsyncSession, start: str, sequence: list[list[Step]]) -> None:
    jobs = JobRepository(session)
    job_id, model = await _start(jobs, start)
    before = (await jobs.get_by_id_or_raise(job_id)).dict()
    for step in _flat(sequence):
        held = max(model.attempt - step.stale, 0)
        expected = step.expect(model, held)

        await step.ask(jobs, job_id, held)

        job = await jobs.get_by_id_or_raise(job_id)
        assert _as_model(job, expected) == expected, f"{step} on {model}"
        if expected == model and step.verb not in {"extend", "report", "expire"}:
            assert job.dict() == before, f"{step} on {model} was refused, and wrote"
        model, before = expected, job.dict()
    await session.rollback()


def _flat(sequence: list[list[Step]]) -> Iterator[Step]:
    for steps in sequence:
        yield from steps


@given(start=st.sampled_from(STARTS), sequence=SEQUENCES)
@settings(PROPERTY, max_examples=100)
async def test_a_job_moves_as_the_model_does_and_a_refusal_writes_nothing(
    session: AsyncSession, start: str, sequence: list[list[Step]]
) -> None:
    await _agrees(session, start, sequence)


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(start=st.sampled_from(STARTS), sequence=SEQUENCES)
@settings(PROPERTY, max_examples=2_000)
async def test_two_thousand_sequences_agree_with_the_model(
    session: AsyncSession, start: str, sequence: list[list[Step]]
) -> None:
    await _agrees(session, start, sequence)


@given(start=st.sampled_from(STARTS), sequence=SEQUENCES, first=STEPS, second=STEPS)
@settings(PROPERTY, max_examples=60)
async def test_two_that_ask_at_once_leave_what_one_after_the_other_would(
    database: DatabaseManager, start: str, sequence: list[list[Step]], first: Step, second: Step
) -> None:
    async with database.get_transaction() as session:
        jobs = JobRepository(session)
        job_id, model = await _start(jobs, start)
        for step in _flat(sequence):
            held = max(model.attempt - step.stale, 0)
            await step.ask(jobs, job_id, held)
            model = step.expect(model, held)

    await _at_once(database, job_id, model, first, second)


@pytest.mark.parametrize("verb", ["claim", "finish", "cancel", "retry", "put back", "rescue", "report"])
async def test_of_two_that_ask_the_same_at_once_one_is_heard(database: DatabaseManager, verb: str) -> None:
    prefix: dict[str, tuple[str, list[str]]] = {
        "claim": ("runnable", []),
        "finish": ("runnable", ["claim"]),
        "cancel": ("runnable", []),
        "retry": ("runnable", ["cancel"]),
        "put back": ("runnable", ["claim"]),
        "rescue": ("runnable", ["claim", "expire"]),
        "report": ("caller's", []),
    }
    start, steps = prefix[verb]
    step = Step(verb)
    for _ in range(10):
        async with database.get_transaction() as session:
            jobs = JobRepository(session)
            job_id, model = await _start(jobs, start)
            for name in steps:
                await Step(name).ask(jobs, job_id, model.attempt)
                model = Step(name).expect(model, model.attempt)

        after = await _at_once(database, job_id, model, step, step)

        assert after.version == model.version + 1


async def _at_once(database: DatabaseManager, job_id: UUID, model: Model, first: Step, second: Step) -> Model:
    """Ask both in transactions that overlap, and compare with the model asked in either order."""
    both = asyncio.Barrier(2)

    def holding(step: Step) -> int:
        return max(model.attempt - step.stale, 0)

    async def ask(step: Step) -> None:
        async with database.get_transaction() as session:
            await both.wait()
            await step.ask(JobRepository(session), job_id, holding(step))

    await asyncio.gather(ask(first), ask(second))

    allowed = []
    for steps in _orders(first, second):
        after = model
        for step in steps:
            after = step.expect(after, holding(step))
        allowed.append(replace(after, expired=False))
    async with database.get_session() as session:
        job = await JobRepository(session).get_by_id_or_raise(job_id)
    found = _as_model(job, replace(model, expired=False))
    assert found in allowed, f"{first} and {second} on {model}"
    return found


def _orders(first: Step, second: Step) -> list[list[Step]]:
    """One after the other; and without a claim or a rescue, which leave a row that somebody holds for the next time."""
    orders = [[first, second], [second, first]]
    orders += [[other] for step, other in ((first, second), (second, first)) if step.verb in {"claim", "rescue"}]
    return orders
