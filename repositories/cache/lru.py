"""Bytes in this process, bounded in number and size; the least recently used go first.

Nothing here awaits, so one instance serves every task of an event loop and no task sees another's half-done change. It
is not safe across threads.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
_SWEEP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One value and when it ends on the store's clock (``None``: never)."""

    value: bytes
    ends_at: float | None


class LruStore:
    """A bounded map from name to bytes with lifetimes.

    Attributes:
        clock: seconds that only ever grow; tests move it by hand.
        used_bytes: UTF-8 bytes of all names plus bytes of all values, expired ones included until they are swept.
    """

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_entries < 1 or max_bytes < 1:
            raise ValueError(f"a memory cache needs room: max_entries={max_entries}, max_bytes={max_bytes}")
        self.clock = clock
        self.used_bytes = 0
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._swept_at = clock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> Entry | None:
        """Return the live entry and make it the most recently used one."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if self._is_over(entry):
            self._drop(name)
            return None
        self._entries.move_to_end(name)
        return entry

    def put(self, name: str, value: bytes, ends_at: float | None) -> bool:
        """Store a value; return ``False``, with nothing under the name, if it is larger than the whole store."""
        self.pop(name)
        size = _size(name, value)
        if size > self._max_bytes:
            return False
        self._make_room(size)
        self._entries[name] = Entry(value, ends_at)
        self.used_bytes += size
        return True

    def pop(self, name: str) -> bool:
        """Remove a name; return whether it was there and live."""
        entry = self._entries.get(name)
        if entry is None:
            return False
        self._drop(name)
        return not self._is_over(entry)

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the live names that start with ``prefix``; the store may be changed meanwhile."""
        for name, entry in list(self._entries.items()):
            if name.startswith(prefix) and not self._is_over(entry):
                yield name

    def clear(self, prefix: str) -> None:
        """Remove every name that starts with ``prefix``, live or not."""
        for name in [name for name in self._entries if name.startswith(prefix)]:
            self._drop(name)

    def _make_room(self, size: int) -> None:
        if self._fits(size):
            return
        # Expired entries go before live ones, but looking at all of them for every write would make a full store slow.
        if self.clock() - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = self.clock()
            for name in [name for name, entry in self._entries.items() if self._is_over(entry)]:
                self._drop(name)
        while not self._fits(size):
            self._drop(next(iter(self._entries)))

    def _fits(self, size: int) -> bool:
        return len(self._entries) < self._max_entries and self.used_bytes + size <= self._max_bytes

    def _drop(self, name: str) -> None:
        self.used_bytes -= _size(name, self._entries.pop(name).value)

    def _is_over(self, entry: Entry) -> bool:
        return entry.ends_at is not None and self.clock() >= entry.ends_at


def _size(name: str, value: bytes) -> int:
    return len(name.encode()) + len(value)
