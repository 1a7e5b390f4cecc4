"""The Redis backend: checks and codec over :class:`~repositories.cache.redis_store.RedisStore`, and raw hashes.

It stands alone and says so when Redis is gone; :mod:`repositories.cache.fallback` puts memory behind it.
"""

import asyncio
from collections.abc import Iterable, Mapping

from redis.asyncio import Redis

from repositories.cache.backend import CacheCounters, StoredBackend
from repositories.cache.codec import Codec
from repositories.cache.errors import translated
from repositories.cache.limits import Ttl, checked_key, checked_keys, new_lifetime_ms
from repositories.cache.redis_store import OPERATION_TIMEOUT_SECONDS, RedisStore, batches


class RedisBackend(StoredBackend):
    """A cache in Redis, alone: when Redis is gone, every call but the health checks raises ``CacheUnavailableError``.

    Args:
        redis_client: a ``redis.asyncio.Redis``; stays the caller's to close.
        namespace: 1 to 64 letters, digits or ``_ . / -``; keys in Redis are ``{namespace}:{key}``.
        operation_timeout: seconds for one command, waiting for a free connection included (1.0).
        codec: how values become bytes, and how large they may be.
        counters: where foreign values are counted; its own without one.
        slots: a bound on commands in flight, to share between backends of one client.
    """

    def __init__(
        self,
        redis_client: Redis,
        *,
        namespace: str = "cache",
        operation_timeout: float = OPERATION_TIMEOUT_SECONDS,
        codec: Codec | None = None,
        counters: CacheCounters | None = None,
        slots: asyncio.Semaphore | None = None,
    ) -> None:
        self.store = RedisStore(redis_client, namespace, operation_timeout=operation_timeout, slots=slots)
        super().__init__(self.store, codec=codec, counters=counters)

    async def hash_set(self, key: str, fields: Mapping[str, str | bytes | int], ttl: Ttl | None = None) -> None:
        """Write fields of a Redis hash, as they are (no envelope), and its lifetime if one is given, in one step.

        Raises:
            CacheUnavailableError: Redis is gone.
            TypeError, ValueError: bad key or ``ttl``, no fields, or the key holds no hash.
        """
        lifetime = new_lifetime_ms(checked_key(key), ttl)
        if not fields:
            raise ValueError(f"no fields to write into cache hash {key!r:.80}")
        name = self.store.name(key)
        commands: list[list[str | bytes | int]] = [
            ["HSET", name, *(part for field in fields.items() for part in field)]
        ]
        if lifetime is not None:
            commands.append(["PEXPIRE", name, lifetime])
        for answer in await self.store.pipeline(commands, atomic=True):
            if isinstance(answer, Exception):
                raise translated(answer)

    async def hash_get_many(self, keys: Iterable[str]) -> dict[str, dict[str, bytes]]:
        """Return the fields of each Redis hash that is there, in one round trip for 500 of them.

        Raises:
            CacheUnavailableError: Redis is gone.
            TypeError, ValueError: bad key, or a key holds no hash.
        """
        found: dict[str, dict[str, bytes]] = {}
        for batch in batches(checked_keys(keys)):
            answers = await self.store.pipeline([["HGETALL", self.store.name(key)] for key in batch])
            for key, answer in zip(batch, answers, strict=True):
                if answer:
                    found[key] = {field.decode(): value for field, value in answer.items()}
        return found
