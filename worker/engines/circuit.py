"""Whether an engine is asked at all: a circuit that all workers share, in Redis.

An engine that is down is not asked by every job of every worker: after some calls in a row found it unavailable the
circuit opens, and while it is open every call is refused at once, saying for how long. When that time is over one
worker, and no other, tries the engine: an answer closes the circuit, and none opens it again for twice as long, up to a
bound. Failures are counted for each part of the engine, so that a part that works does not hide one that does not.

An engine that asks to be left alone for a time (``Retry-After``) is: the circuit opens at once, for so long.

Without Redis the circuit counts as closed: it saves work, and nothing rests on it. Times are the Redis server's.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from redis.asyncio import Redis

from worker.engines.asking_redis import Script
from worker.engines.base import EngineError, EngineUnavailableError

_PROBE_SECONDS: Final = 30
_KEPT_SECONDS: Final = 3_600
_LONGEST_REASON: Final = 300
_LONGEST_ASKED_SECONDS: Final = 300.0

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS[1] the circuit. ARGV[1]: milliseconds that a probe may take. Returns what to do, milliseconds left, the reason,
# and for a closed circuit whether a failure is noted.
_ENTER: Final = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'open_until', 'probe_until', 'reason')
if not found[1] then
    return {'closed', redis.call('EXISTS', KEYS[1]), ''}
end
local left = math.max(tonumber(found[1]), tonumber(found[2] or '0')) - now
if left > 0 then
    return {'open', left, found[3] or ''}
end
redis.call('HSET', KEYS[1], 'probe_until', now + ARGV[1])
return {'probe', 0, found[3] or ''}
"""
)

# KEYS[1] the circuit. ARGV: the part, the reason, failures that open it, milliseconds of the first cooling, of the
# longest, the jitter (0 to 1), milliseconds that all this is kept, '1' from a probe, milliseconds that the engine asked
# to be left alone (then it opens at once), 0 if it did not. Returns milliseconds, 0 if it stays closed or was open.
_FAIL: Final = (
    _NOW
    + """
local failures = redis.call('HINCRBY', KEYS[1], 'failures:' .. ARGV[1], 1)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
local is_open = redis.call('HEXISTS', KEYS[1], 'open_until') == 1
local asked = tonumber(ARGV[9])
if ARGV[8] ~= '1' and (is_open or (asked == 0 and failures < tonumber(ARGV[3]))) then
    return {0}
end
local before = tonumber(redis.call('HGET', KEYS[1], 'cooling') or '0')
local cooling = math.max(asked, math.min(math.max(before * 2, tonumber(ARGV[4])), tonumber(ARGV[5])))
local waits = math.floor(cooling * (1 + tonumber(ARGV[6]) * 0.25))
redis.call('HSET', KEYS[1], 'cooling', asked == 0 and cooling or before, 'open_until', now + waits, 'reason', ARGV[2])
redis.call('HSETNX', KEYS[1], 'opened_at', now)
redis.call('HDEL', KEYS[1], 'probe_until')
redis.call('PEXPIRE', KEYS[1], ARGV[7] + waits)
return {waits}
"""
)

# KEYS[1] the circuit. ARGV[1]: the part that answered; '' from a probe, which closes the circuit. Returns milliseconds
# that it was open.
_ANSWERED: Final = (
    _NOW
    + """
if ARGV[1] ~= '' then
    redis.call('HDEL', KEYS[1], 'failures:' .. ARGV[1])
    return {0}
end
local opened_at = redis.call('HGET', KEYS[1], 'opened_at')
redis.call('DEL', KEYS[1])
return {opened_at and now - opened_at or 0}
"""
)

# KEYS[1] the circuit. Returns whether it is open, milliseconds left, milliseconds since it opened, reason, most
# failures.
_STATE: Final = (
    _NOW
    + """
local all, most = redis.call('HGETALL', KEYS[1]), 0
local fields = {}
for at = 1, #all, 2 do
    fields[all[at]] = all[at + 1]
    if string.sub(all[at], 1, 9) == 'failures:' then
        most = math.max(most, tonumber(all[at + 1]))
    end
end
local is_open = fields.open_until and 1 or 0
local left = math.max(0, tonumber(fields.open_until or '0') - now)
return {is_open, left, fields.opened_at and now - fields.opened_at or 0, fields.reason or '', most}
"""
)


@dataclass(frozen=True, slots=True)
class CircuitState:
    """What a person sees who asks why nothing runs.

    Attributes:
        is_open: calls are refused, or about to be tried by one worker.
        reason: why it opened; empty while it is closed.
        failures: calls in a row, of one part, that found the engine unavailable.
        open_seconds: how long ago it opened; 0 while it is closed.
        retry_after_seconds: until the engine is tried next; 0 if that is due.
    """

    is_open: bool
    reason: str
    failures: int
    open_seconds: float
    retry_after_seconds: float


class Circuit:
    """One engine's circuit.

    Args:
        redis: the client; whoever made it closes it.
        name: of the engine and its server; a key of Redis is made of it.
        probe: asks the engine whether it answers, and raises :class:`EngineUnavailableError` if not.
        failures: calls in a row that open the circuit (1 or more).
        cooling_seconds: how long it stays open first.
        longest_cooling_seconds: bound on the doubling of that.
    """

    def __init__(
        self,
        redis: Redis,
        name: str,
        probe: Callable[[], Awaitable[None]],
        *,
        failures: int = 5,
        cooling_seconds: float = 2.0,
        longest_cooling_seconds: float = 60.0,
    ) -> None:
        if failures < 1 or not 0 < cooling_seconds <= longest_cooling_seconds:
            raise ValueError(
                f"circuit {name}: needs failures of 1 or more ({failures}) and 0 < cooling ({cooling_seconds}) <= "
                f"longest cooling ({longest_cooling_seconds}) seconds"
            )
        self._name, self._key = name, f"circuit:{name}"
        self._probe, self._failures = probe, failures
        self._cooling, self._longest = cooling_seconds, longest_cooling_seconds
        self._enter = Script(redis, _ENTER, "circuit", "hash")
        self._fail = Script(redis, _FAIL, "circuit", "hash")
        self._answered = Script(redis, _ANSWERED, "circuit", "hash")
        self._state = Script(redis, _STATE, "circuit", "hash")
        self._log = structlog.get_logger(__name__)

    async def state(self) -> CircuitState | None:
        """Return how it stands, ``None`` if Redis does not answer; nothing is tried or changed by that."""
        answer = await self._state([self._key])
        if answer is None:
            return None
        is_open, left, since, reason, failures = answer
        return CircuitState(
            is_open=is_open == 1,
            reason=reason,
            failures=failures,
            open_seconds=since / 1000,
            retry_after_seconds=left / 1000,
        )

    @asynccontextmanager
    async def guarding(self, part: str, probe: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """Run a block against the engine, and note whether it was unavailable.

        Args:
            part: of the engine that the block needs; failures are counted for each.
            probe: asks what this block needs, instead of what the circuit was made with.

        Raises:
            EngineUnavailableError: the circuit is open, or the block raised it.
        """
        has_failures = await self._admit(probe or self._probe)
        try:
            yield
        except EngineUnavailableError as error:
            await self._note(part, error, is_probe=False)
            raise
        except EngineError:
            await self._note_answer(part, has_failures=has_failures)  # it answers, if not what was hoped for
            raise
        await self._note_answer(part, has_failures=has_failures)

    async def _admit(self, probe: Callable[[], Awaitable[None]]) -> bool:
        """Return if calls are let through, with whether failures stand noted; try the engine if that is due."""
        answer = await self._enter([self._key], _PROBE_SECONDS * 1000)
        if answer is None:
            return False
        verdict, number, reason = answer
        if verdict == "closed":
            return bool(number)
        if verdict == "open":
            seconds = number / 1000
            raise EngineUnavailableError(
                "engine_unavailable", f"{reason}; it is tried again in {seconds:.1f} s", retry_after=seconds
            )
        try:
            await probe()
        except EngineUnavailableError as error:
            waits = await self._note("probe", error, is_probe=True)
            raise EngineUnavailableError("engine_unavailable", str(error), retry_after=waits or None) from error
        except EngineError:
            pass  # it answers; the call that comes now is told the same, with its own subject
        closed = await self._answered([self._key], "")
        self._log.info("circuit.closed", circuit=self._name, open_seconds=0 if closed is None else closed[0] / 1000)
        return False

    async def _note(self, part: str, error: EngineUnavailableError, *, is_probe: bool) -> float:
        """Count a failure; return the seconds for which that opened the circuit, 0 if it did not."""
        reason = str(error)
        answer = await self._fail(
            [self._key],
            part,
            reason[:_LONGEST_REASON],
            self._failures,
            int(self._cooling * 1000),
            int(self._longest * 1000),
            random.random(),  # noqa: S311 - jitter
            _KEPT_SECONDS * 1000,
            int(is_probe),
            int(min(error.retry_after or 0.0, _LONGEST_ASKED_SECONDS) * 1000),
        )
        seconds = 0.0 if answer is None else answer[0] / 1000
        if seconds:
            self._log.warning("circuit.opened", circuit=self._name, reason=reason, seconds=seconds)
        return seconds

    async def _note_answer(self, part: str, *, has_failures: bool) -> None:
        if has_failures:
            await self._answered([self._key], part)
