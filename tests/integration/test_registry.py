"""Which workers live, as they say themselves."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from arq.connections import ArqRedis

from worker.queue import QueueUnavailableError, connect
from worker.registry import LiveWorker, Presence, Registry

NOW = datetime.now(UTC)


def live_worker(worker_id: str = "host-1-abcd", **fields: object) -> LiveWorker:
    facts = {
        "id": worker_id,
        "host": "host",
        "pid": 1,
        "version": "0.1.0",
        "job_types": ("document_upload",),
        "queues": ("default",),
        "concurrency": 10,
        "running": 2,
        "started_at": NOW,
        "beat_at": NOW,
    }
    return LiveWorker.model_validate(facts | fields)


@pytest.fixture
def registry(redis: ArqRedis) -> Registry:
    return Registry(redis)


async def test_a_worker_lives_from_its_first_word_until_it_stops(registry: Registry) -> None:
    one, other = live_worker("a"), live_worker("b", running=0)

    await registry.announce(other)
    await registry.announce(live_worker("a", running=1))
    await registry.announce(one)

    assert await registry.live() == [one, other]
    await registry.forget("a")
    assert await registry.live() == [other]


async def test_a_worker_that_falls_silent_is_forgotten(registry: Registry, redis: ArqRedis) -> None:
    await registry.announce(live_worker("a"))
    assert 0 < await redis.pttl("worker:a") <= 10_000

    await redis.pexpireat("worker:a", 1)  # as if ten seconds had passed

    assert await registry.live() == []


async def test_names_of_workers_long_gone_do_not_pile_up(registry: Registry, redis: ArqRedis) -> None:
    await redis.zadd("workers", {"old": (datetime.now(UTC) - timedelta(hours=2)).timestamp()})
    await registry.announce(live_worker("new"))

    assert await redis.zrange("workers", 0, -1) == [b"new"]


async def test_an_entry_that_cannot_be_read_hides_no_other(registry: Registry, redis: ArqRedis) -> None:
    await registry.announce(live_worker("a"))
    await registry.announce(live_worker("b"))
    await redis.set("worker:a", b'{"id": "a"}')

    assert [worker.id for worker in await registry.live()] == ["b"]


async def test_a_worker_says_what_it_is_and_how_much_it_runs_at_each_beat(registry: Registry) -> None:
    running = [3]
    presence = Presence(registry, "me", ["b", "a"], ["default"], 5, lambda: running[0])
    await presence.beat()
    (first,) = await registry.live()
    running[0] = 4

    await presence.beat()

    (second,) = await registry.live()
    assert (first.id, first.job_types, first.queues, first.concurrency) == ("me", ("a", "b"), ("default",), 5)
    assert (first.pid, first.running, second.running) == (os.getpid(), 3, 4)
    assert (first.started_at, first.beat_at < second.beat_at) == (second.started_at, True)
    await presence.leave()
    assert await registry.live() == []


async def test_a_worker_can_leave_without_redis() -> None:
    nobody = connect("redis://127.0.0.1:1/0")
    await Presence(Registry(nobody), "me", [], [], 1, int).leave()
    await nobody.aclose(close_connection_pool=True)


async def test_without_redis_nobody_knows_who_lives() -> None:
    nobody = connect("redis://127.0.0.1:1/0")
    with pytest.raises(QueueUnavailableError):
        await Registry(nobody).live()
    await nobody.aclose(close_connection_pool=True)
