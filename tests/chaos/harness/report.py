"""How a run is told to a person: what was planned, what came of it, and each broken promise with the job's history."""

from collections import Counter
from collections.abc import Iterator, Sequence
from uuid import UUID

from tests.chaos.harness.evidence import Evidence, Violation
from tests.chaos.harness.recovery import lost_attempts_work_on, recovery_seconds, told
from tests.chaos.harness.run import Plan, Result

_MOST_HISTORIES = 8
_MOST_VIOLATIONS = 500
_MOST_ALIKE = 3  # of one promise and one job


def planned(plan: Plan) -> Iterator[str]:
    """The seed, the workload and the schedule."""
    jobs = plan.workload
    yield f"seed {plan.seed}: {plan.workers} workers, {len(jobs)} jobs with {sum(len(j.items) for j in jobs)} items"
    yield from (f"  {fault}" for fault in plan.schedule)


def outcome(result: Result) -> Iterator[str]:
    """Figures, then the violations."""
    evidence = result.evidence
    statuses = Counter(job.status for job in evidence.jobs.values())
    attempts = Counter(min(job.attempt, 6) for job in evidence.jobs.values())
    drained = "not drained in time" if result.drained_seconds is None else f"drained in {result.drained_seconds:.1f} s"
    unasked = [end for end in evidence.exits if end.asked is None]
    starting = sum(not end.was_ready and end.during_outage for end in unasked)
    yield f"jobs: {dict(sorted(statuses.items()))}, {drained}"
    yield f"attempts to jobs (6: or more): {dict(sorted(attempts.items()))}"
    yield f"effects: {len(evidence.effects)}, audited changes: {len(evidence.changes)}"
    yield f"client calls made again: {evidence.told.repeats or 'none'}"
    yield f"worker processes: {len(result.workers)}, exits nobody asked for: {len(unasked)}"
    yield f"  of these while starting during an outage, which is allowed: {starting}"
    recovery = recovery_seconds(evidence, result.workers)
    yield f"kill -9 to the job taken from the dead: {told(recovery.given_up)}"
    yield f"kill -9 to the job running again, its turn in the queue awaited: {told(recovery.running_again)}"
    yield f"items begun by lost attempts, seconds after the loss: {told(lost_attempts_work_on(evidence))}"
    yield from broken(evidence, result.violations)


def broken(evidence: Evidence, violations: Sequence[Violation]) -> Iterator[str]:
    """Every violation; with the histories of the first few jobs."""
    yield f"violations: {len(violations) or 'none'}"
    counts = Counter(violation.promise for violation in violations)
    yield from (f"  {count:4} x {promise}" for promise, count in counts.most_common())
    told_of: Counter[tuple[str, UUID | None]] = Counter()
    histories: list[UUID] = []
    for violation in violations:
        told_of[violation.promise, violation.job_id] += 1
        if told_of[violation.promise, violation.job_id] > _MOST_ALIKE or told_of.total() > _MOST_VIOLATIONS:
            continue
        about = "" if violation.job_id is None else f" (job {violation.job_id})"
        yield f"VIOLATION {violation.promise}: {violation.what}{about}"
        if violation.job_id is not None and violation.job_id not in histories and len(histories) < _MOST_HISTORIES:
            histories.append(violation.job_id)
            yield evidence.history(violation.job_id)
