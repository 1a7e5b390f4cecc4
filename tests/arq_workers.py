"""A stock ARQ worker in this process, made of the product's settings as the ``arq`` command makes one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.worker import Worker

import worker.main
from worker.ending import end_all
from worker.main import worker_settings
from worker.run import Run, Task
from worker.settings import Settings


async def noop(run: Run) -> dict[str, Any]:
    return {}


NOOP: Mapping[str, Task] = {"noop": noop}


@asynccontextmanager
async def stock_worker(settings: Settings, tasks: Mapping[str, Task] = NOOP) -> AsyncIterator["asyncio.Task[None]"]:
    """Run one without its cron jobs; what is yielded is done once something ended the worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.main, "configure_logging", lambda *_: None)  # who captures log lines goes on to
        made = Worker(**worker_settings(settings, tasks) | {"cron_jobs": []}, handle_signals=False)
        running = asyncio.create_task(made.main())
        try:
            yield running
        finally:
            await end_all({running})
            await asyncio.gather(*made.tasks.values(), return_exceptions=True)  # close() would raise what ended them
            made.tasks.clear()
            await made.close()
