"""A cache of values by key: in Redis, in memory, or in Redis with memory standing in while it is away.

``CacheRepository`` is the door; :mod:`repositories.cache.codec` says what may be stored,
:mod:`repositories.cache.limits` how much, :mod:`repositories.cache.fallback` what happens when Redis goes.
"""

from repositories.cache.backend import CacheBackend, CacheCounters
from repositories.cache.circuit import CircuitState
from repositories.cache.codec import Codec
from repositories.cache.errors import CacheUnavailableError, OutageReason
from repositories.cache.memory import MemoryBackend
from repositories.cache.redis import RedisBackend
from repositories.cache.repository import CacheRepository
from repositories.cache.shared import FallbackBackend, reset_shared_memory_backend, shared_memory_backend
from repositories.cache.store import CacheHealth

__all__ = [
    "CacheBackend",
    "CacheCounters",
    "CacheHealth",
    "CacheRepository",
    "CacheUnavailableError",
    "CircuitState",
    "Codec",
    "FallbackBackend",
    "MemoryBackend",
    "OutageReason",
    "RedisBackend",
    "reset_shared_memory_backend",
    "shared_memory_backend",
]
