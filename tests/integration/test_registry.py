"""Which workers live, as they say themselves."""

from datetime import UTC, datetime, timedelta

import pytest
from arq.connections import ArqRedis

from worker.queue import QueueUnavailableError, connect
from worker.registry import LiveWorker, Registry

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
    await registry.announce(live_worker("old", beat_at=NOW - timedelta(hours=2)))
    await registry.announce(live_worker("new"))

    assert await redis.zrange("workers", 0, -1) == [b"new"]


async def test_an_entry_that_cannot_be_read_hides_no_other(registry: Registry, redis: ArqRedis) -> None:
    await registry.announce(live_worker("a"))
    await registry.announce(live_worker("b"))
    await redis.set("worker:a", b'{"id": "a"}')

    assert [worker.id for worker in await registry.live()] == ["b"]


async def test_without_redis_nobody_knows_who_lives() -> None:
    nobody = connect("redis://127.0.0.1:1/0")
    with pytest.raises(QueueUnavailableError):
        await Registry(nobody).live()
    await nobody.aclose(close_connection_pool=True)
