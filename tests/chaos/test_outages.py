"""PostgreSQL, Redis or both go away under load and come back: no worker exits, no job is lost, none completes twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from repositories.states import JobStatus
from tests.chaos.harness.report import outcome, planned
from tests.chaos.harness.run import Plan, Result, chaos_run
from tests.chaos.harness.schedule import POSTGRESQL, PROFILES, REDIS, Fault, FaultKind
from tests.chaos.harness.workload import draw_workload

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

WORKERS = 2
FIRST_SECONDS = 3.0
OUTAGES = {
    "postgresql": [(FaultKind.RESTART, POSTGRESQL)],
    "postgresql-immediate": [(FaultKind.IMMEDIATE, POSTGRESQL)],
    "redis": [(FaultKind.RESTART, REDIS)],
    "redis-without-its-data": [(FaultKind.LOSE, REDIS)],
    "both": [(FaultKind.RESTART, POSTGRESQL), (FaultKind.LOSE, REDIS)],
}


async def run(outages: list[str], seconds: float, folder: Path) -> Result:
    """Have outages one after the other, under load."""
    # A minute is long enough for the leases as they are shipped; a second is not.
    profile = replace(PROFILES["calm"], environment={}) if seconds > 10 else PROFILES["calm"]
    schedule = [
        Fault(FIRST_SECONDS + number * (seconds + 1.0), kind, target, seconds)
        for number, name in enumerate(outages)
        for kind, target in OUTAGES[name]
    ]
    end = schedule[-1].at + seconds + 0.5
    plan = Plan(0, WORKERS, profile, schedule, draw_workload(len(outages), end, 4.0))
    print(*planned(plan), sep="\n")  # noqa: T201 - for the report of a failing test
    result = await chaos_run(plan, folder, print)
    print(*outcome(result), sep="\n")  # noqa: T201 - likewise
    return result


def assert_survived(result: Result) -> None:
    assert result.violations == []
    assert len(result.workers) == WORKERS, "the same processes ran to the end"
    assert result.outages, "no server went away: the run proves nothing"
    for begin, end in result.outages:
        started = [effect.begun_at for effect in result.evidence.effects]
        assert min(started) < begin, "nothing ran before the outage: it met no load"
        assert max(started) > end, "nothing ran after the outage"
    completed = [job for job in result.evidence.jobs.values() if job.status == JobStatus.COMPLETED]
    assert len(completed) > len(result.evidence.jobs) / 2


@pytest.mark.slow  # 15 to 20 s
async def test_workers_outlive_every_outage_of_a_second(tmp_path: Path) -> None:
    assert_survived(await run(["redis-without-its-data", "postgresql", "both"], 1.0, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES)
async def test_workers_outlive_an_outage_of_a_second(outage: str, tmp_path: Path) -> None:
    assert_survived(await run([outage], 1.0, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES)
async def test_workers_outlive_an_outage_of_a_minute(outage: str, tmp_path: Path) -> None:
    assert_survived(await run([outage], 60.0, tmp_path))
