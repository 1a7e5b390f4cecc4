"""One upload of links that redirect through hostile addresses, beside small uploads of other people."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from repositories.states import JobStatus
from tests.chaos.programs import Programs
from worker.client import JobClient
from worker.files import FileSource

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(280)]

LINKS = 60
OTHERS = 36
HOSTILE = ("?key" * 490, "/x?pass&" * 245, "http://" * 280, "@" * 1_950, "?key" * 1_990)
"""What a mask of secrets has to look at longest; the last is longer than any link may be."""

LONGEST_DELAY = timedelta(seconds=2)


@pytest.fixture
async def website() -> AsyncIterator[str]:
    """A website whose every page leads to another one with a hostile address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        hop, link = (int(part) for part in path.split(b"/")[1].split(b"-"))
        target = f"/{hop + 1}-{link}/{HOSTILE[(hop + link) % len(HOSTILE)]}"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**17)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_hostile_redirects_delay_and_fail_nobody_elses_job(
    programs: Programs, client: JobClient, website: str
) -> None:
    for _ in range(2):
        await programs.start("worker", "run", LINK_ALLOW_PRIVATE="127.0.0.0/8", WORKER_CONCURRENCY="60")
    await programs.workers(2)

    hostile = await client.upload_documents("hostile", links=[f"{website}/0-{link}" for link in range(LINKS)])
    others = [
        await client.upload_documents("others", [FileSource("note.txt", f"Note {number}".encode())])
        for number in range(OTHERS)
    ]
    ended = await client.wait([job.id for job in others], timeout_seconds=240)
    (attacker,) = await client.wait([hostile.id], timeout_seconds=240)

    delays = [job.started_at - job.queued_at for job in ended if job.started_at and job.queued_at]
    rescued = len(programs.lines("job.rescued"))
    figures = f"{rescued} rescued, {sum(job.status is JobStatus.FAILED for job in ended)} of {OTHERS} failed, "
    figures += f"longest delay {max(delays, default=timedelta(0)).total_seconds():.1f} s"
    print(figures)  # noqa: T201 - shown with -s
    assert {job.status for job in ended} == {JobStatus.COMPLETED}, figures
    assert len(delays) == OTHERS
    assert rescued == 0, figures
    assert max(delays) < LONGEST_DELAY, figures
    assert (attacker.status, attacker.items_failed, attacker.crashes) == (JobStatus.FAILED, LINKS, 0)
    assert {item.error_code for item in await client.items(attacker.id)} == {"link_invalid"}
