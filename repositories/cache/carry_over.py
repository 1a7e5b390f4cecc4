"""Bringing Redis up to date after an outage, before it serves again.

Several processes come back from one outage, seconds apart, and none knows what the others did. Whoever is first carries
its values over; a later one only removes what it wrote (and still adds to counters): another process may have replaced
or deleted that key since, and a value too few is a miss where a value too old is a lie.

What this cannot know: a process cut off from Redis alone, while others went on, is the first to return, and its values
replace theirs until they expire or are deleted.
"""

import os
import secrets
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Final

from redis.exceptions import ResponseError

from repositories.broken_keys import set_aside
from repositories.cache.errors import CacheUnavailableError, OutageReason
from repositories.cache.journal import Base, Change, Journal
from repositories.cache.redis_store import RedisStore

RETURN_SECONDS: Final = 60
"""How long the first to return stays known: far longer than the 5 seconds that the others' probes are apart."""
_BATCH_CHANGES: Final = 200
_BATCH_BYTES: Final = 4 * 1024 * 1024

Command = list[str | bytes | int]


@cache
def _token(pid: int) -> str:
    return f"{pid}-{secrets.token_hex(8)}"


def process_token() -> str:
    """Return a name for this process that no other has, now or later; a fork gets one of its own."""
    return _token(os.getpid())


async def is_first_to_return(redis: RedisStore, process: str) -> bool:
    """Return whether no other process has come back to this namespace within ``RETURN_SECONDS``.

    This is the probe as well: it writes, where a read-only or full Redis would still answer a PING.

    Raises:
        CacheUnavailableError: Redis takes no writes.
    """
    marker, lifetime_ms = redis.bookkeeping_name("returned"), RETURN_SECONDS * 1000
    if await redis.command("SET", marker, process, "PX", lifetime_ms, "NX") is not None:
        return True
    try:
        if await redis.command("GET", marker) != process.encode():
            return False
    except TypeError:  # somebody else's: without this Redis would never serve this process again
        await redis.run(lambda: set_aside(redis.client, {marker: "string"}))
        return await is_first_to_return(redis, process)
    await redis.command("PEXPIRE", marker, lifetime_ms)
    return True


async def carry_over(redis: RedisStore, journal: Journal, *, now: float, with_values: bool) -> None:
    """Apply a journal to Redis: its patterns, then its changes in batches of all or nothing.

    Asked again after an error it comes to the same end, but for counters, which an answer lost on the way counts twice.

    Args:
        redis: the namespace.
        journal: what to apply; not changed.
        now: the time on the journal's clock.
        with_values: ``False`` removes the keys that were written instead of writing them.

    Raises:
        CacheUnavailableError: Redis went away again.
    """
    for pattern in journal.patterns:
        await redis.remove_matching(pattern)
    commands = _commands(redis, journal, now=now, with_values=with_values)
    while batch := _next_batch(commands):
        answers = await redis.pipeline(batch, atomic=True)
        for command, answer in zip(batch, answers, strict=True):
            # A counter that met a value which is none: increments find that out at once, a journal only now.
            if isinstance(answer, ResponseError) and command[0] != "INCRBY":
                raise CacheUnavailableError(OutageReason.REFUSED, f"{command[0]!r} failed: {type(answer).__name__}")


def _commands(redis: RedisStore, journal: Journal, *, now: float, with_values: bool) -> Iterator[Command]:
    for key, noted in journal.changes.items():
        change = noted.at(now)
        if change is None:
            continue
        name = redis.name(key)
        if change.base is Base.DROP or (change.base is Base.PUT and not with_values):
            yield ["UNLINK", name]
        elif change.base is Base.KEEP or with_values:
            yield from _kept(name, change, now)


def _kept(name: str, change: Change, now: float) -> Iterator[Command]:
    if change.base is not Base.KEEP:
        lifetime: Command = [] if change.ends_at is None else ["PX", _left_ms(change.ends_at, now)]
        condition: Command = ["NX"] if change.base is Base.PUT_IF_ABSENT else []
        yield ["SET", name, change.value, *lifetime, *condition]
    if change.amount is not None:
        yield ["INCRBY", name, change.amount]
    if change.renewed_to is not None:
        yield ["PEXPIRE", name, _left_ms(change.renewed_to, now)]


def _next_batch(commands: Iterator[Command]) -> list[Command]:
    batch: list[Command] = []
    size = 0
    for command in islice(commands, _BATCH_CHANGES):
        batch.append(command)
        size += sum(len(part) for part in command if isinstance(part, bytes))
        if size >= _BATCH_BYTES:
            break
    return batch


def _left_ms(ends_at: float, now: float) -> int:
    return max(1, round((ends_at - now) * 1000))
