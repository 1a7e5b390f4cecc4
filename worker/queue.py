"""Handing job ids to ARQ, taking them from it, and asking ARQ about them.

An ARQ message carries a job id and nothing else, as JSON: code must never run because of what stands in Redis,
which is why ARQ's default serializer, pickle, is not used. Keys and message format are ARQ's own, so a stock worker and
ours can drain one queue together. Everything here can be repeated: a message that is there already is written again as
it was, and PostgreSQL decides whether a job may start.
"""

import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Final, NamedTuple, cast
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
from repositories.queue_names import DEFAULT_QUEUE
from worker.queue_scripts import FORGET, HAND_OVER, STRANDED, TAKE

LOWEST_PRIORITY: Final = 9
PRIORITY_STEP_MS: Final = 10**12  # about 31 years: no waiting time lifts a job over one of a better priority
SIDE_QUEUE: Final = "arq:cron"
"""Where what is no job of ours waits (ARQ's own crons), so that it never stands behind the backlog."""

_QUEUES = "arq:queues"  # the names of all queues that ever had a message
_WAKE = "arq:wake:"
_KNOWN = "arq:known"  # the run id of the Redis process to which everything was handed over
_CHUNK = 1_000
_MARK_MS = 5_000  # longer than a claim takes; a worker that dies in one delays its job by no more than this
_BODY = job_key_prefix.encode()
_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"

_KEPT = (job_key_prefix, in_progress_key_prefix, retry_key_prefix)
_LEFT_BEHIND = (result_key_prefix, retry_key_prefix, in_progress_key_prefix)


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


def queue_key(name: str) -> str:
    """The sorted set of a queue: ARQ's own for ``default``, and one beside it for any other."""
    return default_queue_name if name == DEFAULT_QUEUE else f"{default_queue_name}:{name}"


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
    """The queues' sorted sets and message bodies.

    Args:
        redis: from :func:`connect`, or a running worker's own.
    """

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._hand_over = redis.register_script(HAND_OVER)
        self._take = redis.register_script(TAKE)
        self._stranded = redis.register_script(STRANDED)
        self._forget = redis.register_script(FORGET)

    async def hand_over(self, jobs: Sequence[Waiting], *, new: bool = False) -> None:
        """Put jobs into their queues and wake an idle worker: one round trip for a thousand jobs.

        What an earlier run of the same id left (retry count, in-progress mark of a dead worker) is cleared, unless the
        jobs are ``new``: just written, so nothing can be there.

        Raises:
            QueueUnavailableError: Redis does not answer; some may have been handed over.
        """
        now_ms = int(time.time() * 1000)
        by_queue = groupby(sorted(jobs, key=lambda job: job.queue), key=lambda job: job.queue)
        with _translated():
            for name, group in by_queue:
                waiting, queue = list(group), queue_key(name)
                for start in range(0, len(waiting), _CHUNK):
                    await self._hand_over(
                        keys=[queue, _QUEUES, _WAKE + queue, *(() if new else _LEFT_BEHIND)],
                        args=[name, job_key_prefix, *_messages(waiting[start : start + _CHUNK], now_ms)],
                    )

    async def take(self, queues: Sequence[str], limit: int) -> list[UUID]:
        """Take up to ``limit`` jobs (1 to 1,000) out of ``queues``, the first one first, in one round trip.

        A job that is taken stands in no queue and is marked for five seconds: until it is claimed on the record, nobody
        else starts it. What is no job of ours moves to :data:`SIDE_QUEUE`.

        Raises:
            QueueUnavailableError: Redis does not answer. What was taken then is handed over again by the reconciler.
        """
        with _translated():
            taken = await self._take(
                keys=[queue_key(name) for name in queues],
                args=[int(time.time() * 1000), min(limit, _CHUNK), _MARK_MS, SIDE_QUEUE, in_progress_key_prefix, _WAKE],
            )
        return [UUID(key.decode()) for key in taken]

    async def wait_for_work(self, queues: Sequence[str], seconds: float) -> bool:
        """Wait until work arrives in one of ``queues``, at most ``seconds``; one arrival wakes one waiting worker.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            keys = [_WAKE + queue_key(name) for name in queues]
            called: Awaitable[Any] = self._redis.execute_command("BLPOP", *keys, seconds)  # type: ignore[no-untyped-call]  # redis-py's own blpop takes whole seconds
            return await called is not None

    async def wake(self, queues: Sequence[str]) -> None:
        """Call one idle worker to each of ``queues``.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in queues:
                    pipe.lpush(_WAKE + queue_key(name), "1")
                    pipe.ltrim(_WAKE + queue_key(name), 0, 0)
                await pipe.execute()

    async def forget(self, ids: Collection[UUID]) -> None:
        """Drop body and marks of jobs that were taken and are done with.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        every = list(map(str, ids))
        with _translated():
            for start in range(0, len(every), _CHUNK):
                await self._forget(keys=_KEPT, args=["".join(every[start : start + _CHUNK])])

    async def remove(self, ids: Collection[UUID]) -> None:
        """Take messages out of whatever queue they stand in.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        if not ids:
            return
        keys = [str(job_id) for job_id in ids]
        names = await self.names()
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.zrem(queue_key(name), *keys)
                pipe.delete(*(prefix + key for key in keys for prefix in (job_key_prefix, retry_key_prefix)))
                await pipe.execute()

    async def names(self) -> list[str]:
        """Return the queues that had a message since Redis was emptied last, ``default`` always among them.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            found = await cast("Awaitable[set[bytes]]", self._redis.smembers(_QUEUES))
        return sorted({DEFAULT_QUEUE, *(name.decode() for name in found)})

    async def length(self, queue: str = DEFAULT_QUEUE) -> int:
        """How many messages wait in a queue.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            return int(await self._redis.zcard(queue_key(queue)))

    async def total(self) -> int:
        """How many messages wait in all queues.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        return sum([await self.length(name) for name in await self.names()])

    async def positions(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return where jobs stand in their queues, from 1, in one pipeline; those that are not there are left out.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        if not ids:
            return {}
        names = await self.names()
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    for job_id in ids:
                        pipe.zrank(queue_key(name), str(job_id))
                ranks = await pipe.execute()
        return {ids[index % len(ids)]: int(rank) + 1 for index, rank in enumerate(ranks) if rank is not None}

    async def stranded(self, jobs: Sequence[Waiting]) -> Stranded:
        """Return those of ``jobs`` that ARQ cannot run: message or body gone, or marked as running by somebody.

        A job that is being claimed stands in no queue and bears a mark, which does not last: it is not stranded. One
        that stands in a queue may bear a mark for a moment (a stock worker's); twice in a row it is a dead one's.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        found = Stranded([], [])
        by_queue = groupby(sorted(jobs, key=lambda job: job.queue), key=lambda job: job.queue)
        with _translated():
            for name, group in by_queue:
                waiting = list(group)
                for start in range(0, len(waiting), _CHUNK):
                    chunk = waiting[start : start + _CHUNK]
                    missing, marked = await self._stranded(
                        keys=[queue_key(name)],
                        args=[job_key_prefix, in_progress_key_prefix, *(str(job.job_id) for job in chunk)],
                    )
                    found.missing.extend(chunk[number] for number in missing)
                    found.marked.extend(chunk[number] for number in marked)
        return found

    async def begin_check(self) -> tuple[str, bool, bool]:
        """Say which process of Redis this is, whether it was handed all that waits, and whether it knows nothing.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            run_id = str((await self._redis.info("server"))["run_id"])
            noted = await self._redis.get(_KNOWN)
            known = noted == run_id.encode()
            if not known:
                await self._redis.set(_KNOWN, "being filled")
        return run_id, known, noted is None

    async def end_check(self, run_id: str) -> None:
        """Note that all that waits was handed over to the process ``run_id``, unless Redis was emptied meanwhile.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            await self._redis.set(_KNOWN, run_id, xx=True)

    async def bodies(self, cursor: int = 0) -> tuple[int, list[UUID]]:
        """Walk over the jobs whose message body is in Redis, wherever they stand: pass the cursor returned.

        Looks at about ten thousand of Redis's keys, whatever they are.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            following, keys = await self._redis.scan(cursor, match=job_key_prefix + "*", count=10 * _CHUNK)
        return int(following), [job_id for key in keys if (job_id := _job_id(key.removeprefix(_BODY))) is not None]

    async def ids(self, queue: str = DEFAULT_QUEUE, cursor: int = 0) -> tuple[int, list[UUID]]:
        """Walk over the ids in a queue: pass the cursor returned, until it is 0 again.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with _translated():
            following, members = await self._redis.zscan(queue_key(queue), cursor=cursor, count=_CHUNK)
        found = (_job_id(member) for member, _ in members)
        return int(following), [job_id for job_id in found if job_id is not None]


def _job_id(text: bytes) -> UUID | None:
    """The id; ``None`` for a cron job of ARQ, which has a name instead."""
    try:
        return UUID(text.decode())
    except ValueError:
        return None


def _messages(jobs: Sequence[Waiting], now_ms: int) -> list[bytes | int | str]:
    """ARQ's messages as the script takes them: written once for all jobs of a type and priority, and their ids."""
    told: list[bytes | int | str] = []
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for job in jobs:
        alike[job.type, job.priority].append(str(job.job_id))
    for (job_type, priority), ids in alike.items():
        message = serialize_job(job_type, (_PLACEHOLDER,), {}, None, now_ms, serializer=serialize)
        told += [*message.rsplit(_PLACEHOLDER.encode(), 1), score(priority, now_ms), "".join(ids)]
    return told
