"""How many calls of a kind may run at once against one server, over all workers: a semaphore in Redis.

A slot is a member of a sorted set, scored with the time at which it comes free by itself; times are the Redis
server's. Whoever holds one renews it, so a dead holder's slot comes free within ``hold_seconds``. Without Redis each
process allows itself as many, which the log says once: the server is a little busier, and nothing stops.

Who wants to be alone keeps others from coming in, and enters when those that are there have left.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import uuid4

from redis.asyncio import Redis

from worker.engines.asking_redis import Script

_POLL_SECONDS: Final = (0.01, 0.04)

_ALONE: Final = "alone:"

# KEYS[1] the slots. ARGV: the holder, how many there are, milliseconds until it comes free. Returns whether it was
# taken. A holder that wants to be alone begins with 'alone:'; it is noted while it waits.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, member in ipairs(held) do
    if member ~= ARGV[1] and string.sub(member, 1, 6) == 'alone:' then
        return {0}
    end
end
local alone = string.sub(ARGV[1], 1, 6) == 'alone:'
if not alone and #held >= tonumber(ARGV[2]) then
    return {0}
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {(not alone or redis.call('ZCARD', KEYS[1]) == 1) and 1 or 0}
"""

# KEYS[1] the slots. ARGV: the holder, milliseconds until it comes free, 0 to give it back. Returns nothing of interest.
_KEEP: Final = """
if ARGV[2] == '0' then
    return {redis.call('ZREM', KEYS[1], ARGV[1])}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- XX: a renewal that arrives after the slot was given back must not take it again.
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
return {redis.call('PEXPIRE', KEYS[1], ARGV[2])}
"""


class Slots:
    """A bound on what runs at once, shared by every process that names the same Redis and the same name.

    Args:
        redis: the client; whoever made it closes it.
        name: what the slots are of; a key of Redis is made of it.
        most: slots there are, 1 to 1,000.
        hold_seconds: a holder that does not renew its slot for so long has lost it (0.1 or more).
    """

    def __init__(self, redis: Redis, name: str, most: int, hold_seconds: float = 30.0) -> None:
        if not 1 <= most <= 1_000 or hold_seconds < 0.1:  # noqa: PLR2004 - the bounds of the docstring
            raise ValueError(f"slots {name}: 1 to 1,000, each held 0.1 s or more: not {most} and {hold_seconds}")
        self._key = f"slots:{name}"
        self._most, self._hold_seconds = most, hold_seconds
        self._take = Script(redis, _TAKE, "slots", "zset")
        self._keep = Script(redis, _KEEP, "slots", "zset")
        self._turn = asyncio.Lock()  # one task of this process asks at a time, first come first served
        self._given_back = asyncio.Event()
        self._local = asyncio.Semaphore(most)

    @asynccontextmanager
    async def hold(self, *, alone: bool = False) -> AsyncIterator[bool]:
        """Hold a slot for the length of a block; wait until one is free, however long that takes.

        Args:
            alone: wait until nobody holds one, and let nobody in until the block ends.

        Returns:
            Whether the block has the server for itself, for certain: it wanted that, and Redis knows.
        """
        holder = (_ALONE if alone else "") + uuid4().hex
        # Without Redis this alone is the bound, and with it no process can hold more than there are.
        async with self._local:
            in_redis = await self._taken(holder)
            renewing = asyncio.create_task(self._renew(holder)) if in_redis else None
            try:
                yield alone and in_redis
            finally:
                if renewing is not None:
                    renewing.cancel()
                    try:
                        # Not awaited itself: its cancellation could not be told from that of whoever holds the slot.
                        await asyncio.wait([renewing])
                    finally:
                        await self._keep([self._key], holder, 0)
                        self._given_back.set()

    async def _taken(self, holder: str) -> bool:
        """Wait for a slot; return whether Redis knows of it."""
        async with self._turn:
            try:
                while True:
                    self._given_back.clear()
                    answer = await self._take([self._key], holder, self._most, self._milliseconds)
                    if answer is None or answer[0] == 1:
                        return answer is not None
                    # Another process does not tell this one when it gives a slot back, so it looks, at no fixed beat.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._given_back.wait(), random.uniform(*_POLL_SECONDS))  # noqa: S311 - jitter
            except BaseException:
                await self._keep([self._key], holder, 0)  # it may be noted as one that waits to be alone
                raise

    async def _renew(self, holder: str) -> None:
        while True:
            await asyncio.sleep(self._hold_seconds / 3)
            await self._keep([self._key], holder, self._milliseconds)

    @property
    def _milliseconds(self) -> int:
        return int(self._hold_seconds * 1000)
