"""Slots: never more at once than there are, over all workers; a dead holder's comes free; alone without Redis."""

import asyncio

import pytest
import structlog
from arq.connections import ArqRedis

from tests.waiting import until
from worker.engines.slots import Slots
from worker.queue import connect

KEY = "slots:shop"


class Crowd:
    """Counts who is inside; the first stay until ``size`` are, so that every slot is seen to be used."""

    def __init__(self, size: int = 1) -> None:
        self.inside = self.most = self.done = 0
        self._size, self._gathered = size, asyncio.Event()

    async def visit(self, slots: Slots) -> None:
        async with slots.hold():
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside >= self._size:
                self._gathered.set()
            await self._gathered.wait()
            await asyncio.to_thread(int)  # let the others in, if they may
            self.inside -= 1
            self.done += 1


async def test_no_more_run_at_once_than_there_are_slots_over_all_workers(redis: ArqRedis) -> None:
    workers, crowd = [Slots(redis, "shop", 3) for _ in range(4)], Crowd(3)
    await asyncio.gather(*(crowd.visit(workers[at % 4]) for at in range(60)))
    assert (crowd.most, crowd.done) == (3, 60)
    assert await redis.zcard(KEY) == 0


async def test_slots_of_other_names_are_others(redis: ArqRedis) -> None:
    async with Slots(redis, "shop", 1).hold(), asyncio.timeout(5), Slots(redis, "farm", 1).hold():
        assert await redis.zcard(KEY) == 1


async def test_a_dead_holders_slot_comes_free_by_itself(redis: ArqRedis) -> None:
    slots = Slots(redis, "shop", 1, hold_seconds=0.3)
    await slots._take([KEY], "dead", 1, 300)  # and never gives it back
    assert await redis.zcard(KEY) == 1
    async with asyncio.timeout(5), slots.hold():
        assert await redis.zscore(KEY, "dead") is None


async def test_a_slot_is_kept_as_long_as_it_is_held(redis: ArqRedis) -> None:
    other = Slots(redis, "shop", 1, hold_seconds=0.3)
    scores = set()

    async def was_renewed_often() -> bool:
        held = await redis.zrange(KEY, 0, -1, withscores=True)
        assert len(held) == 1
        scores.add(held[0][1])
        return len(scores) > 5  # each renewal is 0.1 s after the last: beyond what it was taken for

    async with Slots(redis, "shop", 1, hold_seconds=0.3).hold():
        waiting = asyncio.create_task(Crowd().visit(other))
        await until(was_renewed_often, seconds=10)
        assert not waiting.done()
    async with asyncio.timeout(5):
        await waiting


async def test_a_holder_that_is_cancelled_or_fails_gives_its_slot_back(redis: ArqRedis) -> None:
    slots, entered = Slots(redis, "shop", 1), asyncio.Event()

    async def stay() -> None:
        async with slots.hold():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await redis.zcard(KEY) == 0
    with pytest.raises(KeyError):
        async with slots.hold():
            raise KeyError
    assert await redis.zcard(KEY) == 0


async def test_a_holder_that_is_cancelled_while_it_gives_its_slot_back_knows_it(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, renewing, ending, ended = Slots(redis, "shop", 1), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def renew(_holder: str) -> None:
        try:
            renewing.set()
            await asyncio.Event().wait()
        finally:  # a renewal on its way takes a moment to end
            ending.set()
            await ended.wait()

    monkeypatch.setattr(slots, "_renew", renew)

    async def visit() -> None:
        async with slots.hold():
            await renewing.wait()
        raise AssertionError("it went on as if it had not been cancelled")

    task = asyncio.create_task(visit())
    await ending.wait()
    task.cancel()
    ended.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await redis.zcard(KEY) == 0


async def test_a_renewal_that_comes_too_late_takes_nothing(redis: ArqRedis) -> None:
    slots = Slots(redis, "shop", 1)
    await slots._keep([KEY], "gone", 1000)
    assert await redis.zcard(KEY) == 0


async def test_without_redis_each_worker_bounds_itself_and_says_so_once() -> None:
    away = connect("redis://127.0.0.1:1/0")
    slots, crowd = Slots(away, "shop", 2), Crowd(2)
    with structlog.testing.capture_logs() as logged:
        async with asyncio.timeout(5):
            await asyncio.gather(*(crowd.visit(slots) for _ in range(20)))
    assert (crowd.most, crowd.done) == (2, 20)
    assert [(line["event"], line["subject"]) for line in logged] == [("engine.redis_away", "slots")]
    await away.aclose(close_connection_pool=True)


@pytest.mark.parametrize(("most", "seconds"), [(0, 30.0), (1_001, 30.0), (1, 0.0)])
async def test_slots_beyond_the_bounds_are_an_error_of_the_caller(redis: ArqRedis, most: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="slots shop"):
        Slots(redis, "shop", most, seconds)
