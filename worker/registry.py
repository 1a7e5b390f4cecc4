"""Which workers live: each says so in Redis every few seconds, and is forgotten when it falls silent.

A worker's entry is one key with a time to live, so a worker that is killed disappears by itself. This is for people and
for ``worker jobs why``: nothing that must be right depends on it (leases decide who owns a job).
"""

import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Annotated, Final

import structlog
from arq.connections import ArqRedis
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from repositories.broken_keys import RedisType
from repositories.schemas import QueueName, ShortText
from worker.engines.base import Work
from worker.queue import QueueUnavailableError, asking

BEAT = timedelta(seconds=2)
"""How often a worker says that it lives."""

SILENCE = timedelta(seconds=10)
"""How long after its last word it is forgotten."""

MOST_WORKERS = 1_000

_KEY = "worker:"
_NAMES = "workers"  # sorted set: name to the time of the last beat, so that no one must scan the whole keyspace
_FORGOTTEN = timedelta(hours=1)

# KEYS: the entry, and the names. ARGV: what it says, milliseconds that it lives, the name, milliseconds after which the
# names of others are forgotten. Times are this server's: a worker whose clock is ahead must not forget all others.
_ANNOUNCE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[4] / 1000)
"""

log = structlog.get_logger(__name__)


class LiveWorker(BaseModel):
    """What a worker process says of itself.

    Attributes:
        id: its name on the record (``jobs.worker_id``).
        version: of this package.
        job_types: what it can run.
        queues: from which queues it takes jobs.
        concurrency: how many jobs it runs at most; ``running``: how many now.
        away: for which work its engine is left alone for now, and why.
        started_at, beat_at: when it began, and when it said this; its own clock.
    """

    id: str = Field(min_length=1, max_length=128)
    host: str = Field(max_length=255)
    pid: int = Field(ge=1)
    version: str = Field(max_length=64)
    job_types: tuple[ShortText, ...] = Field(max_length=100)
    queues: tuple[QueueName, ...] = Field(max_length=1_000)
    concurrency: int = Field(ge=1, le=10_000)
    running: int = Field(ge=0, le=10_000)
    away: dict[Work, Annotated[str, Field(max_length=1_000)]] = {}
    started_at: AwareDatetime
    beat_at: AwareDatetime


class Registry:
    """Announce, forget, list.

    Args:
        redis: from :func:`worker.queue.connect`, or a running worker's own.
    """

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._announce = redis.register_script(_ANNOUNCE)

    async def announce(self, worker: LiveWorker, silence: timedelta = SILENCE) -> None:
        """Say that ``worker`` lives; it does until ``silence`` has passed without another word.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        keys: dict[str, RedisType] = {_KEY + worker.id: "string", _NAMES: "zset"}
        told: list[int | str] = [worker.model_dump_json(), _milliseconds(silence), worker.id, _milliseconds(_FORGOTTEN)]
        await asking(self._redis, keys, partial(self._announce, keys=list(keys), args=told))

    async def forget(self, worker_id: str) -> None:
        """Say that a worker stopped in order.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """

        async def forget() -> None:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.delete(_KEY + worker_id)
                pipe.zrem(_NAMES, worker_id)
                await pipe.execute()

        await asking(self._redis, {_NAMES: "zset"}, forget)

    async def live(self) -> list[LiveWorker]:
        """Return the workers that live, in id order; at most ``MOST_WORKERS``, those that were heard last.

        What cannot be read (a newer worker's entry in another shape) is left out.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        newest = partial(self._redis.zrevrange, _NAMES, 0, MOST_WORKERS - 1)
        names: list[bytes] = await asking(self._redis, {_NAMES: "zset"}, newest)
        keys = [_KEY.encode() + name for name in names]
        said = await asking(self._redis, {}, lambda: self._redis.mget(keys)) if names else []
        found = []
        for name, entry in zip(names, said, strict=True):
            if entry is None:
                continue
            try:
                found.append(LiveWorker.model_validate_json(entry))
            except ValidationError as error:
                log.warning(
                    "worker.unreadable", name=name.decode(errors="replace")[:128], reason=str(error.errors()[0]["msg"])
                )
        return sorted(found, key=lambda worker: worker.id)


class Presence:
    """A worker's own entry, from its first beat until it leaves.

    Args:
        registry: where it is kept.
        worker_id: its name on the record.
        job_types: what it can run.
        queues: from which queues it takes jobs.
        concurrency: how many jobs it runs at most.
        running: tells how many it runs now.
        away: tells for which work its engine is left alone for now, and why.
    """

    def __init__(
        self,
        registry: Registry,
        worker_id: str,
        job_types: Collection[str],
        queues: Collection[str],
        concurrency: int,
        running: Callable[[], int],
        away: Callable[[], Awaitable[Mapping[Work, str]]] | None = None,
    ) -> None:
        self._registry = registry
        self._running = running
        self._away = away
        now = datetime.now(UTC)
        self._said = LiveWorker(
            id=worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("anythingllm-worker"),
            job_types=tuple(sorted(job_types)),
            queues=tuple(sorted(queues)),
            concurrency=concurrency,
            running=0,
            started_at=now,
            beat_at=now,
        )

    async def beat(self) -> None:
        """Say that this worker lives: the step of a loop that runs every :data:`BEAT`.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        away = {} if self._away is None else await self._away()
        now = {"running": self._running(), "away": dict(away), "beat_at": datetime.now(UTC)}
        await self._registry.announce(self._said.model_copy(update=now))

    async def leave(self) -> None:
        """Say that this worker stops; without Redis its entry expires by itself."""
        with suppress(QueueUnavailableError):
            await self._registry.forget(self._said.id)


def _milliseconds(time: timedelta) -> int:
    return round(time.total_seconds() * 1000)
