"""How many documents may be parsed at a time on one machine, whoever parses them.

Each parser may grow to its bound, and every worker process has parsers of its own. So that all of them together never
need more memory than there is, a parse holds one of a few locks of the machine: files that the kernel unlocks when a
process dies, however it does.
"""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_LOOK_SECONDS = 0.05
_SHARE = 0.5
"""The part of the machine's memory that parsers may have."""

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_bytes() -> int:
    """The memory of the machine, or of the container that this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # another version of the kernel's interface, or "max"
            total = min(total, int(path.read_text("ascii")))
    return total


class MemoryShares:
    """Locks of the machine, one for each parser that may grow to its bound at the same time.

    Args:
        bytes_each: the bound of one parser.
        total: the memory to be shared; the machine's if not given.
        folder: where the locks are; one of this user's for the whole machine if not given.
    """

    def __init__(self, bytes_each: int, total: int | None = None, folder: Path | None = None) -> None:
        self.count = max(1, int((machine_bytes() if total is None else total) * _SHARE) // bytes_each)
        self._folder = folder or Path(tempfile.gettempdir(), f"anythingllm-worker-{os.getuid()}")

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a share while the block runs; wait for it first, as long as it takes."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        while (lock := self._try()) is None:  # noqa: ASYNC110 - another process cannot set our events
            await asyncio.sleep(_LOOK_SECONDS)
        try:
            yield
        finally:
            os.close(lock)

    def _try(self) -> int | None:
        for number in range(self.count):
            path = self._folder / f"parser-{number}.lock"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                return lock
        return None
