"""A zip of a gigabyte: how much memory the worker and the client need for it.

The zip holds ``--files`` texts, stored without compression, so that it is as large as they are. A client in a process
of its own uploads it, a worker in another one carries the job out; its engine reads every document to the end and
forgets it, as what a RAG server does with a gigabyte is not the subject. Told is the peak of each process's memory
(``VmHWM``).

``python -m benchmarks.large_archive [--bytes 1000000000] [--files 250]``
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from unittest.mock import patch

from pydantic import SecretStr

from repositories.database import DatabaseManager
from repositories.embedded import embedded_servers
from repositories.migrations import upgrade
from repositories.schemas import JobFilters, PaginationParams
from tests.engines import NotingEngine
from worker.cli.context import environment
from worker.client import open_client
from worker.engines.base import Document, StoredDocument
from worker.runner import Runner
from worker.settings import load_settings
from worker.tasks import TASKS

_WORDS = [f"word{number}" for number in range(5_000)]


def make_zip(path: Path, size: int, files: int) -> None:
    """Write the archive, a file at a time."""
    chance = random.Random(1)
    each = size // files
    block = " ".join(chance.choices(_WORDS, k=20_000)).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(files):
            with archive.open(f"texts/{number:04}.txt", "w") as entry:
                entry.write(f"text {number}\n".encode())
                for _ in range(-(-each // len(block))):
                    entry.write(block)


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


class ReadingEngine(NotingEngine):
    """Reads every document to its end, a block at a time, and keeps nothing of it."""

    name = "local"

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        """Read it."""
        self._look_for(slug)

        def read() -> None:
            document.file.seek(0)
            while document.file.read(1024 * 1024):
                pass

        await asyncio.to_thread(read)
        self.documents[document.key] = b""
        return StoredDocument(key=document.key, locations=(document.key,), words=1)


def work() -> None:
    """Be the worker, as ``worker run`` is, with that engine."""
    with patch("worker.main.make_engine", lambda *_: ReadingEngine()):
        Runner(load_settings(), TASKS).run()


async def main(size: int, files: int) -> None:
    """Make, upload, tell."""
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers", durable=False) as servers:
        async with DatabaseManager(servers.database_url) as database:
            await upgrade(database.engine)
        packed = Path(folder) / "large.zip"
        make_zip(packed, size, files)
        settings = load_settings(
            database_url=SecretStr(servers.database_url),
            redis_url=SecretStr(servers.redis_url),
            storage_url=str(Path(folder) / "storage"),
        )
        env = os.environ | environment(settings) | {"LOG_LEVEL": "WARNING"}
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.large_archive", "--worker", env=env
        )
        try:
            started = time.monotonic()
            upload = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "worker", "upload", str(packed), "-w", "large", "--json"),
                env=env,
                stdout=asyncio.subprocess.PIPE,
            )
            highest = 0.0
            while upload.returncode is None:
                try:
                    highest = max(highest, peak_mib(upload.pid))
                    async with asyncio.timeout(0.2):
                        await upload.wait()
                except (TimeoutError, FileNotFoundError, StopIteration):
                    continue
            handed_over = time.monotonic() - started
            async with open_client(settings) as client:
                (job,), _ = await client.list_jobs(JobFilters(), PaginationParams(size=1))
                (ended,) = await client.wait([job.id], timeout_seconds=3_000)
            stored = f"{ended.items_done} of {files} files stored, {ended.status}"
            print(f"archive {packed.stat().st_size:,} bytes, {stored}")
            print(f"client: peak {highest:.0f} MiB, {handed_over:.1f} s until the job was enqueued")
            print(f"worker: peak {peak_mib(worker.pid):.0f} MiB, {ended.duration_seconds:.1f} s")
        finally:
            if worker.returncode is None:
                worker.terminate()
            await worker.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_archive", description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="of the archive (1,000,000,000)")
    parser.add_argument("--files", type=int, default=250, help="in it (250)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work()
    else:
        asyncio.run(main(asked.bytes, asked.files))
