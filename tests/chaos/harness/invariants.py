"""What must be true of every run, whatever was done to it. Each promise is one function of the evidence.

They are asked once the schedule has ended, everything is healthy again and the queue has had its time to drain.
"""

import json
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID

from repositories.states import FINAL, TRANSITIONS, ItemStatus, JobStatus
from tests.chaos.harness.evidence import Evidence, Violation
from tests.chaos.harness.record import CLIENT_ROLE, Change

_PAIRS = {(str(row.source), str(row.target)) for row in TRANSITIONS}
_FIRST = {str(JobStatus.QUEUED), str(JobStatus.PENDING), str(JobStatus.FAILED)}  # failed: a parent had failed before
_FINAL = {str(status) for status in FINAL}
_RECORDED = {str(ItemStatus.DONE), str(ItemStatus.SKIPPED), str(ItemStatus.FAILED)}
_PROCESS_OF_WORKER_ID = re.compile(r"-(\d+)-[0-9a-f]+(?:-alone)?$")
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CLOCK_SECONDS = 0.05  # the database and the workers have one clock, read at slightly different moments


def every_job_is_final(evidence: Evidence) -> Iterator[Violation]:
    """Every job that was written has ended."""
    for job in evidence.jobs.values():
        if job.status not in _FINAL:
            yield Violation("every job is final", f"it is still {job.status} in attempt {job.attempt}", job.id)


def no_innocent_job_is_lost_with_its_workers(evidence: Evidence) -> Iterator[Violation]:
    """No job here kills its worker, so none fails because workers died."""
    for job in evidence.jobs.values():
        if job.status == JobStatus.FAILED and _last_code(job.errors) == "worker_lost":
            yield Violation("no innocent job fails with its worker", job.errors, job.id)


def _last_code(errors: str) -> str | None:
    told = json.loads(errors)
    return told[-1]["code"] if told else None


def no_acknowledged_job_is_missing(evidence: Evidence) -> Iterator[Violation]:
    """What the client was told is on the record."""
    for job_id in evidence.told.acknowledged:
        if job_id not in evidence.jobs:
            yield Violation("no acknowledged job is lost", "its enqueue returned, and there is no row", job_id)
    for planned, returned in evidence.told.keys:
        yield Violation("an idempotency key is one job", f"a second enqueue returned {returned}", planned)


def every_item_is_recorded_once(evidence: Evidence) -> Iterator[Violation]:
    """A completed job has all its items, the counts agree, and none was recorded a second time."""
    for job in evidence.jobs.values():
        items, plan = evidence.items.get(job.id, []), evidence.plans.get(job.id)
        counts = Counter(item.status for item in items)
        told = (counts["done"], counts["failed"], counts["skipped"], len(items))
        if told != (job.items_done, job.items_failed, job.items_skipped, job.items_total):
            yield Violation("counts agree with items", f"items are {dict(counts)}, the job says {job}", job.id)
        if job.status == JobStatus.COMPLETED:
            if plan is not None and len(items) != len(plan.items):
                yield Violation("a completed job did every item", f"{len(items)} of {len(plan.items)} items", job.id)
            if counts["pending"]:
                yield Violation("a completed job did every item", f"{counts['pending']} items are pending", job.id)
        for change in evidence.item_changes.get(job.id, ()):
            asked_again = change.old_status == ItemStatus.FAILED and change.new_status == ItemStatus.PENDING
            if change.old_status in _RECORDED and not asked_again:
                yield Violation("an item is recorded once", str(change), job.id)


def recorded_items_were_done(evidence: Evidence) -> Iterator[Violation]:
    """An item is done because the attempt that says so did it."""
    for job_id, items in evidence.items.items():
        done = {
            (effect.item, effect.attempt) for effect in evidence.job_effects.get(job_id, ()) if effect.how == "done"
        }
        for item in items:
            if item.status == ItemStatus.DONE and (item.position, item.attempt) not in done:
                what = f"item {item.position} is done by attempt {item.attempt}, which never did it"
                yield Violation("a done item was done", what, job_id)


def no_recorded_item_is_begun_again(evidence: Evidence) -> Iterator[Violation]:
    """An attempt that began after an item was recorded does not begin that item."""
    for job_id, effects in evidence.job_effects.items():
        claimed = {
            change.new_attempt: change.at
            for change in evidence.job_changes.get(job_id, ())
            if change.new_status == JobStatus.PROCESSING and change.old_status != JobStatus.PROCESSING
        }
        recorded: dict[int, float] = {}
        for change in evidence.item_changes.get(job_id, ()):
            if change.position is not None and change.new_status in {ItemStatus.DONE, ItemStatus.SKIPPED}:
                recorded.setdefault(change.position, change.at)
        for effect in effects:
            at = recorded.get(effect.item)
            began = claimed.get(effect.attempt)
            if began is None:
                yield Violation("an effect belongs to a claim", f"no claim is on the record: {effect}", job_id)
            elif at is not None and began > at + _CLOCK_SECONDS:
                what = f"recorded {began - at:.2f} s before the attempt began: {effect}"
                yield Violation("a recorded item is never begun again", what, job_id)


def no_illegal_transition(evidence: Evidence) -> Iterator[Violation]:
    """Every change of a status is a row of ``states.TRANSITIONS``; attempts and versions only grow."""
    for job_id, every_change in evidence.job_changes.items():
        changes = _committed(every_change)
        for change in changes:
            old, new = change.old_status, change.new_status
            if old is None:
                if new not in _FIRST:
                    yield Violation("no illegal transition", f"it was written as {new}: {change}", job_id)
                continue
            if old != new and (old, new) not in _PAIRS:
                yield Violation("no illegal transition", str(change), job_id)
            claimed = new == JobStatus.PROCESSING and old != new
            if (change.new_attempt or 0) - (change.old_attempt or 0) != int(claimed):
                yield Violation("attempts grow by one with each claim, and only then", str(change), job_id)
            if (change.new_version or 0) < (change.old_version or 0):
                yield Violation("versions only grow", str(change), job_id)
        completions = [change for change in changes if change.new_status == JobStatus.COMPLETED != change.old_status]
        if len(completions) > 1:
            yield Violation("no job is completed twice", "; ".join(map(str, completions)), job_id)


def _committed(changes: list[Change]) -> list[Change]:
    """One change a transaction, from what it found to what it left: nobody else sees what is in between."""
    found: dict[int, Change] = {}
    for change in changes:
        first = found.get(change.txid, change)
        found[change.txid] = replace(
            change, old_status=first.old_status, old_attempt=first.old_attempt, old_version=first.old_version
        )
    return list(found.values())


def no_write_of_a_lost_attempt(evidence: Evidence) -> Iterator[Violation]:
    """A processing job is changed by the process that holds it, by a rescue once its lease ran out, or by a request."""
    for job_id, changes in evidence.job_changes.items():
        for change in changes:
            if change.old_status == JobStatus.PROCESSING and (why := _not_the_holders(evidence, change)):
                yield Violation("no write of a lost attempt", f"{why}: {change}", job_id)
    moved_in = {
        (change.job_id, change.txid, change.old_attempt)
        for change in evidence.changes
        if change.relation == "jobs" and change.old_status == JobStatus.PROCESSING != change.new_status
    }
    for job_id, changes in evidence.item_changes.items():
        for change in changes:
            if change.role == CLIENT_ROLE or change.new_status is None:
                continue  # a retry makes failed items pending again
            holds = change.new_attempt == change.job_attempt
            runs = change.job_status == JobStatus.PROCESSING or (job_id, change.txid, change.new_attempt) in moved_in
            if not (holds and runs):
                yield Violation("no write of a lost attempt", str(change), job_id)


def _not_the_holders(evidence: Evidence, change: Change) -> str | None:
    """Say why the writer of a change of a processing job may not have written it; ``None`` if it may."""
    if change.role not in evidence.processes:
        # The client marks: that it is to be cancelled, or that it has dependents.
        return None if change.old_status == change.new_status else "the client ended a job that a worker runs"
    named = _PROCESS_OF_WORKER_ID.search(change.old_worker or "")
    if named is not None and int(named[1]) == evidence.processes[change.role]:
        return None
    if (change.new_crashes or 0) > (change.old_crashes or 0):
        left = change.lease_left
        return f"rescued with {left:.2f} s of its lease left" if left is not None and left > 0 else None
    return f"process {evidence.processes[change.role]} wrote, {change.old_worker} held it"


def jobs_start_when_they_may(evidence: Evidence) -> Iterator[Violation]:
    """No job starts before its time, before its parents ended, or after it was cancelled for good."""
    for job_id, changes in evidence.job_changes.items():
        for change in changes:
            if change.new_status != JobStatus.PROCESSING or change.old_status == JobStatus.PROCESSING:
                continue
            if change.scheduled_left is not None and change.scheduled_left > _CLOCK_SECONDS:
                yield Violation("no job starts before its time", str(change), job_id)
            for parent in evidence.jobs[job_id].depends_on if job_id in evidence.jobs else ():
                first_end = min(
                    (c.at for c in evidence.job_changes.get(parent, ()) if c.new_status in _FINAL), default=None
                )
                if first_end is None or change.at < first_end - _CLOCK_SECONDS:
                    yield Violation("no job starts before its parents ended", f"{parent}: {change}", job_id)
    for job_id in evidence.told.cancelled - evidence.told.retried:
        if (job := evidence.jobs.get(job_id)) is not None and job.status != JobStatus.CANCELLED:
            yield Violation("a cancelled job stays cancelled", f"it is {job.status}", job_id)


def no_orphan_in_redis(evidence: Evidence) -> Iterator[Violation]:
    """Nothing of an ended job is left in Redis."""
    for key in evidence.orphans:
        named = _JOB_ID.search(key)
        yield Violation("no orphans in Redis", key, UUID(named[0]) if named else None)


def no_worker_exits_unasked(evidence: Evidence) -> Iterator[Violation]:
    """A worker ends when it is told to, with status 0, and soon; an outage is no reason.

    One that was only starting while a server was away may end: whoever runs it starts it again.
    """
    for end in evidence.exits:
        if end.asked is None and (end.was_ready or not end.during_outage):
            what = f"{end.process} ended with status {end.status}; the end of its log:\n{end.log_tail}"
            yield Violation("no worker exits unasked", what)
        by_signal = end.status == -signal.SIGTERM and not end.was_ready  # before it could say otherwise
        if end.asked == "SIGTERM" and end.status != 0 and not by_signal and (end.was_ready or not end.during_outage):
            what = f"{end.process} ended with status {end.status} after SIGTERM; the end of its log:\n{end.log_tail}"
            yield Violation("a terminated worker ends with status 0", what)
    for process in evidence.hanging:
        yield Violation("a terminated worker ends", f"{process} had to be killed")


def callers_see_documented_errors(evidence: Evidence) -> Iterator[Violation]:
    """A client's call succeeds, or fails with an error that says that it may be made again."""
    for what in evidence.told.wrong:
        yield Violation("callers see documented errors only", what)


INVARIANTS: tuple[Callable[[Evidence], Iterator[Violation]], ...] = (
    no_acknowledged_job_is_missing,
    every_job_is_final,
    no_innocent_job_is_lost_with_its_workers,
    every_item_is_recorded_once,
    recorded_items_were_done,
    no_recorded_item_is_begun_again,
    no_illegal_transition,
    no_write_of_a_lost_attempt,
    jobs_start_when_they_may,
    no_orphan_in_redis,
    no_worker_exits_unasked,
    callers_see_documented_errors,
)


def violations(evidence: Evidence) -> list[Violation]:
    """Return every broken promise."""
    return [violation for invariant in INVARIANTS for violation in invariant(evidence)]
