"""One contract for every cache backend: memory, Redis, and the pair of them with Redis there and away."""

import asyncio
import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from redis.asyncio import Redis

from repositories.cache import CacheBackend, MemoryBackend, RedisBackend
from repositories.cache.lru import LruStore

SOON = 0.06


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Shape(Enum):
    ROUND = (1, "round")


class Person(BaseModel):
    id: UUID
    born: date
    tags: set[str]


@dataclass
class Point:
    x: int
    y: Decimal


ID = UUID("0199e8a4-0000-7000-8000-000000000001")
SAME = [
    None,
    True,
    False,
    0,
    -(2**63),
    2**63 - 1,
    2**63,
    10**40,
    1.5,
    float("inf"),
    "",
    "42",
    "héllo \x00 \ud800",
    b"",
    bytes(range(256)),
    bytearray(b"ab"),
    datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC),
    datetime(2026, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    datetime(2026, 2, 3),  # noqa: DTZ001 - a naive one must come back naive
    date(2026, 2, 3),
    datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC).time(),
    timedelta(days=-1, microseconds=1),
    ID,
    Decimal("1.10"),
    {1, 2},
    frozenset({"a"}),
    (1, ("a", b"b")),
    [],
    {},
    {"$": "uuid", "v": "not one"},
    {1: "int", "1": "text", None: 0, (1, 2): {"deep": [ID, {Decimal(1)}]}},
    [[{"a": [None, {"b": (b"c",)}]}]],
]


@pytest.mark.parametrize("value", SAME, ids=lambda value: f"{type(value).__name__}-{value!r:.20}")
async def test_a_value_comes_back_as_it_was(backend: CacheBackend, value: Any) -> None:
    assert await backend.set("key", value) is True

    back = await backend.get("key", "missing")

    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Shape.ROUND, (1, "round")),
        (Person(id=ID, born=date(1999, 1, 2), tags={"a"}), {"id": ID, "born": date(1999, 1, 2), "tags": {"a"}}),
        (Point(1, Decimal("0.5")), {"x": 1, "y": Decimal("0.5")}),
        ([Point(1, Decimal(2))], [{"x": 1, "y": Decimal(2)}]),
    ],
)
async def test_enums_come_back_as_values_and_models_and_dataclasses_as_dicts(
    backend: CacheBackend, value: Any, back: Any
) -> None:
    await backend.set("key", value)

    assert await backend.get("key") == back


async def test_five_megabytes_come_back_whole(backend: CacheBackend) -> None:
    content = bytes(range(256)) * (5 * 4096)

    await backend.set("big", content)

    assert await backend.get("big") == content


async def test_what_comes_out_is_a_copy(backend: CacheBackend) -> None:
    value = {"tags": ["a"]}
    await backend.set("key", value)
    value["tags"].append("b")
    (await backend.get("key"))["tags"].append("c")

    assert await backend.get("key") == {"tags": ["a"]}


async def test_a_stored_none_is_told_apart_from_nothing(backend: CacheBackend) -> None:
    await backend.set("none", None)

    assert await backend.get("none", "default") is None
    assert await backend.get("nothing", "default") == "default"
    assert await backend.exists("none") is True
    assert await backend.exists("nothing") is False
    assert await backend.get_many(["none", "nothing"]) == {"none": None}


async def test_many_values_are_set_read_and_deleted_by_key(backend: CacheBackend) -> None:
    values = {f"key:{number}": number for number in range(1200)}
    assert await backend.set_many(values) is True

    assert await backend.get_many([*values, "nothing", "key:1"]) == values
    assert await backend.delete_many(["key:0", "key:1", "nothing", "key:0"]) == 2
    assert await backend.get_many(["key:0", "key:1", "key:2"]) == {"key:2": 2}
    assert await backend.set_many({}) is True
    assert await backend.get_many([]) == {}
    assert await backend.delete_many([]) == 0


async def test_delete_says_whether_something_was_there(backend: CacheBackend) -> None:
    await backend.set("key", None)

    assert await backend.delete("key") is True
    assert await backend.delete("key") is False


async def test_set_if_absent_leaves_what_is_there(backend: CacheBackend) -> None:
    assert await backend.set_if_absent("key", "first", ttl=60) is True
    assert await backend.set_if_absent("key", "second") is False
    assert await backend.get("key") == "first"
    await backend.delete("key")
    assert await backend.set_if_absent("key", "third") is True


async def test_counters_start_from_nothing_and_keep_their_lifetime(backend: CacheBackend) -> None:
    assert await backend.increment("n") == 1
    assert await backend.increment("n", 41) == 42
    assert await backend.decrement("n", 2) == 40
    assert await backend.increment("n", -50) == -10
    assert await backend.get("n") == -10
    await backend.expire("n", 60)
    await backend.increment("n")
    left = await backend.ttl("n")
    assert left is not None
    assert 50 < left <= 60


async def test_a_stored_whole_number_is_a_counter(backend: CacheBackend) -> None:
    await backend.set("n", 5)

    assert await backend.increment("n", 2) == 7


@pytest.mark.parametrize("value", ["five", "5", 5.0, None, True, [1], 2**63, b"5"])
async def test_counting_on_something_else_is_a_clear_error_and_changes_nothing(
    backend: CacheBackend, value: Any
) -> None:
    await backend.set("thing", value)

    with pytest.raises(TypeError, match="cannot increment cache key 'thing'"):
        await backend.increment("thing")

    assert await backend.get("thing") == value


async def test_a_counter_refuses_to_leave_64_bits(backend: CacheBackend) -> None:
    await backend.set("n", 2**63 - 2)

    with pytest.raises(OverflowError, match="'n' moved by 2"):
        await backend.increment("n", 2)

    assert await backend.increment("n") == 2**63 - 1


@pytest.mark.parametrize("ttl", [60, 60.0, timedelta(minutes=1)])
async def test_a_lifetime_is_seconds_or_a_timedelta(backend: CacheBackend, ttl: float | timedelta) -> None:
    await backend.set("key", "value", ttl=ttl)

    left = await backend.ttl("key")

    assert left is not None
    assert 59 < left <= 60


async def test_ttl_tells_for_ever_from_missing(backend: CacheBackend) -> None:
    await backend.set("key", "value")

    assert await backend.ttl("key") is None
    assert await backend.ttl("nothing") == 0.0


async def _gone(backend: CacheBackend, key: str) -> float:
    """Wait for a key to expire; return when it was first seen gone."""
    async with asyncio.timeout(5):
        while True:
            if not await backend.exists(key):
                return time.monotonic()
            await asyncio.sleep(0)


async def test_an_expired_value_is_gone_for_every_call(backend: CacheBackend) -> None:
    begun = time.monotonic()
    await backend.set("key", "value", ttl=SOON)
    await backend.set_many({"one": 1, "two": 2}, ttl=SOON)
    await backend.set("stays", "value")
    assert await backend.get("key") == "value"

    seen_gone = await _gone(backend, "two")

    assert seen_gone - begun >= SOON - 0.002  # Redis rounds to milliseconds
    assert await backend.get_many(["key", "one", "two", "stays"]) == {"stays": "value"}
    assert await backend.get_keys() == ["stays"]
    assert await backend.delete("key") is False
    assert await backend.expire("one", 60) is False
    assert await backend.increment("two") == 1
    assert await backend.ttl("two") is None


async def test_setting_again_forgets_the_earlier_lifetime(backend: CacheBackend) -> None:
    await backend.set("key", "short", ttl=60)
    await backend.set("key", "long")

    assert await backend.ttl("key") is None


async def test_expire_renews_a_lifetime_or_ends_it_now(backend: CacheBackend) -> None:
    await backend.set("key", "value")

    assert await backend.expire("key", timedelta(seconds=60)) is True
    assert 59 < (await backend.ttl("key") or 0) <= 60
    assert await backend.expire("nothing", 60) is False
    assert await backend.expire("key", 0) is True
    assert await backend.exists("key") is False
    assert await backend.expire("key", -1) is False


AWKWARD_KEYS = [
    "user:1",
    "user:12",
    "user:2",
    "user[1]",
    "user*",
    "us?r",
    "usér:1",
    "back\\slash",
    "a-b",
    "a]b",
    "x\ny",
    "[x]",
]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*", AWKWARD_KEYS),
        ("user:*", ["user:1", "user:12", "user:2"]),
        ("user:?", ["user:1", "user:2"]),
        ("user:[12]", ["user:1", "user:2"]),
        ("user:[^1]", ["user:2"]),
        ("user:[1-2]*", ["user:1", "user:12", "user:2"]),
        ("user:[2-1]", ["user:1", "user:2"]),
        (r"user\[1\]", ["user[1]"]),
        (r"user\*", ["user*"]),
        (r"us\?r", ["us?r"]),
        ("us?r*", ["us?r", "user*", "user:1", "user:12", "user:2", "user[1]"]),
        ("us??r:1", ["usér:1"]),  # a glob counts bytes: é is two
        (r"back\\*", ["back\\slash"]),
        ("a[a-]b", []),
        ("a[]]b", []),
        (r"a[\]]b", ["a]b"]),
        ("x?y", ["x\ny"]),
        (r"\[*", ["[x]"]),
        ("*:1*", ["user:1", "user:12", "usér:1"]),
        ("user:1", ["user:1"]),
        ("[", []),
        ("nothing*", []),
    ],
)
async def test_patterns_mean_what_redis_means_by_them(backend: CacheBackend, pattern: str, matches: list[str]) -> None:
    await backend.set_many(dict.fromkeys(AWKWARD_KEYS, 1))

    assert await backend.get_keys(pattern) == sorted(matches)
    assert await backend.invalidate_pattern(pattern) == len(matches)
    assert await backend.get_keys() == sorted(set(AWKWARD_KEYS) - set(matches))


async def test_clear_empties_the_namespace(backend: CacheBackend) -> None:
    await backend.set_many({f"key:{number}": number for number in range(1200)})

    assert await backend.clear() is True

    assert await backend.get_keys() == []
    assert await backend.clear() is True


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda cache: cache.get(1), TypeError, "a cache key is text, not int: 1"),
        (lambda cache: cache.set("", 1), ValueError, "1 to 1,024 characters, not 0"),
        (lambda cache: cache.set("k" * 1025, 1), ValueError, "1 to 1,024 characters, not 1,025"),
        (lambda cache: cache.exists("\ud800"), ValueError, "lone surrogates"),
        (lambda cache: cache.get_many("key"), TypeError, "a collection of cache keys, not one str"),
        (lambda cache: cache.get_many([f"k{n}" for n in range(10_001)]), ValueError, "more than 10,000 cache keys"),
        (lambda cache: cache.get_keys(""), ValueError, "a cache pattern has 1 to 1,024 characters"),
        (lambda cache: cache.invalidate_pattern(b"a*"), TypeError, "a cache pattern is text, not bytes"),
        (lambda cache: cache.set("key", object()), TypeError, "cannot cache 'key': it holds a builtins.object"),
        (lambda cache: cache.set("key", [{"a": print}]), TypeError, "'key'.*builtins.builtin_function_or_method"),
        (lambda cache: cache.set("key", Point), TypeError, "cannot cache 'key': it holds a builtins.type"),
        (lambda cache: cache.set("key", "x" * 2**24), ValueError, "'key': its value takes 16,777,230 bytes"),
        (lambda cache: cache.set_if_absent("key", object()), TypeError, "cannot cache 'key'"),
        (lambda cache: cache.set("key", 1, ttl=0), ValueError, "ttl of cache key 'key': 0 is over already"),
        (lambda cache: cache.set("key", 1, ttl="60"), TypeError, "expected seconds or a timedelta, not str"),
        (lambda cache: cache.set("key", 1, ttl=True), TypeError, "expected seconds or a timedelta, not bool"),
        (lambda cache: cache.set("key", 1, ttl=float("nan")), ValueError, "at most 3,650 days"),
        (lambda cache: cache.expire("key", 10**12), ValueError, "at most 3,650 days"),
        (lambda cache: cache.increment("key", 1.5), TypeError, "moves by whole numbers, not by float"),
        (lambda cache: cache.decrement("key", True), TypeError, "moves by whole numbers, not by bool"),
        (lambda cache: cache.increment("key", 2**63), ValueError, "has 64 bits"),
    ],
)
async def test_a_fault_of_the_caller_is_told_clearly_by_every_backend(
    backend: CacheBackend, call: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await call(backend)


async def test_nothing_is_stored_if_one_of_many_values_cannot_be(backend: CacheBackend) -> None:
    with pytest.raises(TypeError, match="cannot cache 'bad'"):
        await backend.set_many({"good": 1, "bad": object()})

    assert await backend.get_keys() == []


async def test_something_that_holds_itself_is_refused(backend: CacheBackend) -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(ValueError, match="'loop': it is nested deeper than 100 levels, or holds itself"):
        await backend.set("loop", loop)


async def test_tasks_that_count_together_lose_nothing(backend: CacheBackend) -> None:
    await asyncio.gather(*(backend.increment("n") for _ in range(100)))

    assert await backend.get("n") == 100


async def test_a_namespace_sees_and_clears_only_its_own(
    redis_backend: RedisBackend, cache_client: Redis, namespace: str
) -> None:
    lru = LruStore()
    neighbours = [RedisBackend(cache_client, namespace=f"{namespace}x"), MemoryBackend(namespace="other", lru=lru)]
    mine = [redis_backend, MemoryBackend(namespace="mine", lru=lru)]
    for neighbour, own in zip(neighbours, mine, strict=True):
        await neighbour.set("key", "theirs")
        await own.set("key", "ours")

        assert await own.get_keys() == ["key"]
        assert await own.clear() is True

        assert await neighbour.get("key") == "theirs"
        await neighbour.clear()


async def test_keys_are_listed_and_removed_without_keys_or_flushdb(
    redis_backend: RedisBackend, cache_client: Redis
) -> None:
    """What Redis itself counted says which commands were sent."""
    await cache_client.config_resetstat()
    await redis_backend.set_many({f"key:{number}": number for number in range(50)})
    await redis_backend.get_keys("key:*")
    await redis_backend.invalidate_pattern("key:1*")
    await redis_backend.clear()

    sent = {name.removeprefix("cmdstat_") for name in await cache_client.info("commandstats")}

    assert {"scan", "unlink"} <= sent
    assert not {"keys", "flushdb", "flushall", "del"} & sent


async def test_foreign_bytes_and_newer_versions_are_misses_and_counted(
    redis_backend: RedisBackend, cache_client: Redis, namespace: str
) -> None:
    foreign = {
        "binary": b"\x80\x04K\x01.",
        "text": b"hello",
        "newer": b'{"v":2,"d":1}',
        "broken": b'{"v":1,"d":',
        "unknown_tag": b'{"v":1,"d":{"$":"tensor","v":1}}',
        "bad_uuid": b'{"v":1,"d":{"$":"uuid","v":"x"}}',
        "padded": b"007",
    }
    for key, raw in foreign.items():
        await cache_client.set(f"{namespace}:{key}", raw)
    await redis_backend.hash_set("hash", {"field": "value"})
    await redis_backend.set("ours", 1)

    assert await redis_backend.get_many([*foreign, "hash", "ours"]) == {"ours": 1}
    assert redis_backend.counters.foreign == len(foreign)
    assert await redis_backend.exists("binary") is True
    with pytest.raises(TypeError, match="cannot increment cache key 'hash'"):
        await redis_backend.increment("hash")


async def test_a_client_that_decodes_answers_works_too(redis_url: str, namespace: str) -> None:
    client = Redis.from_url(redis_url, decode_responses=True, protocol=3)
    backend = RedisBackend(client, namespace=namespace)

    await backend.set_many({"a": b"\xff", "b": 1})
    await backend.hash_set("hash", {"raw": b"\xff", "n": 1}, ttl=60)

    assert await backend.get_many(["a", "b"]) == {"a": b"\xff", "b": 1}
    assert await backend.get_keys() == ["a", "b", "hash"]
    assert await backend.hash_get_many(["hash"]) == {"hash": {"raw": b"\xff", "n": b"1"}}
    assert (await backend.health()).healthy is True
    await backend.clear()
    await client.aclose()


async def test_raw_hashes_are_written_with_their_lifetime_and_read_together(redis_backend: RedisBackend) -> None:
    await redis_backend.hash_set("a", {"status": "done", "n": 3}, ttl=60)
    await redis_backend.hash_set("b", {"status": b"new"})
    await redis_backend.set("plain", 1)

    assert await redis_backend.hash_get_many(["a", "b", "nothing"]) == {
        "a": {"status": b"done", "n": b"3"},
        "b": {"status": b"new"},
    }
    assert 59 < (await redis_backend.ttl("a") or 0) <= 60
    with pytest.raises(TypeError, match="another Redis type"):
        await redis_backend.hash_get_many(["plain"])
    with pytest.raises(TypeError, match="another Redis type"):
        await redis_backend.hash_set("plain", {"a": 1})
    with pytest.raises(ValueError, match="no fields"):
        await redis_backend.hash_set("a", {})


async def test_health_says_what_redis_is(redis_backend: RedisBackend, cache_client: Redis) -> None:
    health = await redis_backend.health()

    assert (health.backend, health.healthy, health.detail) == ("redis", True, None)
    assert health.version == (await cache_client.info("server"))["redis_version"]
    assert 0 < (health.latency_seconds or 0) < 1
    assert (health.memory_bytes or 0) > 100_000
    assert await redis_backend.health_check() is True


# What follows compares the two backends call by call.

KEYS = st.sampled_from(["a", "b", "ab", "a*", "é"])
VALUES = st.one_of(
    st.none(), st.integers(-3, 3), st.text(max_size=3), st.binary(max_size=3), st.sets(st.integers(), max_size=2)
)
# A range that ends beyond ASCII depends on the machine that Redis was built for (glob.py), so é and - never meet.
PATTERNS = st.text(alphabet=r"\ab*?[]^-", min_size=1, max_size=6) | st.text(r"\aé*?[]^", min_size=1, max_size=6)
AN_HOUR_OR_NONE = st.sampled_from([None, 3600])
CALLS = st.one_of(
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("set"), KEYS, VALUES, AN_HOUR_OR_NONE),
    st.tuples(st.just("set_if_absent"), KEYS, VALUES),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("exists"), KEYS),
    st.tuples(st.just("get_many"), st.lists(KEYS, max_size=4)),
    st.tuples(st.just("set_many"), st.dictionaries(KEYS, VALUES, max_size=3), AN_HOUR_OR_NONE),
    st.tuples(st.just("delete_many"), st.lists(KEYS, max_size=4)),
    st.tuples(st.just("get_keys"), PATTERNS),
    st.tuples(st.just("invalidate_pattern"), PATTERNS),
    st.tuples(st.just("increment"), KEYS, st.integers(-3, 3)),
    st.tuples(st.just("decrement"), KEYS),
    st.tuples(st.just("expire"), KEYS, st.sampled_from([3600, 0])),
    st.tuples(st.just("ttl"), KEYS),
    st.tuples(st.just("clear")),
)


async def _answer(backend: CacheBackend, call: tuple[Any, ...]) -> Any:
    name, *arguments = call
    try:
        answer = await getattr(backend, name)(*arguments)
    except TypeError as error:
        return re.sub(r"0x\w+", "", str(error))
    return round(answer) if name == "ttl" and answer is not None else answer


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, max_size=25))
async def test_any_run_of_calls_is_answered_alike_by_memory_and_redis(
    redis_backend: RedisBackend, calls: list[tuple[Any, ...]]
) -> None:
    memory = MemoryBackend()
    await redis_backend.clear()

    for call in calls:
        assert await _answer(memory, call) == await _answer(redis_backend, call), call

    everything = [f"{letter}" for letter in ("a", "b", "ab", "a*", "é")]
    assert await memory.get_many(everything) == await redis_backend.get_many(everything)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=st.lists(PATTERNS, min_size=1, max_size=8))
async def test_any_pattern_matches_the_same_keys_in_memory_and_redis(
    redis_backend: RedisBackend, patterns: list[str]
) -> None:
    memory = MemoryBackend()
    keys = ["a", "b", "ab", "ba", "aab", "a]b", "a-b", "a^b", "a\\b", "[", "]", "^", "-", "\\", "é", "aé", "a*b", "?"]
    await memory.set_many(dict.fromkeys(keys, 1))
    await redis_backend.set_many(dict.fromkeys(keys, 1))

    for pattern in patterns:
        assert await memory.get_keys(pattern) == await redis_backend.get_keys(pattern), pattern


async def test_two_clients_share_what_is_in_redis(cache_client: Redis, redis_url: str, namespace: str) -> None:
    other = Redis.from_url(redis_url)
    key = str(uuid4())
    await RedisBackend(cache_client, namespace=namespace).set(key, {"a": (1,)})

    assert await RedisBackend(other, namespace=namespace).get(key) == {"a": (1,)}
    await RedisBackend(other, namespace=namespace).clear()
    await other.aclose()
