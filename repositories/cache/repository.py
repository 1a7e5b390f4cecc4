"""The cache that the rest of the code talks to.

``CacheRepository(client)`` keeps values in Redis, and in this process's memory while Redis is away
(:mod:`repositories.cache.fallback` says what that means); ``CacheRepository()`` keeps them in that memory alone. Both
are cheap to make and hold nothing of their own: one for each request and one for the whole process behave the same.

A cache may lose any value at any time; nothing may be kept here alone.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from redis.asyncio import Redis

from repositories.cache.backend import CacheBackend
from repositories.cache.codec import Codec
from repositories.cache.limits import (
    MAX_VALUE_BYTES,
    Ttl,
    checked_key,
    checked_keys,
    checked_namespace,
    new_lifetime_ms,
)
from repositories.cache.redis_store import OPERATION_TIMEOUT_SECONDS
from repositories.cache.shared import FallbackBackend, Shared, memory_backend, shared_by
from repositories.cache.store import BackendType, CacheHealth

Factory = Callable[[], Any]
"""Makes a value that is missing; may be a coroutine function."""

DEFAULT_TTL_SECONDS: Final = 3600


class CacheRepository:
    """A namespace of cached values.

    What may be stored, and how it comes back, is the table in :mod:`repositories.cache.codec`. Bad keys, patterns,
    lifetimes and values raise ``TypeError`` or ``ValueError`` (bounds: :mod:`repositories.cache.limits`).

    Args:
        redis_client: a ``redis.asyncio.Redis``, which stays the caller's to close; ``None`` means memory.
        backend: a backend to use as it is, instead of a client; it brings its own namespace.
        namespace: keeps apart what shares a Redis or a process: 1 to 64 letters, digits or ``_ . / -``.
        operation_timeout: seconds that one Redis command may take before memory takes over (1.0).
        max_value_bytes: a value larger than this when written is refused (16 MiB).
    """

    def __init__(
        self,
        redis_client: Redis | None = None,
        *,
        backend: CacheBackend | None = None,
        namespace: str = "cache",
        operation_timeout: float = OPERATION_TIMEOUT_SECONDS,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> None:
        checked_namespace(namespace)
        self._codec = Codec(max_value_bytes=max_value_bytes)
        self._backend: CacheBackend
        self._shared: Shared
        if backend is not None:
            if redis_client is not None:
                raise ValueError("CacheRepository takes a redis_client or a backend, not both")
            self._backend, self._shared = backend, shared_by(backend, namespace)
        elif redis_client is not None:
            self._backend = FallbackBackend(
                redis_client, namespace=namespace, operation_timeout=operation_timeout, codec=self._codec
            )
            self._shared = shared_by(redis_client, namespace)
        else:
            memory = memory_backend(namespace, self._codec)
            self._backend, self._shared = memory, shared_by(memory.lru, namespace)

    @property
    def backend(self) -> CacheBackend:
        """What keeps the values: a ``FallbackBackend`` for a client, a ``MemoryBackend`` for none."""
        return self._backend

    def get_backend_type(self) -> BackendType:
        """Return what serves now: ``redis``, or ``memory``, also while it stands in for a Redis that is away."""
        return self._backend.backend_type

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or ``default`` if there is none; a stored ``None`` is a value."""
        return (await self.get_many([key])).get(key, default)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that are there, by key; at most 10,000 keys a call."""
        wanted = checked_keys(keys)
        found = await self._backend.get_many(wanted)
        self._shared.counters.hits += len(found)
        self._shared.counters.misses += len(wanted) - len(found)
        return found

    async def set(self, key: str, value: Any, ttl: Ttl | None = None) -> bool:
        """Store a value for ``ttl`` (seconds or ``timedelta``; ``None``: for ever); any earlier one goes.

        Returns:
            ``True``; ``False`` only if the value is larger than the whole memory store.
        """
        return await self._backend.set(key, value, ttl)

    async def set_many(self, mapping: Mapping[str, Any], ttl: Ttl | None = None) -> bool:
        """Store several values with one lifetime; nothing is stored if one of them cannot be written."""
        return await self._backend.set_many(mapping, ttl)

    async def set_if_absent(self, key: str, value: Any, ttl: Ttl | None = None) -> bool:
        """Store a value only if the key is not there, in one step; return whether it was stored.

        While memory stands in for Redis this holds within the process only.
        """
        return await self._backend.set_if_absent(key, value, ttl)

    async def delete(self, key: str) -> bool:
        """Remove a key; return whether it was there."""
        return await self._backend.delete(key)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several keys; return how many were there."""
        return await self._backend.delete_many(keys)

    async def exists(self, key: str) -> bool:
        """Return whether the key is there."""
        return await self._backend.exists(key)

    async def clear(self) -> bool:
        """Remove everything in this namespace, and nothing else."""
        return await self._backend.clear()

    async def get_keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a Redis glob (``user:*``), sorted, without the namespace; at most 100,000."""
        return await self._backend.get_keys(pattern)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Remove every key that matches a Redis glob; return how many there were."""
        return await self._backend.invalidate_pattern(pattern)

    async def increment(self, key: str, amount: int = 1) -> int:
        """Move a counter, from 0 if it is not there, and return where it stands; its lifetime is kept.

        Raises:
            TypeError: the value is no whole number of 64 bits.
            OverflowError: the sum would not fit 64 bits.
        """
        return await self._backend.increment(key, amount)

    async def decrement(self, key: str, amount: int = 1) -> int:
        """Move a counter down; raises as :meth:`increment` does."""
        return await self._backend.decrement(key, amount)

    async def expire(self, key: str, ttl: Ttl) -> bool:
        """Give a key a new lifetime; 0 or less removes it now. Return whether it was there."""
        return await self._backend.expire(key, ttl)

    async def ttl(self, key: str) -> float | None:
        """Return the seconds left: ``None`` if it never expires, ``0.0`` if the key is not there."""
        return await self._backend.ttl(key)

    async def get_or_set(self, key: str, factory: Factory, ttl: Ttl | None = None) -> Any:
        """Return the value; if there is none, make it, store it for ``ttl`` and return it.

        Of all the tasks of this process that miss a key at once, one makes the value and the others wait for it. If
        ``factory`` raises, all of them get its error and nothing is stored; if the one is cancelled, another starts.

        Args:
            key: where it is kept.
            factory: called without arguments; may be a coroutine function. It must not ask for the same key.
            ttl: as for :meth:`set`.

        Returns:
            The value as it comes out of the cache, a copy for each caller: the first sees what later ones see.
        """
        new_lifetime_ms(checked_key(key), ttl)  # a bad ttl is told before the work, not after
        found = await self.get_many([key])
        if key in found:
            return found[key]

        async def load() -> bytes:
            # Someone else may have made it between our look and this; then it is not made again.
            again = await self._backend.get_many([key])
            if key in again:
                return self._codec.encode(key, again[key])
            value = factory()
            if inspect.isawaitable(value):
                value = await value
            raw = self._codec.encode(key, value)
            await self._backend.set(key, value, ttl)
            return raw

        return self._codec.decode(await self._shared.loads.run(key, load))

    async def cache_with_ttl(
        self,
        key: str,
        value_factory: Callable[..., Any | Awaitable[Any]],
        ttl: Ttl | None = DEFAULT_TTL_SECONDS,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Do as :meth:`get_or_set`, with ``value_factory(*args, **kwargs)`` and an hour to live by default."""
        return await self.get_or_set(key, lambda: value_factory(*args, **kwargs), ttl)

    async def health_check(self) -> bool:
        """Return whether the backend that was asked for answers now: ``False`` while memory stands in for Redis."""
        return await self._backend.health_check()

    async def health(self) -> CacheHealth:
        """Return how the cache is: what serves, round trip, version, memory; never raises for a Redis that is away."""
        return await self._backend.health()

    async def get_cache_stats(self) -> dict[str, Any]:
        """Return what is in this namespace and how it is used.

        Returns:
            ``backend_type`` and ``healthy`` as above; ``total_keys`` now (counted by SCAN; at most 100,000); and since
            this process started: ``hits``, ``misses``, ``errors`` (calls that memory answered because Redis failed)
            and ``foreign`` (values that could not be read).
        """
        total = len(await self.get_keys())
        counters = self._shared.counters
        return {
            "backend_type": self.get_backend_type(),
            "healthy": await self.health_check(),
            "total_keys": total,
            "hits": counters.hits,
            "misses": counters.misses,
            "errors": counters.errors,
            "foreign": counters.foreign,
        }
