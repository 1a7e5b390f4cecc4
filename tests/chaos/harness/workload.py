"""What the client asks of the workers, drawn from a seed: both job types, and everything a caller may do with a job.

A document and a question carry their own orders as JSON (:class:`ItemPlan`), so the engine needs to know nothing else.
"""

import random
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from repositories.states import JobType

_EPOCH_MS = 1_700_000_000_000  # the time within the ids, which must not differ from run to run
_MOST_ITEMS = 40


class ItemPlan(BaseModel):
    """What the engine does with one document or question.

    Attributes:
        work_seconds: how long it takes.
        fails_before: an attempt with a lower number fails unexpectedly.
        reject: the engine can never take it.
    """

    model_config = ConfigDict(frozen=True)

    job: UUID
    position: int
    work_seconds: float
    fails_before: int = 0
    reject: bool = False


@dataclass(frozen=True)
class JobPlan:
    """One job, and what the client does with it.

    Attributes:
        at: when it is enqueued, in seconds after the start; the client may be late during an outage.
        later_seconds: it is scheduled for so long after that; 0: at once.
        depends_on: jobs earlier in the plan.
        again: it is enqueued a second time, with the same id or the same idempotency key.
        cancel_after, retry_after: seconds after ``at``; ``None``: never.
    """

    id: UUID
    type: JobType
    at: float
    priority: int
    items: tuple[ItemPlan, ...]
    max_attempts: int = 3
    later_seconds: float = 0.0
    depends_on: tuple[UUID, ...] = ()
    on_parent_failure: Literal["fail", "release"] = "fail"
    again: Literal["id", "key"] | None = None
    cancel_after: float | None = None
    retry_after: float | None = None


def draw_workload(seed: int, seconds: float, jobs_per_second: float) -> list[JobPlan]:
    """Return the jobs of a run; the client enqueues them over the first ``seconds``."""
    rng = random.Random(f"workload {seed}")  # noqa: S311 - it must be repeatable, not secret
    plans: list[JobPlan] = []
    at = 0.0
    while at < seconds:
        plans.append(_draw(rng, round(at, 3), len(plans), plans))
        at += rng.expovariate(jobs_per_second)
    return plans


def _draw(rng: random.Random, at: float, number: int, before: list[JobPlan]) -> JobPlan:
    job_id = _uuid7(rng, number)
    job_type = rng.choice((JobType.DOCUMENT_UPLOAD, JobType.QUESTION_PROCESSING))
    fails_before, all_rejected = rng.choices(((0, False), (2, False), (1_000, False), (0, True)), (80, 10, 6, 4))[0]
    count = rng.choices((1, rng.randint(2, 8), rng.randint(15, _MOST_ITEMS)), (40, 48, 12))[0]
    broken = rng.randrange(count)
    items = tuple(
        ItemPlan(
            job=job_id,
            position=position,
            work_seconds=round(rng.uniform(0.01, 0.25), 3),
            fails_before=fails_before if position == broken else 0,
            reject=job_type is JobType.DOCUMENT_UPLOAD and (all_rejected or rng.random() < 0.04),
        )
        for position in range(count)
    )
    parents = rng.sample(before[-20:], min(len(before), rng.choice((1, 1, 2, 3)))) if rng.random() < 0.2 else []
    return JobPlan(
        id=job_id,
        type=job_type,
        at=at,
        priority=rng.randrange(10),
        items=items,
        later_seconds=round(rng.uniform(0.5, 3.0), 2) if not parents and rng.random() < 0.1 else 0.0,
        depends_on=tuple(plan.id for plan in parents),
        on_parent_failure=rng.choice(("fail", "release")),
        again=rng.choices((None, "id", "key"), (80, 10, 10))[0],
        cancel_after=round(rng.uniform(0.0, 2.0), 2) if rng.random() < 0.08 else None,
        retry_after=round(rng.uniform(0.5, 3.0), 2) if rng.random() < 0.15 else None,
    )


def _uuid7(rng: random.Random, number: int) -> UUID:
    random_bits = rng.getrandbits(74)
    value = (
        (_EPOCH_MS + number) << 80 | 0x7 << 76 | (random_bits >> 62) << 64 | 0b10 << 62 | random_bits & (1 << 62) - 1
    )
    return UUID(int=value)
