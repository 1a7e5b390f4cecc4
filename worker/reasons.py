"""Why a job is where it is: one sentence, and the data behind it.

:func:`explain` decides from facts and asks nobody (``why.py`` gathers them). Told is the first reason that holds, in
the order in which a person would have to remove them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from repositories.models import CALLER, Job
from repositories.queues import QueueState
from repositories.states import JobStatus
from worker.engines.base import Work
from worker.eta import Eta, in_words
from worker.registry import LiveWorker

MOST_NAMED = 10


class Reason(StrEnum):
    """What the sentence is about; scripts may rely on it."""

    UNKNOWN = "unknown"
    PARENTS = "parents"
    CALLER_DRIVEN = "caller_driven"
    SCHEDULED = "scheduled"
    RETRY = "retry"
    PUT_BACK = "put_back"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    MAX_RUNNING = "max_running"
    RATE = "rate"
    ENGINE_AWAY = "engine_away"
    REDIS_AWAY = "redis_away"
    HANDING_OVER = "handing_over"
    ISOLATED = "isolated"
    NEXT = "next"
    RUNNING = "running"
    STOPPING = "stopping"
    WORKER_LOST = "worker_lost"
    ENDED = "ended"


class Why(BaseModel):
    """Why a job is not running, or what became of it.

    Attributes:
        job_id: as it was asked for.
        reason: for machines.
        sentence: for people.
        data: what the sentence was made from; its keys depend on ``reason``.
    """

    job_id: str
    reason: Reason
    sentence: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of a job.

    Attributes:
        job: ``None`` if there is none with this id.
        parents: those that it depends on, as they are.
        queue: its queue's pause and limits, of a queued job.
        workers: those that live; ``None`` if that is not known.
        redis_answers: whether Redis does.
        in_redis: whether its message stands in the queue.
        position: where it stands in its queue on the record, from 1.
        eta: when it starts or ends, if that can be told.
        now: the time the rest was read.
    """

    job_id: str
    now: datetime
    job: Job | None = None
    parents: Sequence[Job] = ()
    queue: QueueState | None = None
    workers: Sequence[LiveWorker] | None = None
    redis_answers: bool = True
    in_redis: bool = False
    position: int | None = None
    eta: Eta | None = None


def explain(facts: Facts) -> Why:
    """Say why the job is where it is."""
    job = facts.job
    if job is None:
        told = _Told(Reason.UNKNOWN, f"there is no job {facts.job_id}; it may have been deleted by retention", {})
    elif job.status is JobStatus.PENDING:
        told = _pending(job, facts)
    elif job.status is JobStatus.QUEUED:
        told = _queued(job, facts)
    elif job.status is JobStatus.PROCESSING:
        told = _running(job, facts)
    else:
        told = _ended(job)
    return Why(job_id=facts.job_id, reason=told.reason, sentence=told.sentence, data=told.data)


@dataclass(frozen=True)
class _Told:
    reason: Reason
    sentence: str
    data: dict[str, Any]


def _pending(job: Job, facts: Facts) -> _Told:
    if not job.parents_left:
        sentence = "its caller drives it: no worker takes a job without payload, it waits for the caller's report"
        return _Told(Reason.CALLER_DRIVEN, sentence, {})
    live = [parent for parent in facts.parents if not parent.status.is_final]
    named, more = live[:MOST_NAMED], max(0, job.parents_left - MOST_NAMED)
    rest = f" and {more} more" if more else ""
    names = ", ".join(f"{parent.type} {parent.id} ({parent.status})" for parent in named)
    return _Told(
        Reason.PARENTS,
        f"it waits for {job.parents_left} of {len(job.depends_on)} jobs to end: {names}{rest}",
        {
            "left": job.parents_left,
            "parents": [
                {"job_id": str(parent.id), "type": parent.type, "status": str(parent.status)} for parent in named
            ],
            "more": more,
        },
    )


def _queued(job: Job, facts: Facts) -> _Told:
    for decide in _DECISIONS:
        if told := decide(job, facts):
            return told
    if not facts.redis_answers:
        return _Told(
            Reason.REDIS_AWAY, "Redis does not answer: workers take no job until it does; the job is on the record", {}
        )
    if not facts.in_redis:
        what = "it was kept back and may run by now" if job.is_parked else "a worker is taking it, or Redis lost it"
        return _Told(
            Reason.HANDING_OVER,
            f"it is queued on the record and not in Redis: {what}; a worker hands it over within seconds",
            {"parked": job.is_parked},
        )
    position, eta = facts.position, facts.eta
    place = "it is next" if position == 1 else f"it is number {position}" if position else "it waits"
    when = f"starts in {eta}" if eta else "too few jobs of the queue ended in the last minutes to tell when it starts"
    return _Told(
        Reason.NEXT,
        f"{place} in queue {job.queue}: {when}",
        {"queue": job.queue, "position": position, "eta": eta.model_dump(mode="json") if eta else None},
    )


def _away(job: Job, facts: Facts) -> _Told | None:
    """Every worker that could run it leaves its engine alone for now."""
    is_for_later = job.attempt == 0 and job.scheduled_at is not None and not job.is_parked
    if is_for_later or (facts.queue is not None and facts.queue.paused_at is not None):
        return None
    able = _able(job, facts)
    work = Work.of(job.type)
    reasons = [worker.away[work] for worker in able if work in worker.away]
    if not reasons or len(reasons) < len(able):
        return None
    later = job.scheduled_at if job.scheduled_at is not None and not job.is_parked else None
    again = f"; again at {_at(later)}" if later is not None and later > facts.now else ""
    return _Told(
        Reason.ENGINE_AWAY,
        f"the engine does not answer: {reasons[0]}{again}; nothing is lost, and no attempt is counted",
        {"workers": len(able), "engine": reasons[0], "scheduled_at": _iso(later)},
    )


def _apart(job: Job, _: Facts) -> _Told | None:
    """It may be what killed its workers."""
    if not (job.is_parked and job.is_suspect):
        return None
    return _Told(
        Reason.ISOLATED,
        f"{job.suspicion} leases were lost while it ran beside other jobs: it waits to be run alone, in a process of "
        f"its own ({job.crashes} of {job.max_crashes} crashes)",
        {"suspicion": job.suspicion, "crashes": job.crashes, "max_crashes": job.max_crashes},
    )


def _able(job: Job, facts: Facts) -> list[LiveWorker]:
    return [worker for worker in facts.workers or () if job.type in worker.job_types and job.queue in worker.queues]


def _scheduled(job: Job, facts: Facts) -> _Told | None:
    if job.scheduled_at is None or job.is_parked or job.scheduled_at <= facts.now:
        return None
    until, left = _at(job.scheduled_at), in_words((job.scheduled_at - facts.now).total_seconds())
    data: dict[str, Any] = {"scheduled_at": _iso(job.scheduled_at)}
    error = job.errors[-1] if job.errors else None
    if job.attempt == 0:
        return _Told(Reason.SCHEDULED, f"it is scheduled for {until}, in {left}", data)
    if error is None or error.get("attempt") != job.attempt:
        if job.away_since is not None and job.away_reason is not None:
            for_long = in_words((facts.now - job.away_since).total_seconds())
            return _Told(
                Reason.ENGINE_AWAY,
                f"{job.away_reason}; away since {_at(job.away_since)}, for {for_long}: it is tried again at {until}, "
                f"in {left}; nothing is lost, and no attempt is counted",
                data | {"engine": job.away_reason, "away_since": _iso(job.away_since)},
            )
        sentence = f"attempt {job.attempt} was put back: again at {until}, in {left}"
        return _Told(Reason.PUT_BACK, sentence, data | {"attempt": job.attempt})
    return _Told(
        Reason.RETRY,
        f"attempt {job.attempt} failed ({error['code']}: {error['message']}); it is tried again at {until}, in {left} "
        f"({job.failures} of {job.max_attempts} failures)",
        data | {"error": error, "failures": job.failures, "max_attempts": job.max_attempts},
    )


def _paused(job: Job, facts: Facts) -> _Told | None:
    queue = facts.queue
    if queue is None or queue.paused_at is None:
        return None
    reason = f": {queue.pause_reason}" if queue.pause_reason else ""
    return _Told(
        Reason.QUEUE_PAUSED,
        f"queue {job.queue} was paused by {queue.paused_by} at {_at(queue.paused_at)}{reason}; "
        f"`worker queues resume {job.queue}` lets it go on",
        {
            "queue": job.queue,
            "paused_at": _iso(queue.paused_at),
            "paused_by": queue.paused_by,
            "pause_reason": queue.pause_reason,
        },
    )


def _unserved(job: Job, facts: Facts) -> _Told | None:
    """Nobody lives who could run it."""
    if facts.workers is None or _able(job, facts):
        return None
    types = sorted({name for worker in facts.workers for name in worker.job_types})
    queues = sorted({name for worker in facts.workers if job.type in worker.job_types for name in worker.queues})
    count = len(facts.workers)
    if not count:
        sentence = "no worker lives: start one with `worker run`"
    elif not queues:
        sentence = f"no live worker knows the job type {job.type}: the {count} that live know {', '.join(types)}"
    else:
        sentence = (
            f"no live worker takes {job.type} jobs from queue {job.queue}: they take them from {', '.join(queues)}"
        )
    data = {"workers": count, "type": job.type, "queue": job.queue, "known_types": types, "served_queues": queues}
    return _Told(Reason.NO_WORKER, sentence, data)


def _limited(job: Job, facts: Facts) -> _Told | None:
    queue = facts.queue
    if queue is None:
        return None
    if queue.max_running is not None and queue.running >= queue.max_running:
        holders = [str(holder) for holder in queue.holders[:MOST_NAMED]]
        more = max(0, queue.running - len(holders))
        return _Told(
            Reason.MAX_RUNNING,
            f"queue {job.queue} runs {queue.running} jobs and may run {queue.max_running} at a time; they are "
            f"{', '.join(holders)}" + (f" and {more} more" if more else ""),
            {
                "queue": job.queue,
                "max_running": queue.max_running,
                "running": queue.running,
                "holders": holders,
                "more": more,
            },
        )
    if queue.next_start_seconds:
        return _Told(
            Reason.RATE,
            f"queue {job.queue} may start {queue.max_per_minute} jobs a minute: the next one in "
            f"{in_words(queue.next_start_seconds)}",
            {
                "queue": job.queue,
                "max_per_minute": queue.max_per_minute,
                "next_start_seconds": queue.next_start_seconds,
            },
        )
    return None


def _running(job: Job, facts: Facts) -> _Told:
    finished = job.items_done + job.items_failed + job.items_skipped
    data = {
        "worker_id": job.worker_id,
        "attempt": job.attempt,
        "started_at": _iso(job.started_at),
        "lease_expires_at": _iso(job.lease_expires_at),
        "items_finished": finished,
        "items_total": job.items_total,
        "eta": facts.eta.model_dump(mode="json") if facts.eta else None,
    }
    who = "its caller drives it" if job.worker_id == CALLER else f"worker {job.worker_id} runs it"
    items = f", {finished} of {job.items_total} items have ended" if job.items_total else ""
    ends = f"; it ends in {facts.eta}" if facts.eta else ""
    since = f"{who} since {_at(job.started_at)} (attempt {job.attempt}){items}"
    if job.lease_expires_at is not None and job.lease_expires_at < facts.now:
        silent = in_words((facts.now - job.lease_expires_at).total_seconds())
        sentence = f"{since}, but its lease ran out {silent} ago: another worker puts it back at its next look"
        return _Told(Reason.WORKER_LOST, sentence, data)
    if job.cancel_requested_at is not None:
        sentence = f"{since}; to be cancelled since {_at(job.cancel_requested_at)}: it stops at its next item"
        return _Told(Reason.STOPPING, sentence, data | {"cancel_reason": job.cancel_reason})
    return _Told(Reason.RUNNING, f"{since}{ends}", data)


def _ended(job: Job) -> _Told:
    error = f": {job.error}" if job.status is not JobStatus.COMPLETED and job.error else ""
    failed = f", {job.items_failed} of {job.items_total} items failed" if job.items_failed else ""
    took = f", {in_words(job.duration_seconds)} after its last start" if job.duration_seconds is not None else ""
    verb = "was cancelled" if job.status is JobStatus.CANCELLED else str(job.status)
    return _Told(
        Reason.ENDED,
        f"it {verb} at {_at(job.completed_at)}{took}{failed}{error}",
        {
            "status": str(job.status),
            "completed_at": _iso(job.completed_at),
            "items_total": job.items_total,
            "items_failed": job.items_failed,
            "errors": job.errors,
        },
    )


def _at(time: datetime | None) -> str:
    return "an unknown time" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds")


_DECISIONS: tuple[Callable[[Job, Facts], _Told | None], ...] = (
    _away,
    _scheduled,
    _paused,
    _unserved,
    _apart,
    _limited,
)
