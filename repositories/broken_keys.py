"""Keys of ours that hold something else: moved aside, so that whoever needs them goes on without a person's help.

Anything may stand in a Redis that others can write to. A key that holds another type than is kept under it, or
contents that cannot be worked on, would make every command on it fail for good. It is renamed to ``broken:{key}``,
where it stays a day for whoever wants to know what it was; the name is free again, and what belongs there is written
anew from PostgreSQL. Who moved it says so in the log, once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

RedisType = Literal["string", "list", "set", "zset", "hash"]

PREFIX: Final = "broken:"
"""How the names of keys that were moved aside begin."""

ASIDE: Final = """
local broken = {}
local function aside(key)
    local kind, name = redis.call('TYPE', key).ok, 'broken:' .. key
    redis.call('RENAME', key, name)
    redis.call('PEXPIRE', name, 86400000)
    broken[#broken + 1] = key
    broken[#broken + 1] = kind
end
"""
"""For the head of a Lua script: ``aside(key)`` moves a key; ``broken`` is what :func:`tell` wants to be told."""

# KEYS[1..]: keys. ARGV[1]: '1' to move them whatever their type. ARGV[2..]: the type that each should have. Returns
# what was moved.
_SET_ASIDE: Final = (
    ASIDE
    + """
for place, key in ipairs(KEYS) do
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'none' and (ARGV[1] == '1' or kind ~= ARGV[1 + place]) then aside(key) end
end
return broken
"""
)

_OF_CONTENTS: Final = ("is not an integer", "is not a valid float", "is not a float", "attempt to", "bad argument")
"""In what Redis and Lua say of a value that cannot be worked on."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


def is_broken(error: BaseException) -> bool:
    """Whether Redis refused a command for what stands under its keys."""
    return isinstance(error, ResponseError) and ("WRONGTYPE" in str(error) or _is_of_contents(error))


def _is_of_contents(error: BaseException) -> bool:
    return any(said in str(error) for said in _OF_CONTENTS)


async def mending(
    redis: Redis,
    keys: Mapping[str, RedisType],
    call: Callable[[], Awaitable[T]],
    when_moved: Callable[[], Awaitable[object]] | None = None,
) -> T:
    """Return what ``call`` returns; if a key is in its way, move that aside and call once more.

    Costs nothing while nothing is broken.

    Args:
        redis: where.
        keys: what the call needs, with the type that each is to have.
        call: must do no harm when it is called again after an error.
        when_moved: is called after a key was moved, before the second call.

    Raises:
        redis.exceptions.RedisError: whatever the call raised, if nothing could be moved.
    """
    try:
        return await call()
    except ResponseError as error:
        if not is_broken(error) or not await set_aside(redis, keys, any_type=_is_of_contents(error)):
            raise
        if when_moved is not None:
            await when_moved()
    return await call()


async def set_aside(redis: Redis, keys: Mapping[str, RedisType], *, any_type: bool = False) -> bool:
    """Move aside those of these keys that hold another type than they should, or all; return whether any was moved.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses that.
    """
    script = redis.register_script(_SET_ASIDE)
    return tell(cast("Sequence[Any]", await script(keys=list(keys), args=["1" if any_type else "0", *keys.values()])))


def tell(moved: Sequence[Any]) -> bool:
    """Say which keys were moved aside: key, type, key, type, ...; return whether there were any."""
    texts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in moved]
    for key, found in zip(texts[::2], texts[1::2], strict=True):
        log.warning("redis.key_broken", key=key[:200], found=found, moved_to=f"{PREFIX}{key}"[:200])
    return bool(texts)
