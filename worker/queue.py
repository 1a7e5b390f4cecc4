"""Handing job ids to ARQ, taking them from it, and asking ARQ about them.

An ARQ message carries a job id and nothing else, as JSON: code must never run because of what stands in Redis,
which is why ARQ's default serializer, pickle, is not used. Keys and message format are ARQ's own, so a stock worker and
ours can drain one queue together. Everything here can be repeated: a message that is there already is written again as
it was, and PostgreSQL decides whether a job may start.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID

import structlog
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

from repositories.broken_keys import RedisType, mending, tell
from repositories.jobs import Waiting
from repositories.queue_names import DEFAULT_QUEUE, QUEUE_NAME
from worker.checked_redis import CheckedRedis
from worker.queue_scripts import FORGET, HAND_OVER, STRANDED, TAKE

LOWEST_PRIORITY: Final = 9
PRIORITY_STEP_MS: Final = 10**12  # about 31 years: no waiting time lifts a job over one of a better priority
SAFELY_PAST_MS: Final = 24 * 3_600_000
"""How far before the present even the last priority stands: a stock worker compares with its own clock, which may be
behind."""
SIDE_QUEUE: Final = "arq:cron"
"""Where what is no job of ours waits (ARQ's own crons), so that it never stands behind the backlog."""

TRIED_AGAIN: Final = (RedisConnectionError, RedisTimeoutError)
"""The errors after which a stock worker's command is tried again."""

_QUEUES = "arq:queues"  # the names of all queues that ever had a message
_WAKE = "arq:wake:"
_KNOWN = "arq:known"  # the run id of the Redis process to which everything was handed over
_CHUNK = 1_000
_MARK_MS = 5_000  # longer than a claim takes; a worker that dies in one delays its job by no more than this
_BODY = job_key_prefix.encode()
_NAME = re.compile(QUEUE_NAME.encode())
_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"

_FORM: Final[dict[str, type | tuple[type, ...]]] = {"f": str, "a": list, "k": dict, "t": (int, type(None)), "et": int}
_LATEST_MS: Final = 253_402_300_800_000  # the year 10,000

_KEPT = (job_key_prefix, in_progress_key_prefix, retry_key_prefix)
_LEFT_BEHIND = (result_key_prefix, retry_key_prefix, in_progress_key_prefix)

T = TypeVar("T")
log = structlog.get_logger(__name__)


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
    """Read a message; anything that is not a JSON object of ARQ's form is an error, which ARQ logs and drops.

    Raises:
        ValueError: it is not JSON, or nested deeper than Python reads.
        TypeError: it is not such an object; beyond this ARQ's worker believes what it says, and would end.
    """
    try:
        loaded = json.loads(message)
    except RecursionError:
        raise ValueError("an ARQ message is not nested so deeply") from None
    if not isinstance(loaded, dict):
        raise TypeError("an ARQ message is a JSON object")
    for name, kinds in _FORM.items():
        if not isinstance(loaded.get(name), kinds):
            raise TypeError(f"an ARQ message has another {name!r}")
    if not 0 <= loaded["et"] < _LATEST_MS:
        raise TypeError("an ARQ message was sent at a time")
    return loaded


def redis_settings(url: str) -> RedisSettings:
    """ARQ's settings for ``url``; a command that meets a lost connection is tried three times."""
    settings = RedisSettings.from_dsn(url)
    settings.conn_timeout = 5
    settings.retry_on_timeout = True
    settings.retry_on_error = list(TRIED_AGAIN)
    settings.retry = patience()
    return settings


def patience() -> Retry:
    """How a command that meets a lost connection is tried again: three times."""
    return Retry(ExponentialBackoff(cap=1, base=0.05), 3)


def connect(url: str, max_connections: int = 10, **options: Any) -> ArqRedis:
    """An ARQ client for ``url``; it connects when first used, and a caller waits for a free connection up to 5 s."""
    return ArqRedis(_pool(url, max_connections, **options), job_serializer=serialize, job_deserializer=deserialize)


def connect_worker(url: str, max_connections: int, queue: str, **options: Any) -> CheckedRedis:
    """The client of an ARQ worker: as :func:`connect`, with ``queue`` (a key) as the one that it takes jobs from."""
    return CheckedRedis(
        _pool(url, max_connections, **options),
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=queue,
    )


def _pool(url: str, max_connections: int, **options: Any) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=5, socket_connect_timeout=5, socket_timeout=10, **options
    )


def offset(priority: int) -> int:
    """How far from the time of its hand-over a job stands in the queue's sorted set (ms): lower is sooner.

    Never in the future, so stock ARQ takes it.
    """
    return (priority - LOWEST_PRIORITY) * PRIORITY_STEP_MS - SAFELY_PAST_MS


def queue_key(name: str) -> str:
    """The sorted set of a queue: ARQ's own for ``default``, and one beside it for any other."""
    return default_queue_name if name == DEFAULT_QUEUE else f"{default_queue_name}:{name}"


def queue_of(key: str) -> str | None:
    """The queue whose sorted set this is; ``None`` if it is no queue of ours."""
    name = DEFAULT_QUEUE if key == default_queue_name else key.removeprefix(f"{default_queue_name}:")
    return name if queue_key(name) == key and _NAME.fullmatch(name.encode()) else None


async def asking(
    redis: ArqRedis,
    keys: Mapping[str, RedisType],
    call: Callable[[], Awaitable[T]],
    when_moved: Callable[[], Awaitable[object]] | None = None,
) -> T:
    """Return what ``call`` returns; a key in its way that holds something else is moved aside first.

    Args:
        redis: where.
        keys: what the call needs, and of which type each is.
        call: does no harm when it is called twice.
        when_moved: is called after a key was moved.

    Raises:
        QueueUnavailableError: Redis does not answer.
    """
    try:
        return await mending(redis, keys, call, when_moved)
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
        by_queue = groupby(sorted(jobs, key=lambda job: job.queue), key=lambda job: job.queue)
        for name, group in by_queue:
            waiting, queue = list(group), queue_key(name)
            needed: dict[str, RedisType] = {queue: "zset", _QUEUES: "set", _WAKE + queue: "list"}
            keys = [*needed, *(() if new else _LEFT_BEHIND)]
            for start in range(0, len(waiting), _CHUNK):
                told = [name, job_key_prefix, *_messages(waiting[start : start + _CHUNK])]
                await self._ask(needed, partial(self._hand_over, keys=keys, args=told))

    async def take(self, queues: Sequence[str], limit: int) -> list[UUID]:
        """Take up to ``limit`` jobs (1 to 1,000) out of ``queues``, the first one first, in one round trip.

        A job that is taken stands in no queue and is marked for five seconds: until it is claimed on the record, nobody
        else starts it. What is no job of ours moves to :data:`SIDE_QUEUE`.

        Raises:
            QueueUnavailableError: Redis does not answer. What was taken then is handed over again by the reconciler.
        """
        keys = [queue_key(name) for name in queues]
        told: list[int | str] = [min(limit, _CHUNK), _MARK_MS, SIDE_QUEUE, in_progress_key_prefix, _WAKE]
        taken = await self._ask(dict.fromkeys(keys, "zset"), partial(self._take, keys=keys, args=told))
        return [UUID(key.decode()) for key in taken]

    async def wait_for_work(self, queues: Sequence[str], seconds: float) -> bool:
        """Wait until work arrives in one of ``queues``, at most ``seconds``; one arrival wakes one waiting worker.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        keys = [_WAKE + queue_key(name) for name in queues]

        async def wait() -> bool:
            called: Awaitable[Any] = self._redis.execute_command("BLPOP", *keys, seconds)  # type: ignore[no-untyped-call]  # redis-py's own blpop takes whole seconds
            return await called is not None

        return await self._ask(dict.fromkeys(keys, "list"), wait)

    async def wake(self, queues: Sequence[str]) -> None:
        """Call one idle worker to each of ``queues``.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        keys = [_WAKE + queue_key(name) for name in queues]

        async def call() -> None:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.lpush(key, "1")
                    pipe.ltrim(key, 0, 0)
                await pipe.execute()

        await self._ask(dict.fromkeys(keys, "list"), call)

    async def forget(self, ids: Collection[UUID]) -> None:
        """Drop body and marks of jobs that were taken and are done with.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        every = list(map(str, ids))
        for start in range(0, len(every), _CHUNK):
            await self._ask({}, partial(self._forget, keys=_KEPT, args=["".join(every[start : start + _CHUNK])]))

    async def remove(self, ids: Collection[UUID]) -> None:
        """Take messages out of whatever queue they stand in.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        if not ids:
            return
        keys = [str(job_id) for job_id in ids]
        queues = [queue_key(name) for name in await self.names()]

        async def remove() -> None:
            async with self._redis.pipeline(transaction=False) as pipe:
                for queue in queues:
                    pipe.zrem(queue, *keys)
                pipe.delete(*(prefix + key for key in keys for prefix in (job_key_prefix, retry_key_prefix)))
                await pipe.execute()

        await self._ask(dict.fromkeys(queues, "zset"), remove)

    async def names(self) -> list[str]:
        """Return the queues that had a message since Redis was emptied last, ``default`` always among them.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        found = await self._ask({_QUEUES: "set"}, lambda: cast("Awaitable[set[bytes]]", self._redis.smembers(_QUEUES)))
        if odd := [name for name in found if not _NAME.fullmatch(name)]:
            await self._ask({}, lambda: cast("Awaitable[int]", self._redis.srem(_QUEUES, *odd)))
            log.warning("queue.name_dropped", names=len(odd), first=odd[0].decode(errors="replace")[:64])
        return sorted({DEFAULT_QUEUE, *(name.decode() for name in found if _NAME.fullmatch(name))})

    async def length(self, queue: str = DEFAULT_QUEUE) -> int:
        """How many messages wait in a queue.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        key = queue_key(queue)
        return int(await self._ask({key: "zset"}, lambda: self._redis.zcard(key)))

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
        queues = [queue_key(name) for name in await self.names()]

        async def look() -> list[int | None]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for queue in queues:
                    for job_id in ids:
                        pipe.zrank(queue, str(job_id))
                return list(await pipe.execute())

        ranks = await self._ask(dict.fromkeys(queues, "zset"), look)
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
        for name, group in by_queue:
            waiting, queue = list(group), queue_key(name)
            for start in range(0, len(waiting), _CHUNK):
                chunk = waiting[start : start + _CHUNK]
                told = [job_key_prefix, in_progress_key_prefix, *(str(job.job_id) for job in chunk)]
                missing, marked, moved = await self._ask(
                    {queue: "zset"}, partial(self._stranded, keys=[queue], args=told)
                )
                tell(moved)
                found.missing.extend(chunk[number] for number in missing)
                found.marked.extend(chunk[number] for number in marked)
        return found

    async def begin_check(self) -> tuple[str, bool, bool]:
        """Say which process of Redis this is, whether it was handed all that waits, and whether it knows nothing.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        run_id = str((await self._ask({}, lambda: self._redis.info("server")))["run_id"])
        noted = await self._ask({_KNOWN: "string"}, lambda: self._redis.get(_KNOWN))
        known = noted == run_id.encode()
        if not known:
            await self._ask({}, lambda: self._redis.set(_KNOWN, "being filled"))
        return run_id, known, noted is None

    async def end_check(self, run_id: str) -> None:
        """Note that all that waits was handed over to the process ``run_id``, unless Redis was emptied meanwhile.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        await self._ask({}, lambda: self._redis.set(_KNOWN, run_id, xx=True))

    async def bodies(self, cursor: int = 0) -> tuple[int, list[UUID]]:
        """Walk over the jobs whose message body is in Redis, wherever they stand: pass the cursor returned.

        Looks at about ten thousand of Redis's keys, whatever they are.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        match = job_key_prefix + "*"
        following, keys = await self._ask({}, lambda: self._redis.scan(cursor, match=match, count=10 * _CHUNK))
        return int(following), [job_id for key in keys if (job_id := _job_id(key.removeprefix(_BODY))) is not None]

    async def ids(self, queue: str = DEFAULT_QUEUE, cursor: int = 0) -> tuple[int, list[UUID]]:
        """Walk over the ids in a queue: pass the cursor returned, until it is 0 again.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        key = queue_key(queue)
        following, members = await self._ask({key: "zset"}, lambda: self._redis.zscan(key, cursor=cursor, count=_CHUNK))
        found = (_job_id(member) for member, _ in members)
        return int(following), [job_id for job_id in found if job_id is not None]

    async def _ask(self, keys: Mapping[str, RedisType], call: Callable[[], Awaitable[T]]) -> T:
        # What stood in a queue that was moved is gone: the reconciler looks at all that waits, not at a part.
        when_moved = (lambda: self._redis.delete(_KNOWN)) if "zset" in keys.values() else None
        return await asking(self._redis, keys, call, when_moved)


def _job_id(text: bytes) -> UUID | None:
    """The id; ``None`` for a cron job of ARQ, which has a name instead."""
    try:
        return UUID(text.decode())
    except ValueError:
        return None


def _messages(jobs: Sequence[Waiting]) -> list[bytes | int | str]:
    """ARQ's messages as the script takes them: written once for all jobs of a type and priority, and their ids."""
    told: list[bytes | int | str] = []
    now_ms = int(time.time() * 1000)  # only told: a stock worker logs how long a message was on its way
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for job in jobs:
        alike[job.type, job.priority].append(str(job.job_id))
    for (job_type, priority), ids in alike.items():
        message = serialize_job(job_type, (_PLACEHOLDER,), {}, None, now_ms, serializer=serialize)
        told += [*message.rsplit(_PLACEHOLDER.encode(), 1), offset(priority), "".join(ids)]
    return told
