"""Parsers of all processes of a machine together never need more memory than it has."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from worker.documents.memory import MemoryShares, machine_bytes

GIB = 2**30
HOLD = """
import asyncio, sys
from pathlib import Path
from worker.documents.memory import MemoryShares
async def main():
    async with MemoryShares(1, total=2, folder=Path(sys.argv[1])).one():
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize(("total", "each", "count"), [(24 * GIB, GIB, 12), (2 * GIB, GIB, 1), (GIB // 2, GIB, 1)])
def test_half_of_the_memory_is_shared_and_one_document_is_always_read(total: int, each: int, count: int) -> None:
    assert MemoryShares(each, total=total).count == count


def test_the_machine_has_memory() -> None:
    assert machine_bytes() >= GIB // 2


async def test_no_more_are_held_at_a_time_than_there_are(tmp_path: Path) -> None:
    held = most = 0

    async def parse() -> None:
        nonlocal held, most
        async with MemoryShares(1, total=6, folder=tmp_path).one():  # each has locks of its own, as processes do
            held += 1
            most = max(most, held)
            await asyncio.sleep(0.01)
            held -= 1

    await asyncio.gather(*(parse() for _ in range(20)))

    assert most == 3


async def test_a_process_that_is_killed_gives_its_share_back(tmp_path: Path) -> None:
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD, str(tmp_path), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), MemoryShares(1, total=2, folder=tmp_path).one():
            pass

    holder.kill()
    await holder.wait()

    async with asyncio.timeout(10), MemoryShares(1, total=2, folder=tmp_path).one():
        pass
