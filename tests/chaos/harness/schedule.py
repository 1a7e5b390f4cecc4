"""What is done to a run, and when: drawn from a seed, so that the same seed is the same schedule.

Whatever is hit (a worker's slot, a server, a link) is hit by one fault at a time; faults of different things overlap.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

POSTGRESQL, REDIS = "postgresql", "redis"
_FIRST_FAULT_SECONDS = 2.0


class FaultKind(StrEnum):
    """The faults."""

    KILL = "kill -9"
    ZOMBIE = "stop, continue later"
    TERMINATE = "terminate"
    FLUSH = "flush"
    RESTART = "restart, data kept"
    LOSE = "restart, data lost"
    IMMEDIATE = "restart, immediate"
    CUT = "cut connections"
    REFUSE = "refuse connections"
    SLOW = "slow"
    BLACK_HOLE = "swallow, then cut"
    PARTITION = "hold, then deliver"
    READ_ONLY = "flip to read-only"
    TIMEOUTS = "short lock and statement timeouts"
    SESSIONS = "end sessions"


_HITS: Mapping[FaultKind, str] = {
    FaultKind.KILL: "worker",
    FaultKind.ZOMBIE: "worker",
    FaultKind.TERMINATE: "worker",
    FaultKind.FLUSH: REDIS,
    FaultKind.LOSE: REDIS,
    FaultKind.IMMEDIATE: POSTGRESQL,
    FaultKind.READ_ONLY: POSTGRESQL,
    FaultKind.TIMEOUTS: POSTGRESQL,
    FaultKind.SESSIONS: POSTGRESQL,
}
"""What a fault hits; the others hit either server or its link."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds after the start of the schedule.
        target: ``worker N`` (a slot, whoever is in it then), ``postgresql`` or ``redis``.
        seconds: how long it lasts; 0 for what has no length.
        delay_ms: what each chunk of a slow link waits; up to half as much again, at random.
    """

    at: float
    kind: FaultKind
    target: str
    seconds: float = 0.0
    delay_ms: int = 0

    def __str__(self) -> str:
        length = f" for {self.seconds:.1f} s" if self.seconds else ""
        delay = f", {self.delay_ms} ms" if self.delay_ms else ""
        return f"{self.at:7.2f} s  {self.target}: {self.kind}{length}{delay}"


@dataclass(frozen=True)
class Profile:
    """What a run is like.

    Attributes:
        weights: how often each fault is drawn, relative to the others.
        gap_seconds: the shortest and longest time between two faults.
        lengths: shortest and longest, in seconds, of faults that last.
        zombie_seconds: the same of a stopped worker; the shortest is longer than the lease.
        environment: settings of the workers that the profile needs; the rest are the product's defaults.
        lease_seconds: the lease that results from it.
        jobs_per_second: how fast the client enqueues.
    """

    weights: Mapping[FaultKind, int]
    gap_seconds: tuple[float, float]
    lengths: tuple[float, float]
    zombie_seconds: tuple[float, float]
    environment: Mapping[str, str] = field(default_factory=dict)
    lease_seconds: float = 6.0
    jobs_per_second: float = 4.0


_EVERYTHING = {
    FaultKind.KILL: 6,
    FaultKind.ZOMBIE: 5,
    FaultKind.TERMINATE: 3,
    FaultKind.FLUSH: 2,
    FaultKind.RESTART: 3,
    FaultKind.LOSE: 1,
    FaultKind.IMMEDIATE: 1,
    FaultKind.CUT: 3,
    FaultKind.REFUSE: 2,
    FaultKind.SLOW: 3,
    FaultKind.BLACK_HOLE: 2,
    FaultKind.PARTITION: 2,
    FaultKind.READ_ONLY: 2,
    FaultKind.TIMEOUTS: 2,
    FaultKind.SESSIONS: 2,
}
_REFUSALS = {FaultKind.READ_ONLY: 4, FaultKind.TIMEOUTS: 2, FaultKind.SESSIONS: 2, FaultKind.KILL: 1}
_QUICK = {"LEASE_SECONDS": "1.5", "HEARTBEAT_SECONDS": "0.4", "RESCUE_SECONDS": "0.3", "RECONCILE_SECONDS": "1"}

PROFILES: Mapping[str, Profile] = {
    "full": Profile(_EVERYTHING, (0.5, 5.0), (0.5, 8.0), (7.0, 14.0), jobs_per_second=2.0),
    "short": Profile(_EVERYTHING, (0.2, 0.9), (0.3, 1.5), (2.0, 3.0), _QUICK, 1.5, 6.0),
    "zombies": Profile({FaultKind.ZOMBIE: 1}, (0.1, 0.8), (0.3, 1.0), (2.0, 3.5), _QUICK, 1.5, 6.0),
    "refusals": Profile(_REFUSALS, (0.3, 2.0), (0.5, 4.0), (7.0, 8.0), jobs_per_second=6.0),
    "kills": Profile({FaultKind.KILL: 1}, (4.0, 6.0), (0.5, 1.0), (7.0, 8.0), jobs_per_second=3.0),
    "calm": Profile({}, (1.0, 1.0), (0.0, 0.0), (7.0, 8.0), _QUICK, 1.5, 6.0),
}


def draw_schedule(seed: int, seconds: float, workers: int, profile: Profile) -> list[Fault]:
    """Return the faults of a run of ``seconds``, in the order of their times."""
    rng = random.Random(f"schedule {seed}")  # noqa: S311 - it must be repeatable, not secret
    kinds, weights = list(profile.weights), list(profile.weights.values())
    busy: dict[str, float] = {}
    faults: list[Fault] = []
    at = _FIRST_FAULT_SECONDS
    while kinds and at < seconds:
        fault = _draw(rng, at, rng.choices(kinds, weights)[0], workers, profile)
        if busy.get(fault.target, 0.0) <= at:
            faults.append(fault)
            busy[fault.target] = at + fault.seconds + 0.5
        at = round(at + rng.uniform(*profile.gap_seconds), 2)
    return faults


def _draw(rng: random.Random, at: float, kind: FaultKind, workers: int, profile: Profile) -> Fault:
    hits = _HITS.get(kind)
    target = f"worker {rng.randrange(workers)}" if hits == "worker" else hits or rng.choice((POSTGRESQL, REDIS))
    if kind is FaultKind.ZOMBIE:
        return Fault(at, kind, target, round(rng.uniform(*profile.zombie_seconds), 2))
    if kind in {FaultKind.KILL, FaultKind.TERMINATE, FaultKind.FLUSH, FaultKind.CUT, FaultKind.SESSIONS}:
        return Fault(at, kind, target)
    delay_ms = rng.choice((5, 20, 80, 250)) if kind is FaultKind.SLOW else 0
    return Fault(at, kind, target, round(rng.uniform(*profile.lengths), 2), delay_ms)
