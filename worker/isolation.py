"""Running jobs alone that may have killed their workers.

Each worker looks whether such jobs wait, and then starts a process of its own program that runs them one at a time, and
ends when there are none left: other jobs go on meanwhile, and a job that kills its process takes none of them with it.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from repositories.errors import DatabaseStateError
from repositories.jobs import ClaimedJob, JobRepository
from worker.execution import carry_out_and_record
from worker.run import Runtime
from worker.server_wait import ServerWait
from worker.supervisor import READY, SUPERVISED

ISOLATED = "WORKER_ISOLATED"
"""Set for a process that runs jobs alone."""

_PAUSE_SECONDS = 5.0  # between two processes: one that ends at once must not be started for ever
_STOP_SECONDS = 10.0

log = structlog.get_logger(__name__)


def is_isolated() -> bool:
    """Whether this process is one that runs jobs alone."""
    return ISOLATED in os.environ


class Isolation:
    """Starts the process that runs jobs alone, at most one at a time.

    Args:
        runtime: which jobs this worker can run.
        command: the worker's own program and arguments.
    """

    def __init__(self, runtime: Runtime, command: Sequence[str]) -> None:
        self._runtime = runtime
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._ended_at = -_PAUSE_SECONDS

    async def look(self) -> None:
        """Start the process if jobs wait for it; a loop's step."""
        if self._process is not None:
            if self._process.returncode is None:
                return
            log.info("isolation.ended", pid=self._process.pid, status=self._process.returncode)
            self._process, self._ended_at = None, time.monotonic()
        if time.monotonic() - self._ended_at < _PAUSE_SECONDS:
            return
        runtime = self._runtime
        async with runtime.database.get_session() as session:
            wait = await JobRepository(session).has_suspects(list(runtime.tasks), runtime.settings.worker_queues)
        if wait:
            environment = {name: value for name, value in os.environ.items() if name != READY}
            # Its standard input closes when this process ends, however it does: then it stops, too.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=environment | {ISOLATED: "1", SUPERVISED: "1"},
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            log.warning("isolation.started", pid=self._process.pid)

    async def stop(self) -> None:
        """Have the process put its job back and end."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
            try:
                async with asyncio.timeout(self._runtime.settings.shutdown_grace_seconds + _STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def run_alone(runtime: Runtime) -> int:
    """Run every job that waits to be run alone, one after another; return how many.

    Cancelled, it puts the job back that it runs.
    """
    count = 0
    while (job := await _claim(runtime)) is not None:
        log.warning("job.isolated", job_id=str(job.id), attempt=job.attempt)
        await carry_out_and_record(runtime, job)
        count += 1
    return count


async def _claim(runtime: Runtime) -> ClaimedJob | None:
    wait = ServerWait("isolation.waiting", "isolation.recovered")
    lease = timedelta(seconds=runtime.settings.lease_seconds)
    while True:
        try:
            async with runtime.database.get_transaction() as session:
                jobs = JobRepository(session, runtime.hot)
                # An earlier try may have started one, although its answer was lost.
                started = await jobs.claimed_before(None, runtime.worker_id) if wait.failures else []
                job = (
                    started[0]
                    if started
                    else await jobs.claim_alone(
                        runtime.worker_id, lease, list(runtime.tasks), runtime.settings.worker_queues
                    )
                )
        except DatabaseStateError as error:
            await wait.after(error)
        else:
            wait.over()
            return job
