"""What one run measures, and in which order: rounds are interleaved, so that a slow minute of the machine hits all."""

import math
import sys
import time
import traceback
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measures.drain import drain, statements
from benchmarks.measures.enqueue import enqueue
from benchmarks.measures.latency import idle_latency, loaded_latency
from benchmarks.measures.loss import flush, outage
from benchmarks.measures.recovery import recovery
from benchmarks.processes import SystemFailedError
from benchmarks.raw_limit import raw_limit
from benchmarks.servers import Servers
from benchmarks.systems import RAW_LIMIT, SYSTEMS, System

MEASURES = ("drain", "enqueue", "latency", "recovery", "loss")
WORKERS = (1, 2)
LOADED_SECONDS = 3.0
LOAD_SHARE = 0.5


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        systems: names, in the order of the tables.
        measures: of ``MEASURES``.
        jobs: for ``drain`` and ``enqueue``, at the fastest systems; the slow ones get their share.
        rounds: of everything but recovery and loss, which have tries of their own.
        latency_tries, recovery_tries: jobs of each, at each system (recovery: its share, at least one).
        outage_jobs: of a quarter second each, ten at a time, for the outage of Redis.
    """

    systems: Sequence[str]
    measures: Sequence[str]
    jobs: int
    rounds: int
    latency_tries: int
    recovery_tries: int
    outage_jobs: int


@dataclass
class Figure:
    """What one measurement of one system gave: ``values``, or an ``error``."""

    measure: str
    system: str
    round: int
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Runner:
    """Carries a plan out. ``figures`` grows as it goes; a system that fails is noted, and the others go on."""

    def __init__(self, plan: Plan, servers: Servers) -> None:
        self._plan = plan
        self._servers = servers
        self.figures: list[Figure] = []

    async def run(self) -> list[Figure]:
        """Measure everything, and return what came out."""
        plan = self._plan
        for number in range(plan.rounds):
            if "drain" in plan.measures:
                await self._note("drain", RAW_LIMIT, number, raw_limit(self._servers, plan.jobs))
            for system in self._in_order_of(number):
                await self._round(system, number)
        for system in self._in_order_of(0):
            await self._once(system)
        return self.figures

    def _in_order_of(self, number: int) -> Iterator[System]:
        """Each round begins with another system."""
        names = list(self._plan.systems)
        first = number % len(names)
        yield from (SYSTEMS[name] for name in names[first:] + names[:first])

    async def _round(self, system: System, number: int) -> None:
        plan, servers = self._plan, self._servers
        jobs = max(200, int(plan.jobs * system.jobs_share))
        if "enqueue" in plan.measures:
            await self._note("enqueue", system.name, number, enqueue(system, servers, jobs))
        if "drain" in plan.measures:
            for workers in WORKERS:
                await self._note(f"drain-{workers}", system.name, number, drain(system, servers, jobs, workers))
        if "latency" in plan.measures:
            await self._note(
                "latency-idle", system.name, number, idle_latency(system, servers, plan.latency_tries, number)
            )
            if rate := self._drained_per_second(system):
                loaded = loaded_latency(system, servers, rate * LOAD_SHARE, LOADED_SECONDS)
                await self._note("latency-loaded", system.name, number, loaded)

    async def _once(self, system: System) -> None:
        plan, servers = self._plan, self._servers
        if "drain" in plan.measures:
            await self._note("statements", system.name, 0, statements(system, servers))
        if "loss" in plan.measures and system.uses_redis:
            await self._note("flush", system.name, 0, flush(system, servers))
            await self._note("outage", system.name, 0, outage(system, servers, plan.outage_jobs))
        if "recovery" in plan.measures:
            tries = max(1, math.ceil(plan.recovery_tries * system.recovery_share))
            await self._note("recovery", system.name, 0, recovery(system, servers, tries))

    def _drained_per_second(self, system: System) -> float | None:
        """The latest rate that this system drained at with one worker; half of it is half load."""
        rates = [
            float(figure.values["jobs_per_second"])
            for figure in self.figures
            if figure.measure == "drain-1" and figure.system == system.name and figure.error is None
        ]
        return rates[-1] if rates else None

    async def _note(self, measure: str, system: str, number: int, measured: Awaitable[dict[str, Any]]) -> None:
        figure = Figure(measure, system, number)
        began = time.monotonic()
        try:
            figure.values = await measured
        except SystemFailedError as error:
            figure.error = str(error)
        except Exception as error:  # noqa: BLE001 - a run of an hour must not end by one of its figures
            figure.error = "".join(traceback.format_exception(error))
        self.figures.append(figure)
        told = figure.error or "  ".join(f"{name}={_short(value)}" for name, value in figure.values.items())
        sys.stderr.write(f"[{number + 1}] {measure:15} {system:14} {time.monotonic() - began:5.1f} s  {told}\n")
        sys.stderr.flush()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str([round(one, 2) for one in value])
