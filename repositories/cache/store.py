"""What lies under a backend: a store of bytes by key, in one namespace, with lifetimes.

Redis, memory and the pair of them keep this one protocol; :mod:`repositories.cache.backend` puts the codec and the
checks on top, once. Keys, patterns, lifetimes and amounts arrive checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

MISSING_MS: Final = 0
"""What ``remaining_ms`` answers for a key that is not there."""

BackendType = Literal["redis", "memory"]


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """How a cache is, as of one look.

    Attributes:
        backend: what serves reads and writes now.
        healthy: the backend that was asked for answers; ``False`` while memory stands in for Redis.
        latency_seconds: one round trip to Redis; ``None`` where there is none.
        version: Redis's version; ``None`` for memory and while Redis does not answer.
        memory_bytes: what all of Redis, or all of the memory store, takes; ``None`` if unknown.
        detail: why it is not healthy; ``None`` if it is.
    """

    backend: BackendType
    healthy: bool
    latency_seconds: float | None = None
    version: str | None = None
    memory_bytes: int | None = None
    detail: str | None = None


class ByteStore(Protocol):
    """Bytes by key. Any call may raise ``CacheUnavailableError`` if the store is across a network."""

    @property
    def backend_type(self) -> BackendType:
        """What serves now."""
        ...

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes under each key, ``None`` where there are none, or something that is no plain value."""
        ...

    async def write(self, items: Mapping[str, bytes], lifetime_ms: int | None) -> bool:
        """Put the items; return whether every one was kept (one larger than the whole store is not)."""
        ...

    async def write_if_absent(self, key: str, value: bytes, lifetime_ms: int | None) -> bool:
        """Put the value only if the key is not there, in one step; return whether it was put."""
        ...

    async def remove(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many were there."""
        ...

    async def holds(self, key: str) -> bool:
        """Return whether the key is there."""
        ...

    async def keys(self, pattern: str) -> list[str]:
        """Return the keys that match, sorted; at most ``MAX_KEYS_LISTED``."""
        ...

    async def remove_matching(self, pattern: str) -> int:
        """Remove every key that matches; return how many there were."""
        ...

    async def add(self, key: str, amount: int) -> int:
        """Move a counter, from 0 if it is not there, and return where it stands; its lifetime is kept.

        Raises:
            TypeError: the value is no whole number of 64 bits.
            OverflowError: the sum would not fit 64 bits.
        """
        ...

    async def expire(self, key: str, lifetime_ms: int) -> bool:
        """Give the key a new lifetime, 0 or less removes it; return whether it was there."""
        ...

    async def remaining_ms(self, key: str) -> int | None:
        """Return what is left of the lifetime: ``None`` without expiry, ``MISSING_MS`` (0) if the key is not there."""
        ...

    async def health(self) -> CacheHealth:
        """Return how the store is; never raises for a store that does not answer."""
        ...
