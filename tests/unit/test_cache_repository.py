"""What CacheRepository adds to a backend: one load for many, counters, the older service's names."""

import asyncio
import gc
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from repositories.cache import CacheRepository, MemoryBackend, reset_shared_memory_backend
from repositories.cache.flight import SingleFlight


@pytest.fixture
def cache() -> Iterator[CacheRepository]:
    reset_shared_memory_backend()
    yield CacheRepository()
    reset_shared_memory_backend()


class Loader:
    """A load that begins, waits to be let go, and counts."""

    def __init__(self, outcome: Any = "value") -> None:
        self.outcome = outcome
        self.calls = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        self.begun.set()
        await self.go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def _until_all_wait(tasks: list[asyncio.Task[Any]], loader: Loader) -> None:
    await loader.begun.wait()
    for _ in range(10):  # every task has had its turns; none can finish before the loader does
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_a_hundred_tasks_that_miss_together_load_once(cache: CacheRepository) -> None:
    loader = Loader({"a": (1,)})
    tasks = [asyncio.create_task(CacheRepository().get_or_set("key", loader, ttl=60)) for _ in range(100)]
    await _until_all_wait(tasks, loader)
    loader.go.set()

    values = await asyncio.gather(*tasks)

    assert values == [{"a": (1,)}] * 100
    assert loader.calls == 1
    assert len({id(value) for value in values}) == 100  # a copy for each
    assert 59 < (await cache.ttl("key") or 0) <= 60
    assert await cache.get_or_set("key", loader) == {"a": (1,)}
    assert loader.calls == 1


async def test_a_failing_load_fails_all_who_wait_and_is_not_remembered(cache: CacheRepository) -> None:
    loader = Loader(LookupError("no such thing"))
    tasks = [asyncio.create_task(cache.get_or_set("key", loader)) for _ in range(10)]
    await _until_all_wait(tasks, loader)
    loader.go.set()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [repr(outcome) for outcome in outcomes] == ["LookupError('no such thing')"] * 10
    assert loader.calls == 1
    assert await cache.exists("key") is False
    assert await cache.get_or_set("key", lambda: "second try") == "second try"


async def test_a_cancelled_first_caller_hands_over_to_one_who_waits(cache: CacheRepository) -> None:
    loader = Loader()
    tasks = [asyncio.create_task(cache.get_or_set("key", loader)) for _ in range(10)]
    await _until_all_wait(tasks, loader)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    loader.go.set()

    assert await asyncio.gather(*tasks[1:]) == ["value"] * 9
    assert tasks[0].cancelled()
    assert loader.calls == 2


async def test_cancelling_one_who_waits_disturbs_nobody(cache: CacheRepository) -> None:
    loader = Loader()
    tasks = [asyncio.create_task(cache.get_or_set("key", loader)) for _ in range(10)]
    await _until_all_wait(tasks, loader)
    tasks[5].cancel()
    await asyncio.wait([tasks[5]])
    loader.go.set()

    assert await asyncio.gather(*tasks[:5], *tasks[6:]) == ["value"] * 9
    assert tasks[5].cancelled()
    assert loader.calls == 1


class LateMisses(MemoryBackend):
    """A backend whose first answer, a miss, takes until the value is there: as over a slow network."""

    late = True

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        found = await super().get_many(keys)
        if self.late:
            self.late = False
            await self.set("key", "made meanwhile")
        return found


async def test_a_value_made_between_the_look_and_the_load_is_not_made_again() -> None:
    loader = Loader()

    assert await CacheRepository(backend=LateMisses()).get_or_set("key", loader) == "made meanwhile"
    assert loader.calls == 0


async def test_loads_of_different_keys_do_not_wait_for_each_other(cache: CacheRepository) -> None:
    slow = Loader()
    waiting = asyncio.create_task(cache.get_or_set("slow", slow))
    await slow.begun.wait()

    assert await cache.get_or_set("quick", lambda: 1) == 1

    slow.go.set()
    assert await waiting == "value"


async def test_a_load_nobody_waits_for_reports_its_error_once() -> None:
    unread: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unread.append(context))
    flight: SingleFlight[int] = SingleFlight()

    async def fail() -> int:
        raise LookupError

    async def caught() -> bool:
        try:
            await flight.run("key", fail)
        except LookupError:
            return True
        return False

    assert await caught()
    gc.collect()  # a future reports what nobody read when it is collected

    assert unread == []


async def test_none_is_loaded_once_too(cache: CacheRepository) -> None:
    calls: list[int] = []

    for _ in range(2):
        assert await cache.get_or_set("key", lambda: calls.append(1)) is None

    assert len(calls) == 1


class Person(BaseModel):
    born: date


async def test_the_first_caller_sees_what_later_ones_will_see(cache: CacheRepository) -> None:
    first = await cache.get_or_set("key", lambda: Person(born=date(2000, 1, 2)))

    assert first == {"born": date(2000, 1, 2)}
    assert await cache.get("key") == first


async def test_a_bad_lifetime_is_told_before_the_load(cache: CacheRepository) -> None:
    loader = Loader()

    with pytest.raises(ValueError, match="is over already"):
        await cache.get_or_set("key", loader, ttl=-1)

    assert loader.calls == 0


async def test_cache_with_ttl_passes_arguments_on_and_lives_an_hour(cache: CacheRepository) -> None:
    async def name_of(first: str, *, last: str) -> str:
        return f"{first} {last}"

    assert await cache.cache_with_ttl("name", name_of, 3600, "Ada", last="Lovelace") == "Ada Lovelace"
    assert await cache.cache_with_ttl("name", name_of) == "Ada Lovelace"
    assert await cache.cache_with_ttl("plain", lambda: 5) == 5
    assert 3590 < (await cache.ttl("plain") or 0) <= 3600


async def test_statistics_count_what_was_found_and_what_was_not(cache: CacheRepository) -> None:
    await cache.set_many({"a": 1, "b": None})
    await cache.get("a")
    await cache.get("b")
    await cache.get("nothing")
    await cache.get_many(["a", "b", "c", "d"])

    assert await cache.get_cache_stats() == {
        "backend_type": "memory",
        "healthy": True,
        "total_keys": 2,
        "hits": 4,
        "misses": 3,
        "errors": 0,
        "foreign": 0,
    }


async def test_a_backend_that_is_handed_in_is_used_as_it_is() -> None:
    backend = MemoryBackend()
    cache = CacheRepository(backend=backend)
    await cache.set("key", 1)

    assert cache.backend is backend
    assert await backend.get("key") == 1
    assert await CacheRepository(backend=backend).get_or_set("key", lambda: 2) == 1


async def test_every_call_of_a_backend_is_there(cache: CacheRepository) -> None:
    assert await cache.set("k", 1) is True
    assert await cache.set_if_absent("k", 2) is False
    assert await cache.increment("k", 4) == 5
    assert await cache.decrement("k") == 4
    assert await cache.expire("k", 60) is True
    assert await cache.exists("k") is True
    assert await cache.get_keys("k*") == ["k"]
    assert await cache.invalidate_pattern("k*") == 1
    await cache.set("k", 1)
    assert await cache.delete("k") is True
    assert await cache.delete_many(["k"]) == 0
    assert await cache.clear() is True
    assert await cache.health_check() is True
    assert (await cache.health()).backend == "memory"


@pytest.mark.parametrize("namespace", ["", "a:b", "a b", "a*", "n" * 65, None])
def test_a_namespace_that_could_lie_inside_another_is_refused(namespace: Any) -> None:
    with pytest.raises(ValueError, match="a cache namespace is 1 to 64"):
        CacheRepository(namespace=namespace)


def test_a_client_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"needs a redis\.asyncio\.Redis, not redis\.client\.Redis"):
        CacheRepository(BlockingRedis())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a redis_client or a backend, not both"):
        CacheRepository(Redis(), backend=MemoryBackend())
    with pytest.raises(ValueError, match="operation_timeout is seconds above 0, not 0"):
        CacheRepository(Redis(), operation_timeout=0)
