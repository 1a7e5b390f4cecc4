"""``python -m tests.chaos``: one run of the chaos suite. Prints its seed, schedule, figures and violations.

Exit status: 0 without a violation, 1 with one. The same seed and options give the same schedule and workload. Every
option is also an environment variable: ``CHAOS_SEED`` and so on.
"""

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.harness.report import outcome, planned
from tests.chaos.harness.run import Plan, chaos_run
from tests.chaos.harness.schedule import PROFILES, draw_schedule
from tests.chaos.harness.workload import draw_workload
from worker.settings import LogFormat, LogLevel
from worker.telemetry import configure_logging

_OPTIONS = ("seed", "seconds", "workers", "profile", "drain", "folder")
_MOST_WORKERS = 16


def main() -> int:
    """Run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    option = parser.add_argument
    option("--seed", type=int, help="decides schedule and workload; default: random")
    option("--seconds", type=float, default=180, help="length of the schedule (default 180)")
    option("--workers", type=int, default=3, help="worker processes (1 to 16, default 3)")
    option("--profile", choices=PROFILES, default="full", help="which faults, and how fast (default full)")
    option("--drain", type=float, default=90, help="seconds the queue may take to drain at the end (default 90)")
    option("--folder", type=Path, help="an empty folder for logs and data; default: a new temporary one")
    option("--plan", action="store_true", help="print schedule and workload, and do nothing")
    options = parser.parse_args([*_from_environment(), *sys.argv[1:]])
    if options.seconds <= 0 or options.drain <= 0 or not 1 <= options.workers <= _MOST_WORKERS:
        parser.error(f"--seconds and --drain must be more than 0, and --workers 1 to {_MOST_WORKERS}")
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    profile = PROFILES[options.profile]
    plan = Plan(
        seed=seed,
        workers=options.workers,
        profile=profile,
        schedule=draw_schedule(seed, options.seconds, options.workers, profile),
        workload=draw_workload(seed, options.seconds, profile.jobs_per_second),
        drain_seconds=options.drain,
    )
    for line in planned(plan):
        _say(line)
    if options.plan:
        for job in plan.workload:
            _say(f"  {job}")
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"logs and data: {folder}")
    with (folder / "client.log").open("w") as log:
        configure_logging(LogLevel.INFO, LogFormat.TEXT, log)
        result = asyncio.run(chaos_run(plan, folder, _say))
    for line in outcome(result):
        _say(line)
    again = f"--seed {seed} --seconds {options.seconds:g} --workers {options.workers} --profile {options.profile}"
    _say(f"again: python -m tests.chaos {again}")
    return 1 if result.violations else 0


def _from_environment() -> list[str]:
    """Options that stand in the environment, as if they began the command line."""
    values = ((name, os.environ.get(f"CHAOS_{name.upper()}")) for name in _OPTIONS)
    return [f"--{name}={value}" for name, value in values if value]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
