"""How soon the jobs of a killed worker ran again, and how long lost attempts went on: figures, not promises."""

import signal
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple
from uuid import UUID

from repositories.states import JobStatus
from tests.chaos.harness.evidence import Evidence
from tests.chaos.harness.supervision import WorkerProcess


class Recovery(NamedTuple):
    """What became of the jobs that a worker held when it was killed; seconds after the kill, shortest first.

    Attributes:
        given_up: until the record said that the dead worker no longer has the job: the product's own doing.
        running_again: until another attempt had it; with a backlog, mostly the time it waited for its turn.
    """

    given_up: list[float]
    running_again: list[float]


def recovery_seconds(evidence: Evidence, workers: Sequence[WorkerProcess]) -> Recovery:
    """Return how soon jobs recovered from ``kill -9``; those that ended by it are in ``given_up`` only."""
    found = Recovery([], [])
    for worker in workers:
        if worker.asked is not signal.SIGKILL or worker.asked_at is None:
            continue
        for changes in evidence.job_changes.values():
            before = [change for change in changes if change.at <= worker.asked_at]
            if not before or before[-1].new_status != JobStatus.PROCESSING:
                continue
            if f"-{worker.pid}-" not in (before[-1].new_worker or ""):
                continue
            after = [change for change in changes if change.at > worker.asked_at]
            left = [change.at for change in after if change.new_status != JobStatus.PROCESSING]
            claims = [change.at for change in after if (change.new_attempt or 0) > (before[-1].new_attempt or 0)]
            found.given_up.extend(at - worker.asked_at for at in left[:1])
            found.running_again.extend(at - worker.asked_at for at in claims[:1])
    return Recovery(*(sorted(seconds) for seconds in found))


def told(seconds: Sequence[float]) -> str:
    """The median and the longest of some times, for people."""
    return f"p50 {median(seconds):.2f} s, max {max(seconds):.2f} s (of {len(seconds)})" if seconds else "none"


def lost_attempts_work_on(evidence: Evidence) -> list[float]:
    """Return, for each effect that an attempt began after another had claimed its job, how long after."""
    claimed: dict[UUID, list[tuple[int, float]]] = defaultdict(list)
    for job_id, changes in evidence.job_changes.items():
        for change in changes:
            if change.new_status == JobStatus.PROCESSING != change.old_status and change.new_attempt is not None:
                claimed[job_id].append((change.new_attempt, change.at))
    found = []
    for effect in evidence.effects:
        later = [at for attempt, at in claimed[effect.job_id] if attempt > effect.attempt and at < effect.begun_at]
        if later:
            found.append(effect.begun_at - min(later))
    return sorted(found)
