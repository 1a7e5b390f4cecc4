"""Whatever is done to workers, servers and links, in an order drawn from a seed: every promise is kept."""

from pathlib import Path

import pytest

from tests.chaos.harness.report import outcome, planned
from tests.chaos.harness.run import Plan, Result, chaos_run
from tests.chaos.harness.schedule import PROFILES, draw_schedule
from tests.chaos.harness.workload import draw_workload

pytestmark = pytest.mark.chaos

WORKERS = 3


async def run(seed: int, seconds: float, profile_name: str, folder: Path) -> Result:
    """A run whose plan and outcome pytest shows if the test fails."""
    profile = PROFILES[profile_name]
    plan = Plan(
        seed,
        WORKERS,
        profile,
        draw_schedule(seed, seconds, WORKERS, profile),
        draw_workload(seed, seconds, profile.jobs_per_second),
    )
    print(*planned(plan), sep="\n")  # noqa: T201 - the seed and the schedule, for the report of a failing test
    result = await chaos_run(plan, folder, print)
    print(*outcome(result), sep="\n")  # noqa: T201 - likewise
    return result


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [7, pytest.param(13, marks=pytest.mark.slow)])  # each takes 20 s
async def test_every_promise_is_kept_whatever_a_few_seconds_of_chaos_do(seed: int, tmp_path: Path) -> None:
    result = await run(seed, 4.0, "short", tmp_path)

    assert result.violations == []
    assert result.evidence.effects, "the engine did nothing: the run proves nothing"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_promise_is_kept_whatever_a_minute_of_chaos_does(seed: int, tmp_path: Path) -> None:
    result = await run(seed, 60.0, "full", tmp_path)

    assert result.violations == []


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_workers_that_wake_up_after_their_leases_ran_out_change_nothing(tmp_path: Path) -> None:
    result = await run(1, 12.0, "zombies", tmp_path)

    assert result.violations == []
    lost = [job for job in result.evidence.jobs.values() if job.attempt > 1]
    assert lost, "no job was taken from a stopped worker: the run proves nothing"


def test_the_same_seed_is_the_same_schedule_and_workload() -> None:
    profile = PROFILES["full"]

    def drawn(seed: int) -> tuple[object, object]:
        return draw_schedule(seed, 60, WORKERS, profile), draw_workload(seed, 60, profile.jobs_per_second)

    assert drawn(5) == drawn(5)
    assert drawn(5)[0] != drawn(6)[0]
    assert drawn(5)[1] != drawn(6)[1]
