"""What an archive may hold, and the counting that keeps it to that.

One :class:`Meter` serves a whole tree of archives, so that a bound cannot be had again by nesting.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from worker.documents.archives.errors import BoundExceededError

_SMALLEST_PACKED = 1_024  # bytes; a smaller file may grow as if it had this many


class ArchiveBounds(NamedTuple):
    """What one archive may hold, everything inside it included.

    Attributes:
        entries: files, at most.
        entry_bytes: bytes of one file when unpacked, archives inside the archive included.
        total_bytes: bytes of all files when unpacked.
        ratio: how many times larger than packed a file, an archive and the whole tree may become.
        depth: archives one inside the other, the outermost included; 1 allows none inside.
        seconds: time spent reading it, over all calls together.
    """

    entries: int
    entry_bytes: int
    total_bytes: int
    ratio: int
    depth: int = 3
    seconds: float = 600.0

    def largest(self, packed: int) -> int:
        """Return how many bytes may come out of ``packed`` bytes, as the ratio allows."""
        return max(packed, _SMALLEST_PACKED) * self.ratio


class Meter:
    """Counts what is read of one tree of archives.

    Args:
        name: what messages call the outermost archive.
        packed: its size in bytes.
        bounds: what it may hold.
    """

    def __init__(self, name: str, packed: int, bounds: ArchiveBounds) -> None:
        self.bounds = bounds
        self._name, self._packed = name, packed
        self._entries = self._listed = self._opened = 0
        self._counted: set[tuple[str, ...]] = set()
        self._spent, self._started = 0.0, time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of what is inside; another thread waits until it is over."""
        with self._lock:
            self._started = time.monotonic()
            try:
                yield
            finally:
                self._spent += time.monotonic() - self._started

    def restart(self) -> None:
        """Count the entries anew: they are listed from the first one again."""
        self._entries = self._listed = 0

    def check_time(self) -> None:
        """Raise if reading took too long; called at least once for every block that is read."""
        if self._spent + time.monotonic() - self._started > self.bounds.seconds:
            raise BoundExceededError(
                "archive_too_slow",
                f"{self._name} takes more than {self.bounds.seconds:,.0f} seconds to read: split it",
            )

    def count_entry(self) -> None:
        """Count one file that was listed."""
        self._entries += 1
        if self._entries > self.bounds.entries:
            raise BoundExceededError(
                "archive_too_large", f"{self._name} holds more than {self.bounds.entries:,} files: split it"
            )
        self.check_time()

    def count_listed(self, size: int) -> None:
        """Count bytes that listing unpacked, or that opening what was listed will unpack."""
        self._listed += size
        self._check_total(self._listed)

    def count_opened(self, path: tuple[str, ...], size: int) -> None:
        """Count the bytes of a file that was opened; the same one again is not counted twice."""
        if path not in self._counted:
            self._counted.add(path)
            self._opened += size
            self._check_total(self._opened)

    def _check_total(self, total: int) -> None:
        if total > self.bounds.total_bytes:
            why = f"unpacks to more than {self.bounds.total_bytes:,} bytes: split it"
        elif total > self.bounds.largest(self._packed):
            why = f"unpacks to more than {self.bounds.ratio:,} times its size: upload its files by themselves"
        else:
            return
        raise BoundExceededError("archive_too_large", f"{self._name} {why}")
