"""The memory backend: the same promises as Redis, kept in this process.

``MemoryStore`` is one namespace of an :class:`~repositories.cache.lru.LruStore`; several may share one, and so its
bounds. None of its methods ever suspends: :mod:`repositories.cache.fallback` relies on that to change memory and
journal in one step.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from repositories.cache.backend import CacheCounters, StoredBackend
from repositories.cache.codec import Codec
from repositories.cache.glob import compile_glob
from repositories.cache.limits import (
    LARGEST_INTEGER,
    MAX_KEYS_LISTED,
    SMALLEST_INTEGER,
    checked_namespace,
    counter_overflow,
    not_a_counter,
)
from repositories.cache.lru import MAX_BYTES, MAX_ENTRIES, LruStore
from repositories.cache.store import MISSING_MS, CacheHealth


class MemoryStore:
    """One namespace of a shared, bounded store; a :class:`~repositories.cache.store.ByteStore`."""

    backend_type: Literal["memory"] = "memory"

    def __init__(self, lru: LruStore, namespace: str) -> None:
        self._lru = lru
        self._prefix = f"{namespace}:"

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See :class:`ByteStore`."""
        return [self._value(key) for key in keys]

    async def write(self, items: Mapping[str, bytes], lifetime_ms: int | None) -> bool:
        """See :class:`ByteStore`."""
        ends_at = self._end(lifetime_ms)
        kept = [self._lru.put(self._prefix + key, value, ends_at) for key, value in items.items()]
        return all(kept)

    async def write_if_absent(self, key: str, value: bytes, lifetime_ms: int | None) -> bool:
        """See :class:`ByteStore`."""
        if self._value(key) is not None:
            return False
        return self._lru.put(self._prefix + key, value, self._end(lifetime_ms))

    async def remove(self, keys: Sequence[str]) -> int:
        """See :class:`ByteStore`."""
        return sum(self._lru.pop(self._prefix + key) for key in keys)

    async def holds(self, key: str) -> bool:
        """See :class:`ByteStore`."""
        return self._value(key) is not None

    async def keys(self, pattern: str) -> list[str]:
        """See :class:`ByteStore`."""
        return sorted(self._matching(pattern))[:MAX_KEYS_LISTED]

    async def remove_matching(self, pattern: str) -> int:
        """See :class:`ByteStore`."""
        return sum(self._lru.pop(self._prefix + key) for key in self._matching(pattern))

    async def add(self, key: str, amount: int) -> int:
        """See :class:`ByteStore`."""
        entry = self._lru.get(self._prefix + key)
        current = 0 if entry is None else Codec.counter(entry.value)
        if current is None:
            raise not_a_counter(key)
        moved = current + amount
        if not SMALLEST_INTEGER <= moved <= LARGEST_INTEGER:
            raise counter_overflow(key, amount)
        self._lru.put(self._prefix + key, b"%d" % moved, None if entry is None else entry.ends_at)
        return moved

    async def expire(self, key: str, lifetime_ms: int) -> bool:
        """See :class:`ByteStore`."""
        value = self._value(key)
        if value is None:
            return False
        if lifetime_ms <= 0:
            return self._lru.pop(self._prefix + key)
        return self._lru.put(self._prefix + key, value, self._end(lifetime_ms))

    async def remaining_ms(self, key: str) -> int | None:
        """See :class:`ByteStore`."""
        entry = self._lru.get(self._prefix + key)
        if entry is None:
            return MISSING_MS
        if entry.ends_at is None:
            return None
        return max(1, round((entry.ends_at - self._lru.clock()) * 1000))

    async def health(self) -> CacheHealth:
        """See :class:`ByteStore`."""
        return CacheHealth("memory", healthy=True, memory_bytes=self._lru.used_bytes)

    def forget(self) -> None:
        """Drop everything in this namespace."""
        self._lru.clear(self._prefix)

    @property
    def clock(self) -> Callable[[], float]:
        """The clock that lifetimes run on, in seconds."""
        return self._lru.clock

    def _value(self, key: str) -> bytes | None:
        entry = self._lru.get(self._prefix + key)
        return None if entry is None else entry.value

    def _matching(self, pattern: str) -> list[str]:
        matches = compile_glob(pattern).match
        keys = (name.removeprefix(self._prefix) for name in self._lru.names(self._prefix))
        return [key for key in keys if matches(key.encode())]

    def _end(self, lifetime_ms: int | None) -> float | None:
        return None if lifetime_ms is None else self._lru.clock() + lifetime_ms / 1000


class MemoryBackend(StoredBackend):
    """A cache in this process, bounded in entries and bytes; the least recently used go first.

    Values are kept as bytes, as in Redis: what comes out is a copy, and changing it changes nothing in the cache.

    Args:
        namespace: 1 to 64 letters, digits or ``_ . / -``.
        lru: a store to share with other namespaces; without one, a store of its own with the next three arguments.
        max_entries: at most so many values (10,000).
        max_bytes: at most so many bytes of keys and values (64 MiB).
        clock: monotonic seconds, for tests.
        codec: how values become bytes, and how large they may be.
        counters: where foreign values are counted; its own without one.
    """

    def __init__(
        self,
        *,
        namespace: str = "cache",
        lru: LruStore | None = None,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        codec: Codec | None = None,
        counters: CacheCounters | None = None,
    ) -> None:
        self.lru = lru if lru is not None else LruStore(max_entries=max_entries, max_bytes=max_bytes, clock=clock)
        super().__init__(MemoryStore(self.lru, checked_namespace(namespace)), codec=codec, counters=counters)
