"""Everything that is known about a run once it is over, sorted by job: what the invariants are asked about."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

from tests.chaos.harness.client import Told
from tests.chaos.harness.record import Change, Effect
from tests.chaos.harness.workload import JobPlan

T = TypeVar("T", Change, Effect)


class Violation(NamedTuple):
    """A promise that was broken: its name, what happened, and the job it happened to, if it was one."""

    promise: str
    what: str
    job_id: UUID | None = None


class JobRow(NamedTuple):
    """What the invariants need of a row of ``jobs`` at the end."""

    id: UUID
    status: str
    attempt: int
    items_total: int
    items_done: int
    items_failed: int
    items_skipped: int
    depends_on: list[UUID]
    errors: str = "[]"  # JSON


class ItemRow(NamedTuple):
    """The same of ``job_items``."""

    job_id: UUID
    position: int
    status: str
    attempt: int


@dataclass(frozen=True)
class Exit:
    """The end of a worker process. ``during_outage``: a server was away when it ended, or while it started."""

    process: str
    status: int
    asked: str | None
    was_ready: bool
    during_outage: bool
    log_tail: str


@dataclass
class Evidence:
    """What the run left behind.

    Attributes:
        processes: role of each worker process to its process id.
        orphans: keys and queue members in Redis that belong to no live job.
        log_folder: where the workers' logs are.
    """

    plans: dict[UUID, JobPlan]
    told: Told
    jobs: dict[UUID, JobRow]
    items: dict[UUID, list[ItemRow]]
    changes: list[Change]
    effects: list[Effect]
    exits: list[Exit] = field(default_factory=list)
    processes: dict[str, int] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    hanging: list[str] = field(default_factory=list)
    log_folder: Path | None = None

    def __post_init__(self) -> None:
        self.job_changes = _by_job(change for change in self.changes if change.relation == "jobs")
        self.item_changes = _by_job(change for change in self.changes if change.relation != "jobs")
        self.job_effects = _by_job(self.effects)

    def history(self, job_id: UUID, most_lines: int = 100) -> str:
        """Return all that happened to a job, in the order of time: audit, effects, and log lines that name it."""
        lines = [(change.at, f"audit   {change}") for change in self._told_changes(job_id)]
        lines += [(effect.begun_at, f"effect  {effect}") for effect in self.job_effects.get(job_id, ())]
        lines.sort()
        first = lines[0][0] if lines else 0.0
        told = [f"    {at - first:8.3f} s  {text}" for at, text in lines]
        told += [f"    log     {line}" for line in self._log_lines(job_id)]
        if len(told) > most_lines:
            told[most_lines // 2 : -most_lines // 2] = [f"    ... {len(told) - most_lines} lines left out ..."]
        return "\n".join([f"  job {job_id}, planned as {_plan_told(self.plans.get(job_id))}", *told])

    def _told_changes(self, job_id: UUID) -> Iterable[Change]:
        """Without the hundreds of lease extensions and the writing of the item list."""
        for change in self.job_changes.get(job_id, ()):
            if change.old_status != change.new_status or change.old_version != change.new_version:
                yield change
        for change in self.item_changes.get(job_id, ()):
            if change.old_status is not None:
                yield change

    def _log_lines(self, job_id: UUID) -> list[str]:
        if self.log_folder is None:
            return []
        return [
            f"{log.stem}: {line[:240]}"
            for log in sorted(self.log_folder.glob("worker-*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if str(job_id) in line
        ]


def _by_job(things: Iterable[T]) -> dict[UUID, list[T]]:
    found: dict[UUID, list[T]] = {}
    for thing in things:
        found.setdefault(thing.job_id, []).append(thing)
    return found


def _plan_told(plan: JobPlan | None) -> str:
    if plan is None:
        return "nothing: no plan has this id"
    asked = [f"at {plan.at:.2f} s", str(plan.type), f"{len(plan.items)} items"]
    asked += [f"{name}={getattr(plan, name)}" for name in ("later_seconds", "again", "cancel_after", "retry_after")]
    return ", ".join(part for part in asked if not part.endswith(("=None", "=0.0")))
