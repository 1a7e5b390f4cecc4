"""Other contents under keys of ours, and copies of all keys, for tests of what a shared Redis may hold."""

from typing import Any

from redis.asyncio import Redis

TYPES = ("string", "list", "set", "zset", "hash", "stream")


async def put_a(redis: Redis, kind: str, key: str, text: str = "text") -> None:
    """Have a key hold something of this type, and nothing else."""
    words = {
        "string": ("SET", key, text),
        "list": ("RPUSH", key, text),
        "set": ("SADD", key, text),
        "zset": ("ZADD", key, "1", text),
        "hash": ("HSET", key, "field", text),
        "stream": ("XADD", key, "*", "field", text),
    }
    async with redis.pipeline(transaction=True) as pipe:  # a running worker must not see it missing
        pipe.delete(key)
        pipe.execute_command(*words[kind])
        await pipe.execute()


async def copy_of(redis: Redis) -> dict[bytes, tuple[bytes, int]]:
    """Everything in the database, with the lives that are left, as a backup holds it."""
    keys: list[bytes] = await redis.keys()
    return {key: (await redis.dump(key), max(0, await redis.pttl(key))) for key in keys}


async def restore(redis: Redis, copy: dict[bytes, tuple[bytes, int]]) -> None:
    """Have the running server hold the copy and nothing else."""
    await redis.flushdb()
    for key, (value, life) in copy.items():
        arguments: tuple[Any, ...] = (key, life, value)
        await redis.restore(*arguments)
