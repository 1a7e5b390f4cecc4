"""The calls every cache backend answers, and the half of them that is the same everywhere.

``CacheBackend`` is the contract (``tests/contract/test_cache_backends.py`` holds each backend to it). ``StoredBackend``
puts checks and codec on top of a :class:`~repositories.cache.store.ByteStore`; Redis, memory and the fallback pair
differ only in theirs.

A stored ``None`` is a value: ``exists`` says ``True`` and ``get_many`` returns it. A value whose bytes we cannot read
(written by something else, or by a newer version) counts as missing; the first one is logged, all are counted.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from repositories.cache.codec import Codec, ForeignValueError
from repositories.cache.limits import (
    Ttl,
    checked_amount,
    checked_key,
    checked_keys,
    checked_pattern,
    lifetime_ms,
    new_lifetime_ms,
)
from repositories.cache.store import BackendType, ByteStore, CacheHealth

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class CacheCounters:
    """What happened in one namespace since the process started.

    Attributes:
        hits, misses: keys asked for through a ``CacheRepository`` and found, or not.
        errors: calls that Redis failed and memory answered.
        foreign: values that were there but not readable, each counted as a miss too.
    """

    hits: int = 0
    misses: int = 0
    errors: int = 0
    foreign: int = 0


class CacheBackend(ABC):
    """A cache of values by text key.

    Every method raises ``TypeError`` or ``ValueError`` for a key, pattern, lifetime or value it cannot take (bounds:
    :mod:`repositories.cache.limits`). Lifetimes are seconds or a ``timedelta``; ``None`` means no expiry.
    """

    @property
    def backend_type(self) -> BackendType:
        """What serves now: ``redis`` or ``memory``."""
        return "memory"

    @abstractmethod
    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or ``default`` if there is none."""

    @abstractmethod
    async def set(self, key: str, value: Any, ttl: Ttl | None = None) -> bool:
        """Store a value; any earlier one goes, with its lifetime. ``False``: larger than the whole store."""

    @abstractmethod
    async def set_if_absent(self, key: str, value: Any, ttl: Ttl | None = None) -> bool:
        """Store a value only if the key is not there, in one step; return whether it was stored."""

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove a key; return whether it was there."""

    @abstractmethod
    async def exists(self, key: str) -> bool:
        """Return whether the key is there."""

    @abstractmethod
    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that are there, by key; at most 10,000 keys a call."""

    @abstractmethod
    async def set_many(self, mapping: Mapping[str, Any], ttl: Ttl | None = None) -> bool:
        """Store several values with one lifetime; nothing is stored if one of them cannot be written."""

    @abstractmethod
    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several keys; return how many were there."""

    @abstractmethod
    async def clear(self) -> bool:
        """Remove everything in this namespace, and nothing else."""

    @abstractmethod
    async def get_keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a Redis glob, sorted; at most 100,000."""

    @abstractmethod
    async def invalidate_pattern(self, pattern: str) -> int:
        """Remove every key that matches a Redis glob; return how many there were."""

    @abstractmethod
    async def increment(self, key: str, amount: int = 1) -> int:
        """Move a counter, from 0 if it is not there, and return where it stands; its lifetime is kept.

        Raises:
            TypeError: the value is no whole number of 64 bits.
            OverflowError: the sum would not fit 64 bits.
        """

    @abstractmethod
    async def expire(self, key: str, ttl: Ttl) -> bool:
        """Give a key a new lifetime; 0 or less removes it now. Return whether it was there."""

    @abstractmethod
    async def ttl(self, key: str) -> float | None:
        """Return the seconds left: ``None`` if it never expires, ``0.0`` if the key is not there."""

    @abstractmethod
    async def health_check(self) -> bool:
        """Return whether the backend that was asked for answers now; never raises."""

    async def decrement(self, key: str, amount: int = 1) -> int:
        """Move a counter down; the same as ``increment`` by ``-amount``."""
        return await self.increment(key, -checked_amount(amount))

    async def health(self) -> CacheHealth:
        """Return how the backend is; never raises."""
        return CacheHealth(self.backend_type, healthy=await self.health_check())


class StoredBackend(CacheBackend):
    """Checks and codec over a store of bytes."""

    def __init__(self, store: ByteStore, *, codec: Codec | None = None, counters: CacheCounters | None = None) -> None:
        self._store = store
        self._codec = codec or Codec()
        self.counters = counters or CacheCounters()

    @property
    def backend_type(self) -> BackendType:
        """What serves now: ``redis`` or ``memory``."""
        return self._store.backend_type

    async def get(self, key: str, default: Any = None) -> Any:
        """See :class:`CacheBackend`."""
        return (await self.get_many([key])).get(key, default)

    async def set(self, key: str, value: Any, ttl: Ttl | None = None) -> bool:
        """See :class:`CacheBackend`."""
        return await self.set_many({key: value}, ttl)

    async def set_if_absent(self, key: str, value: Any, ttl: Ttl | None = None) -> bool:
        """See :class:`CacheBackend`."""
        lifetime = new_lifetime_ms(checked_key(key), ttl)
        return await self._store.write_if_absent(key, self._codec.encode(key, value), lifetime)

    async def delete(self, key: str) -> bool:
        """See :class:`CacheBackend`."""
        return await self.delete_many([key]) == 1

    async def exists(self, key: str) -> bool:
        """See :class:`CacheBackend`."""
        return await self._store.holds(checked_key(key))

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """See :class:`CacheBackend`."""
        wanted = checked_keys(keys)
        if not wanted:
            return {}
        found: dict[str, Any] = {}
        for key, raw in zip(wanted, await self._store.read(wanted), strict=True):
            if raw is None:
                continue
            try:
                found[key] = self._codec.decode(raw)
            except ForeignValueError as error:
                self._note_foreign(key, error.reason)
        return found

    async def set_many(self, mapping: Mapping[str, Any], ttl: Ttl | None = None) -> bool:
        """See :class:`CacheBackend`."""
        keys = checked_keys(mapping)
        if not keys:
            return True
        lifetime = new_lifetime_ms(keys[0], ttl)
        return await self._store.write({key: self._codec.encode(key, mapping[key]) for key in keys}, lifetime)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """See :class:`CacheBackend`."""
        wanted = checked_keys(keys)
        return await self._store.remove(wanted) if wanted else 0

    async def clear(self) -> bool:
        """See :class:`CacheBackend`."""
        await self._store.remove_matching("*")
        return True

    async def get_keys(self, pattern: str = "*") -> list[str]:
        """See :class:`CacheBackend`."""
        return await self._store.keys(checked_pattern(pattern))

    async def invalidate_pattern(self, pattern: str) -> int:
        """See :class:`CacheBackend`."""
        return await self._store.remove_matching(checked_pattern(pattern))

    async def increment(self, key: str, amount: int = 1) -> int:
        """See :class:`CacheBackend`."""
        return await self._store.add(checked_key(key), checked_amount(amount))

    async def expire(self, key: str, ttl: Ttl) -> bool:
        """See :class:`CacheBackend`."""
        return await self._store.expire(checked_key(key), lifetime_ms(key, ttl))

    async def ttl(self, key: str) -> float | None:
        """See :class:`CacheBackend`."""
        left = await self._store.remaining_ms(checked_key(key))
        return None if left is None else left / 1000

    async def health_check(self) -> bool:
        """See :class:`CacheBackend`."""
        return (await self._store.health()).healthy

    async def health(self) -> CacheHealth:
        """See :class:`CacheBackend`."""
        return await self._store.health()

    def _note_foreign(self, key: str, reason: str) -> None:
        self.counters.foreign += 1
        if self.counters.foreign == 1:
            _log.warning("cache.foreign_value", key=key, reason=reason, treated_as="missing")
