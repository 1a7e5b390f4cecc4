"""ARQ's client for an ARQ worker that must not end because of what stands in a queue.

A stock worker reads ids from its queue, and lets any error on the way to a job end the process: an id that is no text,
a message that is no object of ours, a key of another type. :class:`CheckedRedis` looks at what a worker is about to
read, inside Redis and in the same round trip, and moves aside what would end it. A job whose message went that way is
on the record, and the reconciler hands it over again.
"""

from collections.abc import Awaitable, Sequence
from typing import Any, Final, cast

import structlog
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, in_progress_key_prefix, job_key_prefix, retry_key_prefix

from repositories.broken_keys import ASIDE, tell

_AT_A_LOOK: Final = 200
"""As many ids that nobody runs are shown at a look; a worker runs fewer at a time."""

_ODD_IDS: Final = "broken:ids"

# KEYS: the queue, the ids to abort, where odd ids go. ARGV: the latest score, ids to look at, ids to show, and how the
# names of messages, marks and counts of tries begin. Returns the ids, what was moved aside, and how many ids were.
#
# ARQ decodes an id, so an odd one is whatever is no printable ASCII of reasonable length. A score of 0 it takes for
# none, and minus infinity for no number.
_LOOK: Final = (
    ASIDE
    + """
local function is_a(kind, key)
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= kind then aside(key) end
    return found == kind
end
local function is_message(body)
    local read, message = pcall(cjson.decode, body)
    if not read or type(message) ~= 'table' then return false end
    local sent, tries = message.et, message.t
    return type(message.f) == 'string' and type(message.a) == 'table' and type(message.k) == 'table'
        and type(sent) == 'number' and sent >= 0 and sent < 253402300800000
        and (tries == nil or tries == cjson.null or type(tries) == 'number')
end

is_a('zset', KEYS[2])
local ids, odd = {}, {}
if not is_a('zset', KEYS[1]) then return {ids, broken, 0} end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #found, 2 do
    local id, score = found[at], found[at + 1]
    if #ids == tonumber(ARGV[3]) then break end
    if #id > 512 or #id == 0 or string.find(id, '[^\\32-\\126]') then
        odd[#odd + 1] = id
    elseif redis.call('EXISTS', ARGV[5] .. id) == 0 then
        if score == '-inf' or tonumber(score) == 0 then redis.call('ZADD', KEYS[1], 1, id) end
        local tries = ARGV[6] .. id
        if is_a('string', tries) then
            local told = redis.call('GET', tries)
            if #told > 15 or not string.match(told, '^%d+$') then aside(tries) end
        end
        local body = ARGV[4] .. id
        if is_a('string', body) and not is_message(redis.call('GET', body)) then
            aside(body)
            redis.call('ZREM', KEYS[1], id)
        else
            ids[#ids + 1] = id
        end
    end
end
for _, id in ipairs(odd) do
    redis.call('ZREM', KEYS[1], id)
    redis.call('LPUSH', KEYS[3], id)
end
if #odd > 0 then
    redis.call('LTRIM', KEYS[3], 0, 999)
    redis.call('PEXPIRE', KEYS[3], 86400000)
end
return {ids, broken, #odd}
"""
)

log = structlog.get_logger(__name__)


class CheckedRedis(ArqRedis):
    """As its base, but that a worker's look into its queue shows only what it can work with."""

    def zrangebyscore(self, name: Any, min: Any, max: Any, *args: Any, **options: Any) -> Awaitable[Any]:  # noqa: A002 - redis-py's names
        """Return ids as ``ZRANGEBYSCORE`` does; as ARQ's worker asks (by ``start`` and ``num``), those it can run."""
        if min == float("-inf") and "num" in options and not args:
            return self._look(name, max, int(options["num"]))
        return cast("Awaitable[Any]", super().zrangebyscore(name, min, max, *args, **options))

    async def _look(self, queue: str, latest: float, many: int) -> list[bytes]:
        script = self.register_script(_LOOK)
        ids, moved, odd = cast(
            "Sequence[Any]",
            await script(
                keys=[queue, abort_jobs_ss, _ODD_IDS],
                args=[latest, many, _AT_A_LOOK, job_key_prefix, in_progress_key_prefix, retry_key_prefix],
            ),
        )
        tell(moved)
        if odd:
            log.warning("queue.ids_moved", queue=queue, ids=odd, moved_to=_ODD_IDS)
        return list(ids)
