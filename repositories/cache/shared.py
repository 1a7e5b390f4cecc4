"""What one process shares between its cache repositories, however many its requests build.

A repository may be made anew for each request; the memory it falls back to, what it knows of an outage, the loads under
way and the counters must not be. They live here, by owner (a Redis client, a store, a backend) and namespace, for as
long as that owner does. This is the only state of the package that is not handed in;
:func:`reset_shared_memory_backend` ends it.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar, TypeVar
from weakref import WeakKeyDictionary

from redis.asyncio import Redis

from repositories.cache.backend import CacheCounters, StoredBackend
from repositories.cache.circuit import CircuitState
from repositories.cache.codec import Codec
from repositories.cache.errors import CacheUnavailableError
from repositories.cache.fallback import FallbackStore
from repositories.cache.flight import SingleFlight
from repositories.cache.limits import checked_namespace
from repositories.cache.lru import MAX_BYTES, MAX_ENTRIES, LruStore
from repositories.cache.memory import MemoryBackend, MemoryStore
from repositories.cache.outage import BeforeReturn, Outage
from repositories.cache.redis import RedisBackend
from repositories.cache.redis_store import OPERATION_TIMEOUT_SECONDS, checked_client, slots_for

T = TypeVar("T")


@dataclass(slots=True)
class Shared:
    """What belongs to one owner and namespace.

    Attributes:
        counters: hits, misses, errors, foreign values.
        loads: the values being loaded now.
        outage: for a Redis client, what stands in for it and how it comes back.
    """

    counters: CacheCounters = field(default_factory=CacheCounters)
    loads: SingleFlight[bytes] = field(default_factory=SingleFlight)
    outage: Outage | None = None


class _Process:
    lru: LruStore | None = None
    backend: MemoryBackend | None = None
    shared: ClassVar[MutableMapping[object, dict[str, Shared]]] = WeakKeyDictionary()
    # A client's pool serves all its namespaces, so they share what may be in flight.
    slots: ClassVar[MutableMapping[Redis, asyncio.Semaphore]] = WeakKeyDictionary()
    corners = count(1)


def shared_memory_backend() -> MemoryBackend:
    """Return the one memory backend of this process (namespace ``cache``), made at the first call."""
    if _Process.backend is None:
        _Process.backend = MemoryBackend(lru=_shared_lru(), counters=shared_by(_shared_lru(), "cache").counters)
    return _Process.backend


def reset_shared_memory_backend(*, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
    """Forget all shared state: cached values, outages and their journals, counters. The next use begins anew.

    Args:
        max_entries: bound of the memory store made next: so many values (10,000).
        max_bytes: bound of the memory store made next: so many bytes of keys and values (64 MiB).
    """
    for namespaces in _Process.shared.values():
        for shared in namespaces.values():
            if shared.outage is not None:
                shared.outage.stop()
    _Process.shared.clear()
    _Process.slots.clear()
    _Process.backend = None
    _Process.lru = LruStore(max_entries=max_entries, max_bytes=max_bytes)


def memory_backend(namespace: str, codec: Codec) -> MemoryBackend:
    """Return a view of the shared memory for one namespace."""
    lru = _shared_lru()
    return MemoryBackend(namespace=namespace, lru=lru, codec=codec, counters=shared_by(lru, namespace).counters)


def shared_by(owner: object, namespace: str) -> Shared:
    """Return what ``owner`` shares in ``namespace``; the same object as long as the owner lives."""
    namespaces = _Process.shared.setdefault(owner, {})
    return namespaces.setdefault(namespace, Shared())


def _shared_lru() -> LruStore:
    if _Process.lru is None:
        _Process.lru = LruStore()
    return _Process.lru


class FallbackBackend(StoredBackend):
    """Redis, with the shared memory of this process standing in while Redis is away.

    Any number of these on one client and namespace behave as one: they share outage, journal and memory.

    Args:
        redis_client: a ``redis.asyncio.Redis``; stays the caller's to close.
        namespace: 1 to 64 letters, digits or ``_ . / -``.
        operation_timeout: seconds for one command (1.0): how long the first call of an outage may take.
        codec: how values become bytes, and how large they may be.

    Attributes:
        redis: the namespace in Redis alone, which raises while Redis is away.
    """

    def __init__(
        self,
        redis_client: Redis,
        *,
        namespace: str = "cache",
        operation_timeout: float = OPERATION_TIMEOUT_SECONDS,
        codec: Codec | None = None,
    ) -> None:
        shared = shared_by(checked_client(redis_client), checked_namespace(namespace))
        if redis_client not in _Process.slots:
            _Process.slots[redis_client] = slots_for(redis_client)
        if shared.outage is None:
            # A corner of its own: what CacheRepository() keeps in memory must not show up in an outage, nor go with it.
            corner = MemoryStore(_shared_lru(), f"{namespace}@{next(_Process.corners)}")
            shared.outage = Outage(corner, shared.counters)
        self.redis = RedisBackend(
            redis_client,
            namespace=namespace,
            operation_timeout=operation_timeout,
            codec=codec,
            counters=shared.counters,
            slots=_Process.slots[redis_client],
        )
        self._outage = shared.outage
        super().__init__(FallbackStore(self.redis.store, self._outage), codec=codec, counters=shared.counters)

    @property
    def circuit_state(self) -> CircuitState:
        """Whether Redis serves (``closed``) or memory does."""
        return self._outage.circuit.state

    async def on_redis(self, call: Callable[[RedisBackend], Awaitable[T]]) -> T:
        """Return what ``call`` makes of Redis itself: for what must never come from memory.

        Raises:
            CacheUnavailableError: Redis is away; known at once while the circuit is open.
        """
        outage, store = self._outage, self.redis.store
        if not outage.redis_serves:
            await outage.wait_for_turn(store)
        if not outage.redis_serves and outage.error is not None:
            raise CacheUnavailableError(outage.error.reason, outage.error.detail)
        try:
            return await call(self.redis)
        except CacheUnavailableError as error:
            outage.fail(store, error)
            raise

    def before_return(self, hook: BeforeReturn) -> None:
        """Have ``hook`` awaited each time Redis is about to serve again; if it raises, Redis does not yet.

        For what is kept in Redis beside the cache and has to be declared outdated first; it works on ``redis``, which
        this backend does not use yet. Register it once a process.
        """
        self._outage.before_return.append(hook)

    async def try_return(self) -> bool:
        """Try now, instead of at the next probe, to let Redis serve again; return whether it does."""
        return await self._outage.try_return(self.redis.store)
