"""Cron jobs run once across all workers, and a worker that dies in one holds up that one run and no later one."""

import json
import os
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix

from tests.chaos.cron_process import HOLD, JOURNAL, TIMEOUT_SECONDS
from tests.chaos.programs import Programs
from tests.waiting import until

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(120)]


class Crons:
    """Two workers with a cron job that is due every two seconds, and what it noted."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._journal = folder / "crons.jsonl"
        self.hold = folder / "hold"

    async def start(self) -> list[int]:
        """Start both workers; return their process ids."""
        names = {JOURNAL: str(self._journal), HOLD: str(self.hold)}
        for _ in range(2):
            await self._programs.start("tests.chaos.cron_process", **names)
        return await self._programs.workers(2)

    def noted(self, what: str) -> list[dict[str, Any]]:
        if not self._journal.exists():
            return []
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    async def have(self, what: str, count: int) -> None:
        async def look() -> bool:
            return len(self.noted(what)) >= count

        await until(look, 60)


def due_ms(line: dict[str, Any]) -> int:
    """When a run was due, as ARQ's id of it says."""
    return int(line["run"].rsplit(":", 1)[1])


@pytest.fixture
def crons(programs: Programs, tmp_path: Path) -> Crons:
    return Crons(programs, tmp_path)


async def test_a_cron_job_runs_once_at_each_of_its_times_whatever_the_number_of_workers(crons: Crons) -> None:
    await crons.start()

    await crons.have("ended", 5)

    runs = [line["run"] for line in crons.noted("began")]
    assert set(Counter(runs).values()) == {1}
    times = sorted(map(due_ms, crons.noted("began")))
    assert {later - earlier for earlier, later in pairwise(times)} == {2_000}, "none was left out"


async def test_when_a_worker_dies_in_a_cron_job_another_one_runs_it_at_its_next_time(
    crons: Crons, redis: ArqRedis
) -> None:
    crons.hold.touch()
    pids = await crons.start()
    await crons.have("began", 1)
    dead = crons.noted("began")[0]
    os.kill(dead["pid"], signal.SIGKILL)
    crons.hold.unlink()

    await crons.have("ended", 3)  # two seconds apart: the lost run's own timeout is over by then

    (other,) = set(pids) - {dead["pid"]}
    assert {line["pid"] for line in crons.noted("ended")} == {other}
    runs = sorted(due_ms(line) for line in crons.noted("ended"))
    assert runs[0] == due_ms(dead) + 2_000, "its very next time was left out"
    # The lost run is repeated once its mark ends, ten seconds after its timeout, as docs/operating.md says.
    assert due_ms(dead) not in runs
    assert runs[-1] - due_ms(dead) > TIMEOUT_SECONDS * 1_000
    assert 0 < await redis.pttl(in_progress_key_prefix + dead["run"]) <= (TIMEOUT_SECONDS + 10) * 1_000
