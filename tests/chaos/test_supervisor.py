"""`worker run --processes N`: processes that crash, grow, are replaced and are stopped lose and repeat nothing."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from uuid import UUID

import psutil
import pytest
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.models import Job
from repositories.states import ItemStatus, JobStatus
from tests.chaos.programs import Line, Programs, pid_of
from tests.waiting import until
from worker.client import JobClient
from worker.files import FileSource

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(180)]

LONG = 1_500  # documents: far more than a worker stores while a test looks at it
SECONDS = 60.0


def documents(count: int) -> list[FileSource]:
    return [FileSource(f"{n:04}.txt", f"Pump {n} needs {n} litres of oil.".encode()) for n in range(count)]


async def supervised(programs: Programs, processes: int = 2, **environment: str) -> Process:
    """Start workers, and return once all of them take jobs."""
    supervisor = await programs.start(
        "worker", "run", "--processes", str(processes), ITEM_CONCURRENCY="1", **environment
    )
    await programs.workers(processes)
    return supervisor


def children(supervisor: Process) -> set[int]:
    return {child.pid for child in psutil.Process(supervisor.pid).children()}


async def begun(client: JobClient, job_id: UUID, items: int = 5) -> Job:
    """Wait until so many items of a job are done, and return it as it is on the record."""

    async def look() -> bool:
        return (await client.status(job_id)).items_done >= items

    await until(look, SECONDS)
    return await client.status(job_id)


async def stored(database: DatabaseManager) -> list[tuple[str, int]]:
    async with database.get_session() as session:
        rows = await session.execute(text("SELECT name, count(*) FROM documents GROUP BY name ORDER BY name"))
        return [(name, count) for name, count in rows]


def counts(jobs: Sequence[Job]) -> set[tuple[JobStatus, int, int, int]]:
    return {(job.status, job.attempt, job.failures, job.crashes) for job in jobs}


def at(line: Line) -> str:
    """When it was written; times of one shape, so they compare as text."""
    return str(line["timestamp"])


async def test_a_killed_process_is_started_again_and_its_job_goes_on(
    programs: Programs, client: JobClient, database: DatabaseManager
) -> None:
    supervisor = await supervised(programs)
    before = children(supervisor)
    job = await client.upload_documents("handbook", documents(400))
    victim = pid_of(str((await begun(client, job.id)).worker_id))
    assert victim in before

    os.kill(victim, signal.SIGKILL)
    line = await programs.line("process.exited", pid=victim)
    pids = await programs.workers(3)

    (after,) = await client.wait([job.id], timeout_seconds=SECONDS)
    assert line["exit_status"] == -signal.SIGKILL
    assert children(supervisor) == before - {victim} | {pids[2]}
    assert counts([after]) == {(JobStatus.COMPLETED, 2, 0, 1)}
    assert {item.status for item in await client.items(job.id)} == {ItemStatus.DONE}
    assert await stored(database) == [(f"{n:04}.txt", 1) for n in range(400)]


async def test_a_process_over_its_memory_bound_drains_once_its_successor_takes_jobs(
    programs: Programs, client: JobClient
) -> None:
    supervisor = await programs.start(
        *("worker", "run", "--processes", "2"), ITEM_CONCURRENCY="1", MAX_RSS_BYTES=str(64 * 1024 * 1024)
    )
    first = (await programs.workers(2))[:2]
    ids: list[UUID] = []

    async def both_were_replaced_over_a_job() -> bool:
        if len([job_id for job_id in ids if str(job_id) not in ended()]) < 4:
            ids.append((await client.upload_documents("handbook", documents(20))).id)
        return all(programs.lines("process.replaced", pid=pid) for pid in first)

    def ended() -> set[object]:
        return {line["job_id"] for line in programs.lines("job.finished")}

    await until(both_were_replaced_over_a_job, SECONDS)
    jobs = await client.wait(ids, timeout_seconds=SECONDS)

    for pid in first:
        large, replaced = programs.lines("process.too_large", pid=pid), programs.lines("process.replaced", pid=pid)
        assert [line["max_rss_bytes"] for line in large] == [64 * 1024 * 1024], "told once for each process"
        successor = replaced[0]["successor_pid"]
        (started,) = [line for line in programs.lines("worker.started") if pid_of(line["worker_id"]) == successor]
        (stopping,) = [line for line in programs.lines("worker.stopping") if pid_of(line["worker_id"]) == pid]
        assert at(large[0]) < at(started) < at(replaced[0])
        assert at(started) < at(stopping)
    drained = [line for line in programs.lines("worker.stopping") if line["jobs"]]
    assert drained, "no process had a job when it was replaced"
    assert programs.lines("job.put_back") == []
    assert counts(jobs) == {(JobStatus.COMPLETED, 1, 0, 0)}
    supervisor.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(supervisor.wait(), 40) == 0


async def test_a_rolling_restart_under_load_replaces_every_process_and_does_nothing_twice(
    programs: Programs, client: JobClient, database: DatabaseManager
) -> None:
    supervisor = await supervised(programs)
    before = children(supervisor)
    ids: list[UUID] = []

    async def feed() -> None:  # a few jobs wait at every moment
        if len(ids) - len(programs.lines("job.finished")) < 30:
            number = len(ids)
            files = [FileSource(f"{number}-{n}.txt", f"Pump {number} has valve {n}.".encode()) for n in range(3)]
            ids.append((await client.upload_documents("handbook", files)).id)

    async def under_load() -> bool:
        await feed()
        return len(programs.lines("job.finished")) >= 5

    async def rolled() -> bool:
        await feed()
        return {line["pid"] for line in programs.lines("process.replaced")} == before and len(children(supervisor)) == 2

    await until(under_load, SECONDS)
    supervisor.send_signal(signal.SIGHUP)
    await until(rolled, SECONDS)
    jobs = await client.wait(ids, timeout_seconds=SECONDS)

    assert not children(supervisor) & before
    assert counts(jobs) == {(JobStatus.COMPLETED, 1, 0, 0)}
    assert len({job.worker_id for job in jobs}) == 4, "old and new processes took part"
    assert sorted(line["job_id"] for line in programs.lines("job.finished")) == sorted(map(str, ids))
    assert await stored(database) == sorted((f"{number}-{n}.txt", 1) for number in range(len(ids)) for n in range(3))


async def test_sigterm_hands_running_jobs_back_after_the_grace_period_and_ends_with_0(
    programs: Programs, client: JobClient
) -> None:
    supervisor = await supervised(programs, SHUTDOWN_GRACE_SECONDS="1")
    long = [await client.upload_documents("handbook", documents(LONG)) for _ in range(2)]
    for job in long:
        await begun(client, job.id)

    supervisor.send_signal(signal.SIGTERM)

    assert await asyncio.wait_for(supervisor.wait(), 20) == 0
    jobs = [await client.status(job.id) for job in long]
    assert counts(jobs) == {(JobStatus.QUEUED, 1, 0, 0)}
    assert all(job.items_done >= 5 for job in jobs), "finished items are kept"
    assert len(programs.lines("worker.stopped")) == 2
    assert programs.lines("process.killed") == []


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_second_sigterm_hands_back_at_once(programs: Programs, client: JobClient, processes: int) -> None:
    worker = await supervised(programs, processes, SHUTDOWN_GRACE_SECONDS="60")
    job = await client.upload_documents("handbook", documents(LONG))
    await begun(client, job.id)
    worker.send_signal(signal.SIGTERM)
    await until(lambda: _logged(programs, "worker.stopping", processes))
    items = (await client.status(job.id)).items_done
    await begun(client, job.id, items + 5)  # it is within its grace period, and goes on

    worker.send_signal(signal.SIGTERM)
    asked = time.monotonic()

    assert await asyncio.wait_for(worker.wait(), 10) == 0
    took = time.monotonic() - asked
    assert took < 2.0
    assert counts([await client.status(job.id)]) == {(JobStatus.QUEUED, 1, 0, 0)}


async def _logged(programs: Programs, event: str, count: int) -> bool:
    return len(programs.lines(event)) >= count


async def in_first_process(supervisor: Process, client: JobClient, count: int) -> tuple[int, Job]:
    """Have the process that is replaced first, and no other, run a job of so many documents."""
    first, second = sorted(children(supervisor))
    os.kill(second, signal.SIGSTOP)  # it runs nothing, so it loses nothing
    try:
        job = await client.upload_documents("handbook", documents(count))
        job = await begun(client, job.id)
    finally:
        os.kill(second, signal.SIGCONT)
    assert pid_of(str(job.worker_id)) == first
    return first, job


async def test_a_sigterm_amid_a_replacement_still_lets_jobs_end_within_the_grace_period(
    programs: Programs, client: JobClient
) -> None:
    supervisor = await supervised(programs, SHUTDOWN_GRACE_SECONDS="60")
    first, job = await in_first_process(supervisor, client, 120)

    supervisor.send_signal(signal.SIGHUP)
    await until(lambda: _are_children(supervisor, 3))  # the successor was started, and takes no jobs yet
    assert programs.lines("process.replaced") == []
    supervisor.send_signal(signal.SIGTERM)

    assert await asyncio.wait_for(supervisor.wait(), 60) == 0
    assert not psutil.pid_exists(first), "it ended before its process did"
    assert counts([await client.status(job.id)]) == {(JobStatus.COMPLETED, 1, 0, 0)}


async def test_a_successor_that_is_killed_is_started_again_while_the_old_process_drains(
    programs: Programs, client: JobClient
) -> None:
    supervisor = await supervised(programs, SHUTDOWN_GRACE_SECONDS="60")
    first, job = await in_first_process(supervisor, client, LONG)
    supervisor.send_signal(signal.SIGHUP)
    line = await programs.line("process.replaced", pid=first)

    os.kill(line["successor_pid"], signal.SIGKILL)
    await programs.line("process.exited", pid=line["successor_pid"])
    await programs.workers(4)

    assert first in children(supervisor), "it had drained before: the test proves nothing"
    assert counts([await client.status(job.id)]) == {(JobStatus.PROCESSING, 1, 0, 0)}


async def _are_children(supervisor: Process, count: int) -> bool:
    return len(children(supervisor)) == count
