"""Uploading into AnythingLLM: this project beside the loop that everybody writes first.

A stand-in of the server (``tests/anythingllm_server``) needs 70 ms to read a document, one at a time, and 200 ms to
embed one; ``--documents`` texts of 800 bytes are uploaded. Measured are: the collector alone (uploads without
embedding, as many at a time as the workers send), which nothing can beat; the naive loop (upload with
``addToWorkspaces``, one after another); and a ``document_upload`` job in one worker process.

``python -m benchmarks.upload [--documents 200]`` prints a table.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

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


def texts(count: int, kind: str) -> list[FileSource]:
    """Documents of about 800 bytes, none like another."""
    line = "The {kind} machine {number} needs {number} litres of oil and is serviced every {hours} hours. "
    return [
        FileSource(
            f"{kind}-{number:04}.txt",
            (line.format(kind=kind, number=number, hours=number % 90 + 10) * 9).encode()[:800],
        )
        for number in range(count)
    ]


async def main(documents: int) -> None:
    """Measure the three, one after the other, and print them."""
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers", durable=False) as servers:
        async with DatabaseManager(servers.database_url) as database:
            await upgrade(database.engine)
        async with anythingllm_server(Behaviour(), Path(folder) / "anythingllm") as server:
            settings = load_settings(
                database_url=SecretStr(servers.database_url),
                redis_url=SecretStr(servers.redis_url),
                storage_url=str(Path(folder) / "storage"),
                anythingllm_url=server.url,
                anythingllm_api_key=server.api_key,
            )
            bound = await collector_alone(server, documents)
            naive = await naive_loop(server, documents)
            ours = await a_job(settings, documents)
    told = {"the collector alone": bound, "upload with addToWorkspaces, in a loop": naive, "document_upload": ours}
    print(f"{documents} documents of 800 bytes, collector 70 ms, embedder 200 ms\n")
    print("| what | documents/s | of what the collector allows |\n| --- | ---: | ---: |")
    for name, rate in told.items():
        print(f"| {name} | {rate:.2f} | {100 * rate / bound:.0f} % |")


async def collector_alone(server: Server, documents: int) -> float:
    """Upload, a few at a time, without embedding: nothing can be faster."""
    async with _client(server) as client:
        waiting = iter(texts(documents, "bound"))

        async def send() -> None:
            for file in waiting:
                await _upload(client, file)

        started = time.monotonic()
        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        return documents / (time.monotonic() - started)


async def naive_loop(server: Server, documents: int) -> float:
    """Upload and embed with one call each, one after another; a few documents tell how fast that is."""
    count = min(documents, 50)
    async with _client(server) as client:
        made = (await client.post("/v1/workspace/new", json={"name": "naive"})).json()
        started = time.monotonic()
        for file in texts(count, "naive"):
            await _upload(client, file, addToWorkspaces=made["workspace"]["slug"])
        return count / (time.monotonic() - started)


async def a_job(settings: Settings, documents: int) -> float:
    """One job, from its worker's claim to its end."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "run", env=os.environ | environment(settings) | {"LOG_LEVEL": "WARNING"}
    )
    try:
        async with open_client(settings) as client:
            first = await client.upload_documents("ours", texts(1, "first"))  # the worker is up, the workspace is there
            await client.wait([first.id], timeout_seconds=120)
            job = await client.upload_documents("ours", texts(documents, "ours"))
            (ended,) = await client.wait([job.id], timeout_seconds=1_200)
            if ended.items_done != documents or not ended.duration_seconds:
                raise SystemExit(f"only {ended.items_done} of {documents} documents were stored: {ended.errors}")
            return documents / ended.duration_seconds
    finally:
        worker.terminate()
        await worker.wait()


def _client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {server.api_key.get_secret_value()}"}
    )


async def _upload(client: httpx.AsyncClient, file: FileSource, **fields: str) -> None:
    reply = await client.post("/v1/document/upload", files={"file": (file.name, file.content)}, data=fields)  # type: ignore[dict-item]  # bytes here
    reply.raise_for_status()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.add_argument("--documents", type=int, default=200, help="how many (200)")
    asyncio.run(main(parser.parse_args().documents))
