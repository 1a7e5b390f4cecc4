"""Handing job ids to ARQ, and asking ARQ about them.

An ARQ message carries a job id and nothing else, as JSON: code must never run because of what stands in Redis,
which is why ARQ's default serializer, pickle, is not used. Everything here can be repeated: a message that is there
already is written again as it was.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

from arq.connections import ArqRedis, RedisSettings
from arq.constants import (
    default_queue_name,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from arq.jobs import serialize_job
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from repositories.jobs import Waiting

LOWEST_PRIORITY = 9
PRIORITY_STEP_MS = 10**12  # about 31 years: no waiting time lifts a job over one of a better priority
_CHUNK = 1_000


class QueueUnavailableError(Exception):
    """Redis did not answer; what is in PostgreSQL is handed over when it does."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"Redis does not answer ({self.reason}): is it running, and is REDIS_URL right?"


def serialize(message: dict[str, Any]) -> bytes:
    """ARQ's message as JSON; a value that JSON does not know (an exception in a result) becomes its ``repr``."""
    return json.dumps(message, default=repr, separators=(",", ":")).encode()


def deserialize(message: bytes) -> dict[str, Any]:
    """Read a message; anything that is not a JSON object is an error, which ARQ logs and drops.

    Raises:
        ValueError: it is not JSON.
        TypeError: it is not an object.
    """
    loaded = json.loads(message)
    if not isinstance(loaded, dict):
        raise TypeError("an ARQ message is a JSON object")
    return loaded


def redis_settings(url: str) -> RedisSettings:
    """ARQ's settings for ``url``; a command that meets a lost connection is tried three times."""
    settings = RedisSettings.from_dsn(url)
    settings.conn_timeout = 5
    settings.retry_on_timeout = True
    settings.retry_on_error = [RedisConnectionError, RedisTimeoutError]
    settings.retry = Retry(ExponentialBackoff(cap=1, base=0.05), 3)
    return settings


def connect(url: str, max_connections: int = 10) -> ArqRedis:
    """An ARQ client for ``url``; it connects when first used, and a caller waits for a free connection up to 5 s."""
    pool = BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=5, socket_connect_timeout=5, socket_timeout=10
    )
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=deserialize)


def score(priority: int, now_ms: int) -> int:
    """Where a job stands in the queue's sorted set: lower is sooner, and never in the future, so stock ARQ takes it."""
    return now_ms + (priority - LOWEST_PRIORITY) * PRIORITY_STEP_MS


@contextmanager
def _translated() -> Iterator[None]:
    """Raise :class:`QueueUnavailableError` in place of redis-py's errors and the socket's."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise QueueUnavailableError(type(error).__name__) from error


class Stranded(NamedTuple):
    """Jobs that wait on the record and that no worker will take from Redis as it is."""

    missing: list[Waiting]
    marked: list[Waiting]


class JobQueue:
    """The queue's sorted set and message bodies.

    Args:
        redis: from :func:`connect`, or a running worker's own.
    """

    def __init__(self, redis: ArqRedis, queue_name: str = default_queue_name) -> None:
        self._redis = redis
        self._queue = queue_name

    async def hand_over(self, jobs: Sequence[Waiting]) -> None:
        """Put jobs into the queue: body and score, in one pipeline a thousand.

        What an earlier run of the same id left (retry count, in-progress mark of a dead worker) is cleared.

        Raises:
            QueueUnavailableError: Redis does not answer; some may have been handed over.
        """
        now_ms = int(time.time() * 1000)
        with _translated():
            for start in range(0, len(jobs), _CHUNK):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for job in jobs[start : start + _CHUNK]:
                        key = str(job.job_id)
                        body = serialize_job(job.type, (key,), {}, None, now_ms, serializer=serialize)
                        pipe.delete(result_key_prefix + key, retry_key_prefix + key, in_progress_key_prefix + key)
                        pipe.set(job_key_prefix + key, body)
                        pipe.zadd(self._queue, {key: score(job.priority, now_ms)})
                    await pipe.execute()

    async def remove(self, ids: Collection[UUID]) -> None:
        """Take messages out of the queue.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        if not ids:
            return
        keys = [str(job_id) for job_id in ids]
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zrem(self._queue, *keys)
                pipe.delete(*(prefix + key for key in keys for prefix in (job_key_prefix, retry_key_prefix)))
                await pipe.execute()

    async def length(self) -> int:
        """How many messages wait or run.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            return int(await self._redis.zcard(self._queue))

    async def positions(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return where jobs stand in the queue, from 1, in one pipeline; those that are not there are left out.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        if not ids:
            return {}
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.zrank(self._queue, str(job_id))
                ranks = await pipe.execute()
        return {job_id: int(rank) + 1 for job_id, rank in zip(ids, ranks, strict=True) if rank is not None}

    async def stranded(self, jobs: Sequence[Waiting]) -> Stranded:
        """Return those of ``jobs`` that ARQ cannot run: message or body gone, or marked as running by somebody.

        A mark is set a moment before each claim, so a job that waits may bear one; twice in a row it is a dead one's.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        if not jobs:
            return Stranded([], [])
        keys = [str(job.job_id) for job in jobs]
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zmscore(self._queue, keys)
                for key in keys:
                    pipe.exists(job_key_prefix + key)
                    pipe.exists(in_progress_key_prefix + key)
                scores, *found = await pipe.execute()
        missing, marked = [], []
        for job, place, body, mark in zip(jobs, scores, found[::2], found[1::2], strict=True):
            if place is None or not body:
                missing.append(job)
            elif mark:
                marked.append(job)
        return Stranded(missing, marked)

    async def ids(self, cursor: int = 0) -> tuple[int, list[UUID]]:
        """Walk over the ids in the queue: pass the cursor returned, until it is 0 again.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            following, members = await self._redis.zscan(self._queue, cursor=cursor, count=_CHUNK)
        found = []
        for member, _ in members:
            try:
                found.append(UUID(member.decode()))
            except ValueError:  # a cron job of ARQ has a name instead
                continue
        return int(following), found
