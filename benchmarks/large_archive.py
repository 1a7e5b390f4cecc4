"""A zip of a gigabyte: how much memory the worker and the client need for it.

The zip holds ``--files`` texts of random words, stored without compression, so that it is as large as they are. It is
uploaded by a client of its own process into a worker with the local engine's place taken by a stand-in of AnythingLLM,
and the peak of each process's memory is told (``VmHWM``).

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

from pydantic import SecretStr

from repositories.database import DatabaseManager
from repositories.embedded import embedded_servers
from repositories.migrations import upgrade
from repositories.schemas import JobFilters, PaginationParams
from tests.anythingllm_server import Behaviour, anythingllm_server
from worker.cli.context import environment
from worker.client import open_client
from worker.settings import load_settings

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
                for _ in range(each // len(block)):
                    entry.write(block)


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


async def main(size: int, files: int) -> None:
    """Make, upload, tell."""
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers", durable=False) as servers:
        async with DatabaseManager(servers.database_url) as database:
            await upgrade(database.engine)
        packed = Path(folder) / "large.zip"
        make_zip(packed, size, files)
        behaviour = Behaviour.quick()
        async with anythingllm_server(behaviour, Path(folder) / "anythingllm") as server:
            settings = load_settings(
                database_url=SecretStr(servers.database_url),
                redis_url=SecretStr(servers.redis_url),
                storage_url=str(Path(folder) / "storage"),
                anythingllm_url=server.url,
                anythingllm_api_key=server.api_key,
            )
            env = os.environ | environment(settings) | {"LOG_LEVEL": "WARNING"}
            worker = await asyncio.create_subprocess_exec(sys.executable, "-m", "worker", "run", env=env)
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
    asked = parser.parse_args()
    asyncio.run(main(asked.bytes, asked.files))
