"""``python -m tests.chaos.cron_process``: the product's ``worker run``, with one cron job in place of its own.

The cron job is due every two seconds. It notes when it begins and ends, a JSON line each, in the file ``CRON_JOURNAL``;
while the file ``CRON_HOLD`` exists it does not end by itself.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arq import cron

import worker.runner
from worker.cli import main as command
from worker.main import worker_settings
from worker.run import Task
from worker.settings import Settings

JOURNAL = "CRON_JOURNAL"
HOLD = "CRON_HOLD"
TIMEOUT_SECONDS = 3
EVERY_SECONDS = 2


async def note(ctx: dict[Any, Any]) -> None:
    _write(ctx, "began")
    if _held():
        await asyncio.Event().wait()  # until it is cancelled or killed
    _write(ctx, "ended")


def _held() -> bool:
    return Path(os.environ[HOLD]).exists()


def _write(ctx: dict[Any, Any], what: str) -> None:
    line = {"run": ctx["job_id"], "pid": os.getpid(), "what": what, "at": time.time()}
    with Path(os.environ[JOURNAL]).open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(line) + "\n")


def with_one_cron(settings: Settings, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What the product's worker is made of, but for its cron jobs."""
    seconds = set(range(0, 60, EVERY_SECONDS))
    one = cron(note, name="cron:note", second=seconds, timeout=TIMEOUT_SECONDS)
    return worker_settings(settings, tasks) | {"cron_jobs": [one]}


if __name__ == "__main__":
    if not hasattr(worker.runner, "worker_settings"):
        raise SystemExit("worker.runner is made of something else now: tell tests/chaos/cron_process.py of what")
    worker.runner.worker_settings = with_one_cron
    sys.argv = ["worker", "run", "--processes", "1"]
    command()
