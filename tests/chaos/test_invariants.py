"""Each invariant of the chaos suite finds the fault it is about, and finds none in a run without one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from repositories.states import JobType
from tests.chaos.harness.client import Told
from tests.chaos.harness.evidence import Evidence, Exit, ItemRow, JobRow
from tests.chaos.harness.invariants import violations
from tests.chaos.harness.record import CLIENT_ROLE, Change, Effect, read_journal
from tests.chaos.harness.workload import ItemPlan, JobPlan

JOB, PARENT = UUID(int=1), UUID(int=2)
HOLDER, OTHER = "host-100-aaaa", "host-200-bbbb"
ROLES = {"chaos_worker_0": 100, "chaos_worker_1": 200}


def change(at: int, role: str, old: str | None, new: str, attempts: tuple[int, int], **fields: object) -> Change:
    """A change of the job; each is a transaction of its own, a second after the one before."""
    held = {"old_worker": HOLDER, "new_worker": HOLDER, "old_version": at, "new_version": at + 1}
    counts = {"old_crashes": 0, "new_crashes": 0}
    told = held | counts | fields
    return Change(
        at,
        float(at),
        at,
        role,
        "jobs",
        JOB,
        None,
        old,
        new,
        *attempts,
        **told,  # type: ignore[arg-type]
    )


def item_change(at: int, role: str, old: str | None, new: str, attempt: int, **fields: object) -> Change:
    told = {"job_status": "processing", "job_attempt": attempt} | fields
    return Change(at, float(at), at, role, "job_items", JOB, 0, old, new, attempt, attempt, **told)  # type: ignore[arg-type]


ENQUEUED = change(1, CLIENT_ROLE, None, "queued", (0, 0))
CLAIMED = change(2, "chaos_worker_0", "queued", "processing", (0, 1))
RECORDED = item_change(4, "chaos_worker_0", "pending", "done", 1)
COUNTED = change(5, "chaos_worker_0", "processing", "processing", (1, 1))
FINISHED = change(6, "chaos_worker_0", "processing", "completed", (1, 1))
RESCUED = change(6, "chaos_worker_1", "processing", "queued", (1, 1), new_crashes=1, lease_left=-1.0)
DONE = Effect(0, 1, JOB, 0, 1, "ask", 3.0, 3.5, "done")
ROW = JobRow(JOB, "completed", 1, 1, 1, 0, 0, [])
EXIT = Exit("process 0", 0, "SIGTERM", was_ready=True, during_outage=True, log_tail="")


def evidence(
    changes: tuple[Change, ...] = (ENQUEUED, CLAIMED, RECORDED, COUNTED, FINISHED),
    effects: tuple[Effect, ...] = (DONE,),
    row: JobRow | None = ROW,
    item: str = "done",
) -> Evidence:
    """A run of one job with one item, as it should be unless the arguments say otherwise."""
    plan = JobPlan(
        JOB, JobType.QUESTION_PROCESSING, 0.0, 5, (ItemPlan(job=JOB, position=0, work_seconds=0.1),), depends_on=()
    )
    return Evidence(
        plans={JOB: plan},
        told=Told(acknowledged={JOB: 1.5}),
        jobs={} if row is None else {JOB: row},
        items={JOB: [ItemRow(JOB, 0, item, 1)]},
        changes=list(changes),
        effects=list(effects),
        exits=[EXIT],
        processes=ROLES,
    )


def with_told(**fields: object) -> Evidence:
    found = evidence()
    for name, value in fields.items():
        setattr(found.told, name, value)
    return found


def with_field(**fields: object) -> Evidence:
    return replace(evidence(), **fields)  # type: ignore[arg-type]


CLAIMED_AGAIN = change(7, "chaos_worker_1", "queued", "processing", (1, 2), new_worker=OTHER)
LATE_FINISH = change(8, "chaos_worker_0", "processing", "completed", (2, 2), old_worker=OTHER, new_worker=OTHER)
BROKEN: dict[str, tuple[str, Callable[[], Evidence]]] = {
    "unfinished": ("every job is final", lambda: evidence(row=ROW._replace(status="processing"))),
    "innocent": (
        "no innocent job fails with its worker",
        lambda: evidence(row=ROW._replace(status="failed", errors='[{"code": "odd"}, {"code": "worker_lost"}]')),
    ),
    "missing": ("no acknowledged job is lost", lambda: evidence(row=None)),
    "two jobs of one key": ("an idempotency key is one job", lambda: with_told(keys=[(JOB, PARENT)])),
    "wrong counts": ("counts agree with items", lambda: evidence(row=ROW._replace(items_done=0))),
    "item forgotten": ("a completed job did every item", lambda: evidence(item="pending")),
    "item list incomplete": ("a completed job did every item", lambda: with_field(items={})),
    "item twice": (
        "an item is recorded once",
        lambda: evidence((*evidence().changes, item_change(7, "chaos_worker_0", "done", "done", 1))),
    ),
    "never done": ("a done item was done", lambda: evidence(effects=())),
    "done by another attempt": ("a done item was done", lambda: evidence(effects=(replace(DONE, attempt=2),))),
    "begun again": (
        "a recorded item is never begun again",
        lambda: evidence(
            (ENQUEUED, CLAIMED, RECORDED, RESCUED, CLAIMED_AGAIN),
            (DONE, replace(DONE, effect=2, attempt=2, begun_at=8.0)),
        ),
    ),
    "no claim": ("an effect belongs to a claim", lambda: evidence(effects=(DONE, replace(DONE, attempt=3, effect=2)))),
    "revived": (
        "no illegal transition",
        lambda: evidence((*evidence().changes, change(7, "chaos_worker_0", "completed", "queued", (1, 1)))),
    ),
    "written as done": (
        "no illegal transition",
        lambda: evidence((change(1, CLIENT_ROLE, None, "completed", (0, 0)),)),
    ),
    "claim without attempt": (
        "attempts grow by one with each claim, and only then",
        lambda: evidence((ENQUEUED, replace(CLAIMED, new_attempt=0))),
    ),
    "completed twice": (
        "no job is completed twice",
        lambda: evidence((*evidence().changes, change(7, "chaos_worker_0", "failed", "completed", (1, 1)))),
    ),
    "zombie finishes": (
        "no write of a lost attempt",
        lambda: evidence((ENQUEUED, CLAIMED, RESCUED, CLAIMED_AGAIN, LATE_FINISH)),
    ),
    "zombie records an item": (
        "no write of a lost attempt",
        lambda: evidence((*evidence().changes, replace(RECORDED, job_attempt=2))),
    ),
    "item after the end": (
        "no write of a lost attempt",
        lambda: evidence((*evidence().changes, replace(RECORDED, txid=9, job_status="completed"))),
    ),
    "rescued too soon": (
        "no write of a lost attempt",
        lambda: evidence((ENQUEUED, CLAIMED, replace(RESCUED, lease_left=2.0))),
    ),
    "client ends it": (
        "no write of a lost attempt",
        lambda: evidence((ENQUEUED, CLAIMED, replace(FINISHED, role=CLIENT_ROLE))),
    ),
    "before its time": (
        "no job starts before its time",
        lambda: evidence((ENQUEUED, replace(CLAIMED, scheduled_left=3.0))),
    ),
    "before its parent": (
        "no job starts before its parents ended",
        lambda: evidence(row=ROW._replace(depends_on=[PARENT])),
    ),
    "cancelled in vain": ("a cancelled job stays cancelled", lambda: with_told(cancelled={JOB})),
    "orphan": ("no orphans in Redis", lambda: with_field(orphans=["arq:job:1"])),
    "exit": ("no worker exits unasked", lambda: with_field(exits=[replace(EXIT, asked=None, status=4)])),
    "exit at start": (
        "no worker exits unasked",
        lambda: with_field(exits=[replace(EXIT, asked=None, was_ready=False, during_outage=False)]),
    ),
    "bad end": ("a terminated worker ends with status 0", lambda: with_field(exits=[replace(EXIT, status=1)])),
    "hangs": ("a terminated worker ends", lambda: with_field(hanging=["process 0"])),
    "strange error": ("callers see documented errors only", lambda: with_told(wrong=["enqueue: KeyError"])),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_promise_is_found(fault: str) -> None:
    promise, run = BROKEN[fault]

    found = [violation.promise for violation in violations(run())]

    assert promise in found


@pytest.mark.parametrize(
    "changes",
    [
        (ENQUEUED, CLAIMED, RECORDED, COUNTED, FINISHED),
        (ENQUEUED, CLAIMED, RECORDED, COUNTED, replace(FINISHED, id=4, at=4.0, txid=4)),  # all in one transaction
        (ENQUEUED, CLAIMED, RECORDED, RESCUED, CLAIMED_AGAIN, replace(LATE_FINISH, role="chaos_worker_1")),
    ],
    ids=["simple", "item and end at once", "rescued"],
)
def test_a_run_that_kept_every_promise_has_no_violation(changes: tuple[Change, ...]) -> None:
    assert violations(evidence(changes)) == []


@pytest.mark.parametrize(("was_ready", "kept"), [(False, True), (True, False)])
def test_only_a_worker_that_has_not_started_may_end_by_the_signal_itself(was_ready: bool, kept: bool) -> None:
    ended = replace(EXIT, status=-15, was_ready=was_ready, during_outage=False)

    assert (violations(with_field(exits=[ended])) == []) is kept


def test_what_happens_within_a_transaction_is_nobody_elses_business() -> None:
    queued = change(1, CLIENT_ROLE, "cancelled", "queued", (1, 1))
    waiting = replace(change(2, CLIENT_ROLE, "queued", "pending", (1, 1)), txid=1)

    found = [v.promise for v in violations(evidence((ENQUEUED, queued, waiting)))]

    assert "no illegal transition" not in found
    apart = replace(waiting, txid=2)
    assert "no illegal transition" in [v.promise for v in violations(evidence((ENQUEUED, queued, apart)))]


def test_an_effect_that_the_process_did_not_survive_is_on_record_as_begun(tmp_path: Path) -> None:
    journal = tmp_path / "effects-0.jsonl"
    begun = f'{{"effect": 1, "job": "{JOB}", "position": 4, "attempt": 2, "kind": "ask", "begun_at": 7.5}}\n'
    journal.write_text(begun + '{"effect": 1, "ended_')

    assert read_journal(journal, 0) == [Effect(0, 1, JOB, 4, 2, "ask", 7.5)]


def test_a_violation_is_told_with_everything_that_happened_to_its_job(tmp_path: Path) -> None:
    (tmp_path / "worker-0.log").write_text(f"job.claimed {JOB}\njob.claimed {PARENT}\n")
    found = evidence()
    found.log_folder = tmp_path

    history = found.history(JOB).splitlines()

    assert [line.split()[2] for line in history[1:-1]] == ["audit", "audit", "effect", "audit", "audit", "audit"]
    assert history[-1].strip() == f"log     worker-0: job.claimed {JOB}"
