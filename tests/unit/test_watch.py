"""What is shown of jobs that are followed."""

from rich.console import Console
from uuid_utils.compat import uuid7

from repositories.models import Job
from repositories.states import JobStatus
from worker.eta import Eta
from worker.watch import _table, line


def a_job(status: JobStatus) -> Job:
    counts = dict.fromkeys(("items_done", "items_failed", "items_skipped", "attempt"), 0)
    return Job(id=uuid7(), type="document_upload", status=status, items_total=9, errors=[], **counts)


def estimate(job: Job, event: str) -> Eta:
    return Eta.model_validate(
        {"job_id": job.id, "event": event, "seconds": 40, "low_seconds": 30, "high_seconds": 60, "measured": 9}
    )


def test_a_job_that_waits_is_told_when_it_starts_and_one_that_runs_when_it_ends() -> None:
    waiting, running, done = (a_job(JobStatus(name)) for name in ("queued", "processing", "completed"))
    etas = {
        waiting.id: estimate(waiting, "start"),
        running.id: estimate(running, "end"),
        done.id: estimate(done, "end"),  # read before it ended
    }
    console = Console(width=200)

    with console.capture() as shown:
        console.print(_table([waiting, running, done], {waiting.id: 3}, etas))

    first, second, third = shown.get().splitlines()[1:]
    assert "starts in about 40 s (30 s to 1 min)" in first
    assert "ends in about 40 s (30 s to 1 min)" in second
    assert "about" not in third
    assert line(waiting, etas[waiting.id]).endswith("queued 0/9, starts in about 40 s (30 s to 1 min)")
    assert line(waiting, None).endswith("queued 0/9")
