"""The service that goes on using the product during the chaos, as its documentation says one should.

A call may fail with one of the documented errors; it is then made again, with the same id and idempotency key. What was
acknowledged is kept, because it must never be lost.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from repositories.errors import DatabaseStateError
from repositories.models import Job
from repositories.states import JobStatus, JobType
from tests.chaos.harness.workload import JobPlan
from worker.client import JobClient
from worker.files import FileSource
from worker.questions.question_set import Question, QuestionSet
from worker.queue import QueueUnavailableError

WORKSPACE = "chaos"
DOCUMENTED = (DatabaseStateError, QueueUnavailableError)
_PAUSES = (0.2, 0.4, 0.8, 1.6)  # seconds

T = TypeVar("T")


@dataclass
class Told:
    """What the client was told.

    Attributes:
        acknowledged: when each job's enqueue returned (seconds since the epoch).
        cancelled: jobs that a cancel returned as ``cancelled``.
        retried: jobs that a retry moved.
        keys: a second enqueue with the same key: the id asked for, and the id returned.
        repeats: calls that failed with a documented error, by the error's name.
        wrong: calls that failed with any other error.
    """

    acknowledged: dict[UUID, float] = field(default_factory=dict)
    cancelled: set[UUID] = field(default_factory=set)
    retried: set[UUID] = field(default_factory=set)
    keys: list[tuple[UUID, UUID]] = field(default_factory=list)
    repeats: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class Caller:
    """Carries out a workload through one client."""

    def __init__(self, client: JobClient) -> None:
        self._client = client
        self._enqueued: dict[UUID, asyncio.Event] = {}
        self.told = Told()

    async def carry_out(self, plans: list[JobPlan]) -> None:
        """Do everything that ``plans`` say, each thing at its time or as soon as the servers let it; then return."""
        self._enqueued = {plan.id: asyncio.Event() for plan in plans}
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(self._live(plan, start))

    async def _live(self, plan: JobPlan, start: float) -> None:
        await _until(start + plan.at)
        for parent in plan.depends_on:
            await self._enqueued[parent].wait()
        scheduled_at = datetime.now(UTC) + timedelta(seconds=plan.later_seconds) if plan.later_seconds else None
        if not await self._enqueue(plan, plan.id, scheduled_at):
            return
        if plan.again is not None:
            await self._enqueue(plan, plan.id if plan.again == "id" else uuid4(), scheduled_at)
        if plan.cancel_after is not None:
            await _until(start + plan.at + plan.cancel_after)
            outcome = await self._repeated("cancel", lambda: self._client.cancel([plan.id], "planned"))
            if outcome is not None and outcome.moved.get(plan.id) is JobStatus.CANCELLED:
                self.told.cancelled.add(plan.id)
        if plan.retry_after is not None:
            await _until(start + plan.at + plan.retry_after)
            outcome = await self._repeated("retry", lambda: self._client.retry([plan.id]))
            if outcome is not None and outcome.moved:
                self.told.retried.add(plan.id)

    async def _enqueue(self, plan: JobPlan, job_id: UUID, scheduled_at: datetime | None) -> bool:
        job = await self._repeated("enqueue", lambda: self._enqueue_once(plan, job_id, scheduled_at))
        self._enqueued[plan.id].set()  # in any case: a child of a job that was refused is refused in turn
        if job is None:
            return False
        if job_id == plan.id:
            self.told.acknowledged.setdefault(plan.id, time.time())
        if job.id != plan.id:
            self.told.keys.append((plan.id, job.id))
        return True

    async def _enqueue_once(self, plan: JobPlan, job_id: UUID, scheduled_at: datetime | None) -> Job:
        fields: dict[str, Any] = {
            "id": job_id,
            "priority": plan.priority,
            "max_attempts": plan.max_attempts,
            "timeout_seconds": 600,
            "scheduled_at": scheduled_at,
            "depends_on": list(plan.depends_on),
            "on_parent_failure": plan.on_parent_failure,
            "idempotency_key": f"key-{plan.id}",
        }
        texts = [item.model_dump_json() for item in plan.items]
        if plan.type is JobType.DOCUMENT_UPLOAD:
            files = [FileSource(f"{at:03}.txt", text.encode()) for at, text in enumerate(texts)]
            return await self._client.upload_documents(WORKSPACE, files, **fields)
        questions = tuple(Question(id=str(at), text=text) for at, text in enumerate(texts))
        return await self._client.process_questions(WORKSPACE, QuestionSet(name="chaos", questions=questions), **fields)

    async def _repeated(self, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Make a call until it is answered; ``None`` if it failed with an error that the product does not document."""
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                return await call()
            except DOCUMENTED as error:
                name = type(error).__name__
                self.told.repeats[name] = self.told.repeats.get(name, 0) + 1
                await asyncio.sleep(pause)
            except Exception as error:  # noqa: BLE001 - every other error is a finding, and the run goes on
                self.told.wrong.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
                return None
        raise AssertionError("the pauses never end")


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
