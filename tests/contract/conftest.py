"""The cache backends that one suite holds to one contract, each in a namespace that no other test uses."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from repositories.cache import CacheBackend, MemoryBackend, RedisBackend
from repositories.cache.backend import CacheCounters, StoredBackend
from repositories.cache.circuit import Circuit
from repositories.cache.errors import CacheUnavailableError, OutageReason
from repositories.cache.fallback import FallbackStore
from repositories.cache.lru import LruStore
from repositories.cache.memory import MemoryStore
from repositories.cache.outage import Outage
from repositories.cache.redis_store import RedisStore

AN_HOUR = 3600.0
PATIENCE = 15.0  # a busy machine must not look like a Redis that is gone


@pytest.fixture
async def cache_client(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def namespace(cache_client: Redis) -> AsyncIterator[str]:
    """A namespace of this test's own; whatever stands in it or beside it is removed afterwards."""
    name = f"test.{uuid4().hex[:12]}"
    yield name
    if names := [key async for key in cache_client.scan_iter(match=f"{name}[!:]*")]:
        await cache_client.unlink(*names)


@pytest.fixture
def redis_backend(cache_client: Redis, namespace: str) -> RedisBackend:
    return RedisBackend(cache_client, namespace=namespace, operation_timeout=PATIENCE)


@pytest.fixture
def fallback_store(cache_client: Redis, namespace: str) -> FallbackStore:
    """A fallback pair of its own, whose watcher never gets to its first probe."""
    circuit = Circuit(first_probe_seconds=AN_HOUR, longest_probe_seconds=AN_HOUR)
    outage = Outage(MemoryStore(LruStore(), namespace), CacheCounters(), circuit=circuit)
    return FallbackStore(RedisStore(cache_client, namespace, operation_timeout=PATIENCE), outage)


@pytest.fixture(params=["memory", "redis", "fallback_on_redis", "fallback_in_an_outage"])
async def backend(
    request: pytest.FixtureRequest, redis_backend: RedisBackend, fallback_store: FallbackStore
) -> AsyncIterator[CacheBackend]:
    match request.param:
        case "memory":
            yield MemoryBackend()
        case "redis":
            yield redis_backend
        case "fallback_on_redis":
            yield StoredBackend(fallback_store)
        case _:
            lost = CacheUnavailableError(OutageReason.UNREACHABLE, "as if it were gone")
            fallback_store.outage.fail(fallback_store.redis, lost)
            yield StoredBackend(fallback_store)
    fallback_store.outage.stop()
    await redis_backend.clear()
