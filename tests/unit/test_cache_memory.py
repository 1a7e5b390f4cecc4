"""The memory store's bounds and clock, and the one memory that a process shares."""

from collections.abc import Iterator

import pytest

from repositories.cache import (
    CacheRepository,
    MemoryBackend,
    reset_shared_memory_backend,
    shared_memory_backend,
)
from repositories.cache.lru import LruStore


class Clock:
    """Seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def fresh_process_memory() -> Iterator[None]:
    reset_shared_memory_backend()
    yield
    reset_shared_memory_backend()


async def test_the_least_recently_used_entry_goes_first() -> None:
    backend = MemoryBackend(max_entries=3)
    await backend.set_many({"a": 1, "b": 2, "c": 3})
    await backend.get("a")

    await backend.set("d", 4)

    assert await backend.get_keys() == ["a", "c", "d"]


async def test_bytes_are_bounded_as_well_as_entries() -> None:
    backend = MemoryBackend(max_bytes=1000)
    for number in range(10):
        await backend.set(f"{number}", "x" * 280)

    assert backend.lru.used_bytes <= 1000
    assert await backend.get_keys() == ["7", "8", "9"]
    assert (await backend.health()).memory_bytes == backend.lru.used_bytes


async def test_the_bytes_in_use_return_to_nothing(clock: Clock) -> None:
    lru = LruStore(clock=clock)
    backend = MemoryBackend(lru=lru)
    await backend.set_many({"a": "x" * 100, "é": b"y", "n": 1}, ttl=10)
    await backend.set("a", "shorter")
    await backend.increment("n", 1000)
    await backend.expire("é", 20)
    assert lru.used_bytes > 0

    await backend.delete("a")
    clock.now += 20
    assert await backend.get_many(["é", "n"]) == {}

    assert (len(lru), lru.used_bytes) == (0, 0)


async def test_a_value_larger_than_the_whole_store_is_not_kept_and_leaves_no_older_one() -> None:
    backend = MemoryBackend(max_bytes=100)
    await backend.set("key", "small")
    await backend.set("other", "small")

    assert await backend.set_many({"key": "x" * 200, "third": 3}) is False

    assert await backend.exists("key") is False
    assert await backend.get_many(["other", "third"]) == {"other": "small", "third": 3}


async def test_expired_entries_make_room_before_live_ones(clock: Clock) -> None:
    backend = MemoryBackend(max_entries=3, clock=clock)
    await backend.set("oldest", 1)
    await backend.set("brief", 2, ttl=5)
    await backend.set("third", 3)
    clock.now += 5

    await backend.set("new", 4)

    assert await backend.get_keys() == ["new", "oldest", "third"]


async def test_a_value_lives_until_its_last_instant_and_not_beyond(clock: Clock) -> None:
    backend = MemoryBackend(clock=clock)
    await backend.set("key", "value", ttl=10)

    clock.now += 9.999
    assert await backend.get("key") == "value"
    assert await backend.ttl("key") == pytest.approx(0.001)
    clock.now += 0.001
    assert await backend.get("key") is None
    assert await backend.ttl("key") == 0.0


@pytest.mark.parametrize("bounds", [{"max_entries": 0}, {"max_bytes": 0}])
def test_a_store_without_room_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a memory cache needs room"):
        MemoryBackend(**bounds)  # type: ignore[arg-type]


async def test_repositories_without_a_client_share_one_memory() -> None:
    """A web framework builds a repository for each request; each must see what the last one stored."""
    await CacheRepository().set("key", "value")

    assert await CacheRepository().get("key") == "value"
    assert await shared_memory_backend().get("key") == "value"
    assert CacheRepository().get_backend_type() == "memory"
    assert (await CacheRepository().get_cache_stats())["hits"] == 1


async def test_namespaces_in_the_shared_memory_are_apart_but_within_one_bound() -> None:
    reset_shared_memory_backend(max_entries=2)
    one, two = CacheRepository(namespace="one"), CacheRepository(namespace="two")
    await one.set("key", 1)
    await two.set("key", 2)

    assert await one.get("key") == 1
    await two.set("more", 3)
    assert await one.get_keys() == ["key"]
    assert await two.get_keys() == ["more"]  # the least recently used of both went
    await two.clear()
    assert await one.get("key") == 1


async def test_a_reset_forgets_values_and_counters() -> None:
    await CacheRepository().set("key", "value")
    await CacheRepository().get("key")

    reset_shared_memory_backend()

    assert await CacheRepository().get("key") is None
    assert (await CacheRepository().get_cache_stats())["hits"] == 0
