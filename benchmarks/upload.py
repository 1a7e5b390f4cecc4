"""Uploading into AnythingLLM: this project beside the loop that everybody writes first.

A stand-in of the server (``tests/anythingllm_server``) needs 65 ms to read a document of 800 bytes, one at a time, and
15 ms to embed one; a search costs 25 ms and 0.24 ms for each document of the workspace, one after the other, as a real
server was seen to need. Measured are, for each number of documents: the collector alone (uploads without embedding, as
many at a time as the workers send), which nothing can beat; the naive loop (upload with ``addToWorkspaces``, one after
another), which checks nothing; and a ``document_upload`` job in one worker process, which sees every document found.

``python -m benchmarks.upload [--documents 200 1000] [--scale 1]`` prints a table. ``--scale 0.1`` makes the server ten
times as fast, searches included, so that 10,000 documents take minutes; a worker's own time then counts ten times.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from repositories.database import DatabaseManager
from repositories.embedded import embedded_servers
from repositories.migrations import upgrade
from tests.anythingllm_server import Behaviour, Server, anythingllm_server
from worker.cli.context import environment
from worker.client import open_client
from worker.files import FileSource
from worker.settings import Settings, load_settings

AT_ONCE = 2
COLLECTOR_SECONDS, EMBED_SECONDS = 0.065, 0.015
SEARCH_SECONDS, SEARCH_SECONDS_A_DOCUMENT = 0.025, 0.00024


class Cost(NamedTuple):
    """What an upload cost: its time, the calls, and the seconds that the server was busy; all of them a document."""

    seconds: float
    calls: float
    busy: float


def texts(count: int, kind: str) -> list[FileSource]:
    """Documents of about 800 bytes, none like another."""
    line = "The {kind} machine {number} needs {number} litres of oil and is serviced every {hours} hours. "
    return [
        FileSource(
            f"{kind}-{number:05}.txt",
            (line.format(kind=kind, number=number, hours=number % 90 + 10) * 9).encode()[:800],
        )
        for number in range(count)
    ]


async def main(counts: list[int], scale: float) -> None:
    """Measure each number of documents on a server of its own, and print a table."""
    print("| documents | what | ms a document | of what the collector allows | calls | server busy, ms | x naive |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for count in counts:
        bound, naive, ours = await measured(count, scale)
        for name, cost in (("collector alone", bound), ("naive loop", naive), ("document_upload", ours)):
            print(
                f"| {count:,} | {name} | {cost.seconds / scale * 1000:.1f} | {bound.seconds / cost.seconds:.0%} | "
                f"{cost.calls:.2f} | {cost.busy / scale * 1000:.1f} | {cost.busy / naive.busy:.2f} |",
                flush=True,
            )


async def measured(documents: int, scale: float) -> tuple[Cost, Cost, Cost]:
    """Measure the three, one after the other."""
    behaviour = Behaviour().changed(
        {
            "collector_seconds": COLLECTOR_SECONDS * scale,
            "embedder_seconds": 0.0,
            "embed_seconds": EMBED_SECONDS * scale,
            "search_seconds": SEARCH_SECONDS * scale,
            "search_seconds_a_document": SEARCH_SECONDS_A_DOCUMENT * scale,
        }
    )
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers", durable=False) as servers:
        async with DatabaseManager(servers.database_url) as database:
            await upgrade(database.engine)
        async with anythingllm_server(behaviour) as server:
            settings = load_settings(
                database_url=SecretStr(servers.database_url),
                redis_url=SecretStr(servers.redis_url),
                storage_url=str(Path(folder) / "storage"),
                anythingllm_url=server.url,
                anythingllm_api_key=server.api_key,
            )
            bound = await collector_alone(server, min(documents, 300))
            naive = await naive_loop(server, documents)
            return bound, naive, await a_job(server, settings, documents)


async def collector_alone(server: Server, documents: int) -> Cost:
    """Upload, a few at a time, without embedding: nothing can be faster."""
    async with _client(server) as client:
        waiting = iter(texts(documents, "bound"))

        async def send() -> None:
            for file in waiting:
                await _upload(client, file)

        return await _cost(server, documents, _gathered(send))


async def naive_loop(server: Server, documents: int) -> Cost:
    """Upload and embed with one call each, one after another; a few hundred documents tell how fast that is."""
    count = min(documents, 300)
    async with _client(server) as client:
        made = (await client.post("/v1/workspace/new", json={"name": "naive"})).json()

        async def send() -> None:
            for file in texts(count, "naive"):
                await _upload(client, file, addToWorkspaces=made["workspace"]["slug"])

        return await _cost(server, count, send())


async def a_job(server: Server, settings: Settings, documents: int) -> Cost:
    """One job, from its worker's claim to its end."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "run", env=os.environ | environment(settings) | {"LOG_LEVEL": "WARNING"}
    )
    try:
        async with open_client(settings) as client:
            first = await client.upload_documents("ours", texts(1, "first"))  # the worker is up, the workspace is there
            await client.wait([first.id], timeout_seconds=120)
            await server.reset_counters()
            job = await client.upload_documents("ours", texts(documents, "ours"), timeout_seconds=7_200)
            (ended,) = await client.wait([job.id], timeout_seconds=7_200)
            if ended.items_done != documents or not ended.duration_seconds:
                raise SystemExit(f"only {ended.items_done} of {documents} documents were stored: {ended.errors}")
            counters = await server.counters()
            calls, busy = sum(counters.requests.values()), sum(counters.busy_seconds.values())
            return Cost(ended.duration_seconds / documents, calls / documents, busy / documents)
    finally:
        worker.terminate()
        await worker.wait()


async def _gathered(send: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(send() for _ in range(AT_ONCE)))


async def _cost(server: Server, documents: int, work: Awaitable[None]) -> Cost:
    await server.reset_counters()
    started = time.monotonic()
    await work
    seconds = time.monotonic() - started
    counters = await server.counters()
    calls, busy = sum(counters.requests.values()), sum(counters.busy_seconds.values())
    return Cost(seconds / documents, calls / documents, busy / documents)


def _client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {server.api_key.get_secret_value()}"}
    )


async def _upload(client: httpx.AsyncClient, file: FileSource, **fields: str) -> None:
    reply = await client.post("/v1/document/upload", files={"file": (file.name, file.content)}, data=fields)  # type: ignore[dict-item]  # bytes here
    reply.raise_for_status()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[200, 1_000], help="how many (200 1000)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the server's times (1)")
    asyncio.run(main(parser.parse_args().documents, parser.parse_args().scale))
