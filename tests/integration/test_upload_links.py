"""Links in an upload: what is fetched, what it is called, how much of it, and when it is tried again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from typing import NamedTuple
from uuid import UUID

import pytest

from repositories.models import Job, JobItem
from repositories.states import ItemStatus, JobStatus
from tests.archives import packed
from worker.client import JobClient
from worker.execution import execute
from worker.files import FileSource
from worker.run import Runtime
from worker.sources import LinkFetcher

KB = 1_000


async def ran(client: JobClient, runtime: Runtime, job: Job) -> Job:
    await execute(runtime, str(job.id))
    return await client.status(job.id)


async def by_name(client: JobClient, job_id: UUID) -> dict[str, JobItem]:
    return {item.key: item for item in await client.items(job_id)}


class Website(NamedTuple):
    """Pages whose text is their path, archives, what is too large, and ways to where no link may lead."""

    url: str
    sent: dict[str, int]
    busy: list[str]


@pytest.fixture
async def website() -> AsyncIterator[Website]:
    sent, busy = dict[str, int](), list[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        if path == "/away":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data\r\n\r\n")
        elif path in busy:
            writer.write(b"HTTP/1.1 429 Busy\r\nRetry-After: 90\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif path.startswith("/endless"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
            try:
                while True:
                    writer.write(b"x" * KB)
                    await writer.drain()
                    sent[path] = sent.get(path, 0) + KB
            except ConnectionError:
                pass  # the client has had enough
        else:
            is_pack = ".zip" in path
            body = packed(e__txt=f"in {path}".encode()) if is_pack else f"<html><body>{path}</body></html>".encode()
            kind = b"application/zip" if is_pack else b"text/html"
            head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            writer.write(head % (kind, len(body)) + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Website(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent, busy)


@pytest.fixture
def allowed(runtime: Runtime) -> Runtime:
    """A worker that may read this machine's websites: archives of 100 MB, documents of 100 kB."""
    links = LinkFetcher(max_bytes=100_000 * KB, timeout_seconds=30, allow_private=[ip_network("127.0.0.0/8")])
    bounds = runtime.sources.bounds._replace(entry_bytes=100 * KB, total_bytes=100_000 * KB)
    runtime.sources = replace(runtime.sources, links=links, bounds=bounds)
    return runtime


async def test_links_are_fetched_and_none_leads_where_it_must_not(
    client: JobClient, allowed: Runtime, website: Website
) -> None:
    links = [
        f"{website.url}/page",
        f"{website.url}/pack.zip",
        f"{website.url}/away",
        "http://169.254.169.254/latest/meta-data",
    ]

    job = await ran(client, allowed, await client.upload_documents("handbook", links=links))

    items = await by_name(client, job.id)
    assert {name: (item.status, item.error_code) for name, item in items.items()} == {
        f"{website.url}/page": (ItemStatus.DONE, None),
        "pack.zip/e.txt": (ItemStatus.DONE, None),
        f"{website.url}/away": (ItemStatus.FAILED, "link_forbidden"),
        "http://169.254.169.254/latest/meta-data": (ItemStatus.FAILED, "link_forbidden"),
    }


async def test_a_private_address_is_refused_unless_it_was_allowed(
    client: JobClient, runtime: Runtime, website: Website
) -> None:
    job = await client.upload_documents("handbook", [FileSource("a.txt", b"one")], links=[f"{website.url}/page"])

    await ran(client, runtime, job)

    (refused,) = [item for item in await client.items(job.id) if item.error_code]
    assert refused.error_code == "link_forbidden"


async def test_links_that_differ_in_their_query_are_documents_of_their_own_and_keep_their_names(
    client: JobClient, allowed: Runtime, website: Website
) -> None:
    links = [f"{website.url}/{path}" for path in ("get?id=1", "get?id=2", "pack.zip?v=1", "pack.zip?v=2")]

    first = await ran(client, allowed, await client.upload_documents("handbook", links=links))
    again = await ran(client, allowed, await client.upload_documents("handbook", links=links[::-1]))

    items = await by_name(client, first.id)
    assert len(items) == len(links)
    assert {item.status for item in items.values()} == {ItemStatus.DONE}
    assert (await by_name(client, again.id)).keys() == items.keys()
    assert "id=1" not in "".join(items)


@pytest.mark.parametrize("path", ["/endless", "/endless.zip"])
async def test_what_is_no_archive_is_fetched_no_further_than_a_document_may_be(
    client: JobClient, allowed: Runtime, website: Website, path: str
) -> None:
    job = await ran(client, allowed, await client.upload_documents("handbook", links=[f"{website.url}{path}"]))

    (item,) = await client.items(job.id)
    assert item.error_code in {"link_too_large", "too_large"}
    assert website.sent[path] < 10_000 * KB  # what lies in sockets is sent as well


async def test_a_site_that_says_when_to_come_again_is_not_asked_sooner(
    client: JobClient, allowed: Runtime, website: Website
) -> None:
    website.busy.append("/page")

    job = await ran(client, allowed, await client.upload_documents("handbook", links=[f"{website.url}/page"]))

    assert (job.status, job.failures) == (JobStatus.QUEUED, 1)
    assert job.scheduled_at is not None
    assert timedelta(seconds=80) < job.scheduled_at - job.updated_at <= timedelta(seconds=90)


async def test_an_archive_whose_site_was_away_is_opened_when_only_what_failed_is_tried_again(
    client: JobClient, allowed: Runtime, website: Website
) -> None:
    website.busy.append("/pack.zip")
    links = [f"{website.url}/page", f"{website.url}/pack.zip"]
    job = await client.upload_documents("handbook", links=links, max_attempts=1)
    ended = await ran(client, allowed, job)
    assert (ended.items_done, ended.items_failed) == (1, 1)
    website.busy.clear()

    again = await ran(client, allowed, await client.retry_failed_items(job.id))

    assert {name: item.status for name, item in (await by_name(client, again.id)).items()} == {
        "pack.zip/e.txt": ItemStatus.DONE
    }
