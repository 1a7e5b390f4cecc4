"""Cron tasks: ARQ runs each once across all workers, by a job id made of its name and time."""

from datetime import timedelta
from typing import Any

import structlog

from repositories.jobs import JobRepository
from worker.run import Runtime

log = structlog.get_logger(__name__)

_BATCH = 1_000


async def cleanup(ctx: dict[Any, Any]) -> None:
    """Delete jobs that ended longer ago than ``JOB_CLEANUP_DAYS``, in transactions of a thousand."""
    runtime: Runtime = ctx["runtime"]
    total = 0
    while True:
        async with runtime.database.get_transaction() as session:
            gone = await JobRepository(session).cleanup(timedelta(days=runtime.settings.job_cleanup_days), _BATCH)
        total += gone
        if gone < _BATCH:
            break
    log.info("jobs.cleaned_up", deleted=total, older_than_days=runtime.settings.job_cleanup_days)


async def roll_up(ctx: dict[Any, Any]) -> None:
    """Write the statistics of the hours that are over, so that reading them does not walk over the jobs again."""
    runtime: Runtime = ctx["runtime"]
    async with runtime.database.get_transaction() as session:
        rows = await JobRepository(session).roll_up()
    log.info("statistics.rolled_up", rows=rows)
