"""``python -m tests.chaos.poison_worker``: a worker whose jobs do what their type says; one of them kills it."""

import asyncio
import os
import signal
import sys
from typing import Any

from worker.run import Run
from worker.runner import Runner
from worker.settings import load_settings
from worker.supervisor import stop_with_supervisor


async def steady(run: Run) -> dict[str, Any]:
    """Takes a while, so that others run beside it."""
    await asyncio.sleep(1.0)
    return {"worker": run.runtime.worker_id}


async def poison(run: Run) -> dict[str, Any]:
    """Kills its process, as running out of memory does."""
    await asyncio.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(run.job.id)


if __name__ == "__main__":
    stop_with_supervisor()
    asyncio.set_event_loop(asyncio.new_event_loop())
    tasks = {"steady": steady, "poison": poison}
    Runner(load_settings(), tasks, command=(sys.executable, "-m", "tests.chaos.poison_worker")).run()
