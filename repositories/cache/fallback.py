"""Redis while it is there, memory while it is not, and no caller who notices more than a miss.

============  ==============================================================  ===================================
circuit       reads and writes                                                meanwhile
============  ==============================================================  ===================================
closed        go to Redis; the first that fails is answered by memory and     nothing
              opens the circuit
open          go to memory, and into a journal, without asking Redis          a watcher waits, at most 5 s
half open     as open; in the last moments they wait for the circuit          it probes Redis, then carries over
============  ==============================================================  ===================================

What was written, deleted or invalidated in memory is carried over *before* Redis serves another read
(:mod:`repositories.cache.carry_over`), and what memory held is forgotten then, so neither side ever serves what the
other has replaced. Memory starts each outage empty: what only Redis knows is a miss, a counter starts from 0 (and is
added to Redis's own on return), ``set_if_absent`` is exclusive within this process only.

Faults of the calling code (``TypeError``, ``ValueError``, ``OverflowError``) pass through; nothing that Redis does is
raised here.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from repositories.cache.errors import CacheUnavailableError
from repositories.cache.journal import Base, Change
from repositories.cache.outage import Outage
from repositories.cache.redis_store import RedisStore
from repositories.cache.store import BackendType, CacheHealth

T = TypeVar("T")


class FallbackStore:
    """A :class:`~repositories.cache.store.ByteStore` of two: Redis, and memory when Redis is away.

    Args:
        redis: the namespace in Redis.
        outage: what this process knows of it; shared by all stores on the same client and namespace.
    """

    def __init__(self, redis: RedisStore, outage: Outage) -> None:
        self.redis, self.outage = redis, outage
        self._memory = outage.memory

    @property
    def backend_type(self) -> BackendType:
        """What serves now."""
        return "redis" if self.outage.redis_serves else "memory"

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See :class:`ByteStore`."""
        return await self._either(lambda: self.redis.read(keys), lambda: self._memory.read(keys))

    async def write(self, items: Mapping[str, bytes], lifetime_ms: int | None) -> bool:
        """See :class:`ByteStore`."""

        async def in_memory() -> bool:
            for key, value in items.items():
                self.outage.journal.note([key], Change(Base.PUT, value, self._end(lifetime_ms)))
            return await self._memory.write(items, lifetime_ms)

        return await self._either(lambda: self.redis.write(items, lifetime_ms), in_memory)

    async def write_if_absent(self, key: str, value: bytes, lifetime_ms: int | None) -> bool:
        """See :class:`ByteStore`."""

        async def in_memory() -> bool:
            stored = await self._memory.write_if_absent(key, value, lifetime_ms)
            if stored:
                self.outage.journal.note([key], Change(Base.PUT_IF_ABSENT, value, self._end(lifetime_ms)))
            return stored

        return await self._either(lambda: self.redis.write_if_absent(key, value, lifetime_ms), in_memory)

    async def remove(self, keys: Sequence[str]) -> int:
        """See :class:`ByteStore`."""

        async def in_memory() -> int:
            self.outage.journal.note(keys, Change(Base.DROP))
            return await self._memory.remove(keys)

        return await self._either(lambda: self.redis.remove(keys), in_memory)

    async def holds(self, key: str) -> bool:
        """See :class:`ByteStore`."""
        return await self._either(lambda: self.redis.holds(key), lambda: self._memory.holds(key))

    async def keys(self, pattern: str) -> list[str]:
        """See :class:`ByteStore`."""
        return await self._either(lambda: self.redis.keys(pattern), lambda: self._memory.keys(pattern))

    async def remove_matching(self, pattern: str) -> int:
        """See :class:`ByteStore`."""

        async def in_memory() -> int:
            self.outage.journal.note_pattern(pattern)
            return await self._memory.remove_matching(pattern)

        return await self._either(lambda: self.redis.remove_matching(pattern), in_memory)

    async def add(self, key: str, amount: int) -> int:
        """See :class:`ByteStore`."""

        async def in_memory() -> int:
            standing = await self._memory.add(key, amount)
            self.outage.journal.note([key], Change(Base.KEEP, amount=amount))
            return standing

        return await self._either(lambda: self.redis.add(key, amount), in_memory)

    async def expire(self, key: str, lifetime_ms: int) -> bool:
        """See :class:`ByteStore`."""

        async def in_memory() -> bool:
            over = lifetime_ms <= 0
            self.outage.journal.note([key], Change(Base.DROP if over else Base.KEEP, renewed_to=self._end(lifetime_ms)))
            return await self._memory.expire(key, lifetime_ms)

        return await self._either(lambda: self.redis.expire(key, lifetime_ms), in_memory)

    async def remaining_ms(self, key: str) -> int | None:
        """See :class:`ByteStore`."""
        return await self._either(lambda: self.redis.remaining_ms(key), lambda: self._memory.remaining_ms(key))

    async def health(self) -> CacheHealth:
        """See :class:`ByteStore`; not healthy while memory stands in."""
        if await self._redis_serves():
            try:
                return await self.redis.measured()
            except CacheUnavailableError as error:
                self.outage.fail(self.redis, error)
        memory = await self._memory.health()
        return CacheHealth("memory", healthy=False, memory_bytes=memory.memory_bytes, detail=str(self.outage.error))

    async def _either(self, on_redis: Callable[[], Awaitable[T]], in_memory: Callable[[], Awaitable[T]]) -> T:
        # ``in_memory`` never suspends (MemoryStore's promise), so nothing comes between the look at the circuit and
        # the change of memory and journal: a carry-over sees all of it or nothing.
        if await self._redis_serves():
            try:
                return await on_redis()
            except CacheUnavailableError as error:
                self.outage.fail(self.redis, error)
        return await in_memory()

    async def _redis_serves(self) -> bool:
        if not self.outage.redis_serves:
            await self.outage.wait_for_turn(self.redis)
        return self.outage.redis_serves

    def _end(self, lifetime_ms: int | None) -> float | None:
        return None if lifetime_ms is None else self._memory.clock() + lifetime_ms / 1000
