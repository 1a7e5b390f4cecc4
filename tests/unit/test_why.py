"""Why a job is where it is: each reason from its facts, and which of two is told."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from repositories.models import CALLER, Job
from repositories.queues import QueueState
from repositories.states import JobStatus
from worker.engines.base import Work
from worker.eta import Eta
from worker.reasons import Facts, Reason, Why, explain
from worker.registry import LiveWorker

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
ID = UUID("01a20c21-c349-77ee-a3f8-36c03af62079")
HOLDERS = [uuid7() for _ in range(10)]


def a_job(status: JobStatus = JobStatus.QUEUED, **fields: Any) -> Job:
    values: dict[str, Any] = {
        "id": ID,
        "type": "document_upload",
        "status": status,
        "queue": "default",
        "attempt": 0,
        "failures": 0,
        "max_attempts": 3,
        "parents_left": 0,
        "depends_on": [],
        "errors": [],
        "items_total": 0,
        "items_done": 0,
        "items_failed": 0,
        "items_skipped": 0,
    }
    return Job(**(values | fields))


def a_queue(**fields: Any) -> QueueState:
    values = {"name": "default", "running": 0, "holders": [], "next_start_seconds": None, "now": NOW}
    return QueueState.model_validate(values | fields)


def a_worker(**fields: Any) -> LiveWorker:
    values = {
        "id": "w",
        "host": "h",
        "pid": 1,
        "version": "1",
        "job_types": ("document_upload",),
        "queues": ("default",),
        "concurrency": 1,
        "running": 0,
        "started_at": NOW,
        "beat_at": NOW,
    }
    return LiveWorker.model_validate(values | fields)


def why(job: Job | None, **facts: Any) -> Why:
    known: dict[str, Any] = {"queue": a_queue(), "workers": [a_worker()], "in_redis": True, "position": 1}
    return explain(Facts(str(ID), NOW, job, **(known | facts)))


ETA = Eta(job_id=ID, event="start", seconds=40, low_seconds=30, high_seconds=60, measured=100, position=7)
ERROR = {"attempt": 1, "code": "broken", "message": "it broke"}
SOON = NOW + timedelta(seconds=90)
AWAY = a_worker(away={Work.DOCUMENTS: "AnythingLLM is down"})
PAUSED = a_queue(paused_at=NOW, paused_by="ann", pause_reason="disk full")
FULL = a_queue(max_running=12, running=12, holders=HOLDERS)
RUNNING = {
    "worker_id": "w-1",
    "attempt": 2,
    "started_at": NOW,
    "lease_expires_at": SOON,
    "items_total": 40,
    "items_done": 10,
    "items_failed": 1,
    "items_skipped": 1,
}
SINCE = "worker w-1 runs it since 2026-05-01 12:00:00 UTC (attempt 2), 12 of 40 items have ended"
ENDED = {"attempt": 1, "started_at": NOW - timedelta(seconds=12), "completed_at": NOW}

CASES = {
    "unknown": (why(None), Reason.UNKNOWN, f"there is no job {ID}; it may have been deleted by retention"),
    "caller-driven": (why(a_job(JobStatus.PENDING)), Reason.CALLER_DRIVEN, "its caller drives it"),
    "scheduled": (
        why(a_job(scheduled_at=SOON)),
        Reason.SCHEDULED,
        "it is scheduled for 2026-05-01 12:01:30 UTC, in 2 min",
    ),
    "retry": (
        why(a_job(scheduled_at=SOON, attempt=1, failures=1, errors=[ERROR])),
        Reason.RETRY,
        "attempt 1 failed (broken: it broke); it is tried again at 2026-05-01 12:01:30 UTC, in 2 min (1 of 3 failures)",
    ),
    "put back": (
        why(a_job(scheduled_at=SOON, attempt=2, failures=1, errors=[ERROR])),
        Reason.PUT_BACK,
        "attempt 2 was put back: again at 2026-05-01 12:01:30 UTC",
    ),
    "paused": (
        why(a_job(), queue=PAUSED),
        Reason.QUEUE_PAUSED,
        "queue default was paused by ann at 2026-05-01 12:00:00 UTC: disk full; `worker queues resume default`",
    ),
    "no worker": (why(a_job(), workers=[]), Reason.NO_WORKER, "no worker lives: start one with `worker run`"),
    "no worker for the type": (
        why(a_job(type="video_upload")),
        Reason.NO_WORKER,
        "no live worker knows the job type video_upload: the 1 that live know document_upload",
    ),
    "no worker for the queue": (
        why(a_job(queue="slow")),
        Reason.NO_WORKER,
        "no live worker takes document_upload jobs from queue slow: they take them from default",
    ),
    "engine away": (
        why(
            a_job(),
            workers=[a_worker(away={Work.DOCUMENTS: "AnythingLLM's collector is down (for 9 s; tried again in 3 s)"})],
        ),
        Reason.ENGINE_AWAY,
        "the engine does not answer: AnythingLLM's collector is down (for 9 s; tried again in 3 s); nothing is lost",
    ),
    "max_running": (
        why(a_job(), queue=FULL),
        Reason.MAX_RUNNING,
        f"queue default runs 12 jobs and may run 12 at a time; they are {', '.join(map(str, HOLDERS))} and 2 more",
    ),
    "rate": (
        why(a_job(), queue=a_queue(max_per_minute=6, next_start_seconds=7.2)),
        Reason.RATE,
        "queue default may start 6 jobs a minute: the next one in 7 s",
    ),
    "redis away": (
        why(a_job(), workers=None, redis_answers=False, in_redis=False),
        Reason.REDIS_AWAY,
        "Redis does not answer",
    ),
    "not in redis": (
        why(a_job(), in_redis=False),
        Reason.HANDING_OVER,
        "it is queued on the record and not in Redis: a worker is taking it, or Redis lost it; a worker hands it over",
    ),
    "parked": (
        why(a_job(scheduled_at=datetime.max.replace(tzinfo=UTC)), in_redis=False, position=None),
        Reason.HANDING_OVER,
        "it is queued on the record and not in Redis: it was kept back and may run by now",
    ),
    "suspect": (
        why(a_job(scheduled_at=datetime.max.replace(tzinfo=UTC), suspicion=2, crashes=1, max_crashes=5)),
        Reason.ISOLATED,
        "2 leases were lost while it ran beside other jobs: it waits to be run alone, in a process of its own (1 of 5",
    ),
    "next, with a pace": (
        why(a_job(), position=7, eta=ETA),
        Reason.NEXT,
        "it is number 7 in queue default: starts in about 40 s (30 s to 1 min)",
    ),
    "next, without a pace": (
        why(a_job()),
        Reason.NEXT,
        "it is next in queue default: too few jobs of the queue ended in the last minutes to tell when it starts",
    ),
    "running": (
        why(a_job(JobStatus.PROCESSING, **RUNNING), eta=ETA),
        Reason.RUNNING,
        f"{SINCE}; it ends in about 40 s",
    ),
    "driven by its caller": (
        why(a_job(JobStatus.PROCESSING, **(RUNNING | {"worker_id": CALLER, "items_total": 0}))),
        Reason.RUNNING,
        "its caller drives it since 2026-05-01 12:00:00 UTC (attempt 2)",
    ),
    "stopping": (
        why(a_job(JobStatus.PROCESSING, **RUNNING, cancel_requested_at=NOW)),
        Reason.STOPPING,
        f"{SINCE}; to be cancelled since",
    ),
    "worker lost": (
        why(a_job(JobStatus.PROCESSING, **(RUNNING | {"lease_expires_at": NOW - timedelta(seconds=3)}))),
        Reason.WORKER_LOST,
        f"{SINCE}, but its lease ran out 3 s ago",
    ),
    "completed": (
        why(a_job(JobStatus.COMPLETED, **ENDED, items_total=9, items_done=7, items_failed=2)),
        Reason.ENDED,
        "it completed at 2026-05-01 12:00:00 UTC, 10 s after its last start, 2 of 9 items failed",
    ),
    "failed": (
        why(a_job(JobStatus.FAILED, **ENDED, errors=[ERROR])),
        Reason.ENDED,
        "it failed at 2026-05-01 12:00:00 UTC, 10 s after its last start: it broke",
    ),
    "cancelled": (
        why(a_job(JobStatus.CANCELLED, completed_at=NOW)),
        Reason.ENDED,
        "it was cancelled at 2026-05-01 12:00:00 UTC",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_reason_is_told_in_a_sentence_that_names_what_it_is_about(case: str) -> None:
    told, reason, sentence = CASES[case]

    assert told.reason is reason
    assert told.sentence.startswith(sentence), told.sentence


def test_every_reason_has_a_case() -> None:
    assert {reason for _, reason, _ in CASES.values()} | {Reason.PARENTS} == set(Reason)


def test_of_many_parents_ten_are_named_and_the_others_counted() -> None:
    live = [a_job(JobStatus.PROCESSING, id=uuid7()) for _ in range(12)]
    ended = a_job(JobStatus.COMPLETED, id=uuid7())
    job = a_job(JobStatus.PENDING, parents_left=12, depends_on=[parent.id for parent in [ended, *live]])

    told = why(job, parents=[ended, *live])

    assert told.reason is Reason.PARENTS
    assert told.sentence.startswith(f"it waits for 12 of 13 jobs to end: document_upload {live[0].id} (processing), ")
    assert told.sentence.endswith(f"document_upload {live[9].id} (processing) and 2 more")
    assert len(told.data["parents"]) == 10
    assert told.data["more"] == 2


@pytest.mark.parametrize(
    ("job", "facts", "first"),
    [
        (a_job(scheduled_at=SOON), {"queue": PAUSED}, Reason.SCHEDULED),
        (a_job(), {"queue": PAUSED, "workers": []}, Reason.QUEUE_PAUSED),
        (a_job(), {"queue": PAUSED, "workers": [AWAY]}, Reason.QUEUE_PAUSED),
        (a_job(scheduled_at=SOON), {"workers": [AWAY]}, Reason.SCHEDULED),
        (a_job(attempt=1, scheduled_at=SOON), {"workers": [AWAY]}, Reason.ENGINE_AWAY),
        (a_job(), {"queue": FULL, "workers": [AWAY]}, Reason.ENGINE_AWAY),
        (a_job(), {"queue": FULL, "workers": []}, Reason.NO_WORKER),
        (a_job(), {"queue": FULL, "redis_answers": False, "workers": None}, Reason.MAX_RUNNING),
        (a_job(), {"redis_answers": False, "workers": None, "in_redis": False}, Reason.REDIS_AWAY),
        (a_job(scheduled_at=NOW), {"in_redis": False}, Reason.HANDING_OVER),
    ],
)
def test_what_a_person_must_remove_first_is_told_first(job: Job, facts: dict[str, Any], first: Reason) -> None:
    assert why(job, **facts).reason is first


def test_the_data_of_every_case_is_json() -> None:
    for told, _, _ in CASES.values():
        assert Why.model_validate_json(told.model_dump_json()) == told
