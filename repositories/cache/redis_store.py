"""Bytes in Redis: one namespace under a key prefix, every command bounded in time.

``RedisStore`` promises that nothing outside ``{namespace}:`` is read, listed or removed (SCAN and UNLINK in batches,
never KEYS or FLUSHDB), that no call takes longer than ``operation_timeout`` for each command it sends, and that every
way Redis can fail is one error, :class:`~repositories.cache.errors.CacheUnavailableError`. Standing in for a Redis that
is gone is :mod:`repositories.cache.fallback`'s affair.

The project's own bookkeeping lies beside the namespace, under ``{namespace}!``: an ACL needs ``~cache:* ~cache!*``.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

import structlog
from redis import exceptions
from redis.asyncio import Redis

from repositories.cache.codec import Codec
from repositories.cache.errors import CacheUnavailableError, OutageReason, translated
from repositories.cache.glob import escape_glob
from repositories.cache.limits import (
    LARGEST_INTEGER,
    MAX_KEYS_LISTED,
    SMALLEST_INTEGER,
    checked_namespace,
    counter_overflow,
    not_a_counter,
)
from repositories.cache.store import MISSING_MS, CacheHealth

OPERATION_TIMEOUT_SECONDS: Final = 1.0
MAX_IN_FLIGHT: Final = 64
_BATCH_KEYS: Final = 500
_BATCH_BYTES: Final = 4 * 1024 * 1024
_GONE: Final = -2
_NO_EXPIRY: Final = -1

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def checked_client(client: object) -> Redis:
    """Return ``client`` if it is a ``redis.asyncio.Redis``; raise ``TypeError`` if it is not (say, a blocking one)."""
    if not isinstance(client, Redis):
        raise TypeError(f"the cache needs a redis.asyncio.Redis, not {type(client).__module__}.{type(client).__name__}")
    return client


def slots_for(client: Redis) -> asyncio.Semaphore:
    """Return a bound on commands in flight that the client's pool can carry: a burst waits instead of failing."""
    return asyncio.Semaphore(min(MAX_IN_FLIGHT, client.connection_pool.max_connections))


class RedisStore:
    """One namespace in Redis; a :class:`~repositories.cache.store.ByteStore`."""

    backend_type: Literal["redis"] = "redis"

    def __init__(
        self,
        client: Redis,
        namespace: str,
        *,
        operation_timeout: float = OPERATION_TIMEOUT_SECONDS,
        slots: asyncio.Semaphore | None = None,
    ) -> None:
        if not operation_timeout > 0:
            raise ValueError(f"operation_timeout is seconds above 0, not {operation_timeout}")
        self.client = checked_client(client)
        self.namespace = checked_namespace(namespace)
        self.operation_timeout = operation_timeout
        self._prefix = f"{namespace}:"
        self._slots = slots or slots_for(client)

    async def run(self, command: Callable[[], Awaitable[T]]) -> T:
        """Send one command (or one pipeline) and return its answer within ``operation_timeout`` seconds.

        Raises:
            CacheUnavailableError: Redis did not answer in time, or did not do it.
            TypeError: the key holds another Redis type than the command works on.
        """
        try:
            async with asyncio.timeout(self.operation_timeout), self._slots:
                return await command()
        except TimeoutError:
            raise CacheUnavailableError(OutageReason.TIMEOUT, f"no answer in {self.operation_timeout:g} s") from None
        except (exceptions.RedisError, OSError) as error:
            raise translated(error) from error

    def name(self, key: str) -> str:
        """Return the whole Redis key of a cache key."""
        return self._prefix + key

    def bookkeeping_name(self, subject: str) -> str:
        """Return the whole Redis key of something of our own that is no cache value."""
        return f"{self.namespace}!{subject}"

    async def command(self, *parts: str | bytes | int) -> Any:
        """Run one command and return its answer undecoded, whatever the client's ``decode_responses`` says."""
        execute = cast("Callable[..., Awaitable[Any]]", self.client.execute_command)
        return await self.run(lambda: execute(*parts, NEVER_DECODE=True))

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See :class:`ByteStore`."""
        # MGET even for one key: it answers nil for a key of another Redis type, where GET fails.
        found: list[bytes | None] = []
        for batch in batches(keys):
            found += await self.command("MGET", *map(self.name, batch))
        return found

    async def write(self, items: Mapping[str, bytes], lifetime_ms: int | None) -> bool:
        """See :class:`ByteStore`."""
        for batch in _value_batches(items):
            if len(batch) == 1:
                await self.command(*_set(self.name(batch[0]), items[batch[0]], lifetime_ms))
                continue
            await self.pipeline([_set(self.name(key), items[key], lifetime_ms) for key in batch])
        return True

    async def write_if_absent(self, key: str, value: bytes, lifetime_ms: int | None) -> bool:
        """See :class:`ByteStore`."""
        return await self.command(*_set(self.name(key), value, lifetime_ms), "NX") is not None

    async def remove(self, keys: Sequence[str]) -> int:
        """See :class:`ByteStore`."""
        return await self._unlink([self.name(key) for key in keys])

    async def holds(self, key: str) -> bool:
        """See :class:`ByteStore`."""
        return bool(await self.command("EXISTS", self.name(key)))

    async def keys(self, pattern: str) -> list[str]:
        """See :class:`ByteStore`."""
        prefix = self._prefix.encode()
        found: set[str] = set()
        async for names in self._scan(pattern):
            for name in names:
                # A key that is no UTF-8 was not written by us: nobody could ask for it.
                with contextlib.suppress(UnicodeDecodeError):
                    found.add(name.removeprefix(prefix).decode())
            if len(found) > MAX_KEYS_LISTED:
                _log.warning("cache.keys_cut", namespace=self.namespace, pattern=pattern, listed=MAX_KEYS_LISTED)
                break
        return sorted(found)[:MAX_KEYS_LISTED]

    async def remove_matching(self, pattern: str) -> int:
        """See :class:`ByteStore`."""
        removed = 0
        async for names in self._scan(pattern):
            removed += await self._unlink(names)
        return removed

    async def add(self, key: str, amount: int) -> int:
        """See :class:`ByteStore`."""
        try:
            return int(await self.command("INCRBY", self.name(key), amount))
        except CacheUnavailableError as error:
            if error.reason is not OutageReason.REFUSED:
                raise
            (raw,) = await self.read([key])
            standing = None if raw is None else Codec.counter(raw)
            if raw is not None and standing is None:
                raise not_a_counter(key) from None
            if standing is not None and not SMALLEST_INTEGER <= standing + amount <= LARGEST_INTEGER:
                raise counter_overflow(key, amount) from None
            raise
        except TypeError:
            raise not_a_counter(key) from None

    async def expire(self, key: str, lifetime_ms: int) -> bool:
        """See :class:`ByteStore`."""
        if lifetime_ms <= 0:
            return await self.remove([key]) == 1
        return bool(await self.command("PEXPIRE", self.name(key), lifetime_ms))

    async def remaining_ms(self, key: str) -> int | None:
        """See :class:`ByteStore`."""
        left = int(await self.command("PTTL", self.name(key)))
        if left == _GONE:
            return MISSING_MS
        return None if left == _NO_EXPIRY else max(1, left)

    async def health(self) -> CacheHealth:
        """See :class:`ByteStore`."""
        try:
            return await self.measured()
        except CacheUnavailableError as error:
            return CacheHealth("redis", healthy=False, detail=str(error))

    async def measured(self) -> CacheHealth:
        """Return the health of a Redis that answers.

        Raises:
            CacheUnavailableError: it does not.
        """
        asked_at = time.perf_counter()
        await self.command("PING")
        latency = time.perf_counter() - asked_at
        server = await self.run(lambda: self.client.info("server"))
        memory = await self.run(lambda: self.client.info("memory"))
        return CacheHealth(
            "redis",
            healthy=True,
            latency_seconds=latency,
            version=str(server["redis_version"]),
            memory_bytes=int(memory["used_memory"]),
        )

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | int]], *, atomic: bool = False) -> list[Any]:
        """Run several commands in one round trip and return their answers.

        Args:
            commands: each the parts of one command.
            atomic: all or none of them (MULTI); an answer may then be a ``ResponseError`` instead of raising it.

        Raises:
            CacheUnavailableError: Redis did not answer in time, or did not do one of them.
        """
        pipe = self.client.pipeline(transaction=atomic)
        # Answers to MULTI come through callbacks that do not know this option; they are numbers and OKs anyway.
        options = {} if atomic else {"NEVER_DECODE": True}
        for parts in commands:
            pipe.execute_command(*parts, **options)
        answers = await self.run(lambda: pipe.execute(raise_on_error=False))
        if not atomic and (failed := next((answer for answer in answers if isinstance(answer, Exception)), None)):
            raise translated(failed)
        return list(answers)

    async def _scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            answer = await self.command(
                "SCAN", cursor, "MATCH", escape_glob(self._prefix) + pattern, "COUNT", _BATCH_KEYS
            )
            cursor, names = int(answer[0]), answer[1]
            if names:
                yield names
            if cursor == 0:
                return

    async def _unlink(self, names: Sequence[str | bytes]) -> int:
        removed = 0
        for batch in batches(names):
            removed += int(await self.command("UNLINK", *batch))
        return removed


def _set(name: str, value: bytes, lifetime_ms: int | None) -> list[str | bytes | int]:
    return ["SET", name, value] if lifetime_ms is None else ["SET", name, value, "PX", lifetime_ms]


def batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Return the items in runs that go into one round trip."""
    return (items[start : start + _BATCH_KEYS] for start in range(0, len(items), _BATCH_KEYS))


def _value_batches(items: Mapping[str, bytes]) -> Iterable[list[str]]:
    batch: list[str] = []
    size = 0
    for key, value in items.items():
        if batch and (len(batch) == _BATCH_KEYS or size + len(value) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += len(value)
    if batch:
        yield batch
