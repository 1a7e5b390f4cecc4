"""A Redis that was given older data while it ran, and one in which others wrote: nothing older is believed."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from arq.connections import ArqRedis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from repositories.cache import RedisBackend, reset_shared_memory_backend
from repositories.cache.carry_over import is_first_to_return
from repositories.hot_status import HotStatus, JobStatusChange
from repositories.states import JobStatus
from tests.integration.test_hot_status import NOW, a_view, put, run, status_of
from tests.redis_keys import TYPES, copy_of, put_a, restore


@pytest.fixture(autouse=True)
def own_process_state() -> Iterator[None]:
    yield
    reset_shared_memory_backend()


async def test_a_status_never_goes_back_for_who_wrote_or_saw_a_later_one(redis: ArqRedis, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as other:
        writer, reader = HotStatus(redis), HotStatus(other)
        job = a_view()
        await put(writer, job)
        before = await copy_of(redis)
        ended = replace(job, version=3, status=JobStatus.FAILED, completed_at=NOW)
        await writer.write([ended])
        assert await status_of(reader, job.id) == ended

        await restore(redis, before)
        assert await status_of(reader, job.id) is None

        await restore(redis, before)
        await writer.watched([])
        assert await status_of(writer, job.id) is None


async def test_a_change_bars_the_way_after_a_restore_too(redis: ArqRedis) -> None:
    """A fence is a write as well: it stands where only that a job moved is known."""
    hot, job = HotStatus(redis), a_view()
    await put(hot, job)
    before = await copy_of(redis)
    await hot.advance([JobStatusChange(job.id, 9, {"status": JobStatus.COMPLETED})])

    await restore(redis, before)

    assert await status_of(hot, job.id) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["write", "read", "copy", "restore"])), max_size=20))
@hypothesis_settings(max_examples=40, deadline=None)
def test_no_process_reads_less_than_it_knew_whatever_is_restored(redis_url: str, steps: list[tuple[int, str]]) -> None:
    async def play() -> None:
        clients = [Redis.from_url(redis_url) for _ in range(3)]
        try:
            await clients[0].flushdb()
            await play_on(clients)
        finally:
            reset_shared_memory_backend()
            for client in clients:
                await client.aclose(close_connection_pool=True)

    async def play_on(clients: list[Redis]) -> None:
        processes, job = [HotStatus(client) for client in clients], a_view(version=1)
        await put(processes[0], job)
        newest, knows, copy = 1, [0, 0, 0], await copy_of(clients[0])
        for who, what in steps:
            match what:
                case "write":
                    newest += 1
                    await processes[who].read([job.id])  # in step
                    await processes[who].write([replace(job, version=newest)])
                    knows[who] = newest
                case "read":
                    found = await status_of(processes[who], job.id)
                    assert found is None or found.version >= knows[who]
                    knows[who] = max(knows[who], found.version if found else 0)
                case "copy":
                    copy = await copy_of(clients[0])
                case _:
                    await restore(clients[0], copy)

    asyncio.run(play())


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "hash"])
@pytest.mark.parametrize("what", ["books", "status", "the caller's"])
async def test_another_type_under_a_key_is_moved_aside_and_told(redis: ArqRedis, what: str, kind: str) -> None:
    hot, job = HotStatus(redis), a_view()
    await put(hot, job)
    key = {"books": "cache!status", "status": f"cache:status:{job.id}", "the caller's": f"cache:job:{job.id}"}[what]
    await put_a(redis, kind, key)

    with capture_logs() as lines:
        assert await status_of(hot, job.id) == (job if what == "the caller's" else None)
        await hot.write([replace(job, version=3)])

    assert await status_of(hot, job.id) == replace(job, version=3)
    told = [(line["key"], line["found"]) for line in lines if line["event"] == "redis.key_broken"]
    if what == "the caller's":  # every write deletes it, whatever it is
        assert (told, await redis.exists(key)) == ([], 0)
    else:
        assert told == [(key, kind)]
        assert 0 < await redis.pttl(f"broken:{key}") <= 86_400_000


@pytest.mark.parametrize("field", ["seq", "ticket", "w:Manuäls", "epoch", "run"])
@pytest.mark.parametrize("text", ["text", "", "1.5", "-1", "9" * 30, "nan", "inf"])
async def test_books_that_make_no_sense_cost_no_more_than_a_new_epoch(redis: ArqRedis, field: str, text: str) -> None:
    hot, job = HotStatus(redis), a_view()
    await put(hot, job)
    await hot.invalidate_workspace("another")
    await run(redis, "HSET", "cache!status", field, text)

    await hot.read([job.id])
    await hot.write([replace(job, version=3)])
    await put(hot, replace(job, version=4))

    assert await status_of(hot, job.id) == replace(job, version=4)


@pytest.mark.parametrize("field", ["epoch", "seq", "born", "version", "finished", "progress", "items_total"])
@pytest.mark.parametrize("text", ["text", "", "9" * 30, "nan", "inf", "\x00"])
async def test_a_copy_that_makes_no_sense_holds_up_nobody(redis: ArqRedis, field: str, text: str) -> None:
    hot, job, other = HotStatus(redis), a_view(), a_view()
    await put(hot, job, other)
    await run(redis, "HSET", f"cache:status:{job.id}", field, text)

    ended = {"status": JobStatus.COMPLETED, "completed_at": NOW}
    await hot.advance([JobStatusChange(view.id, 3, ended) for view in (job, other)])

    assert await status_of(hot, other.id) == replace(other, version=3, status=JobStatus.COMPLETED, completed_at=NOW)
    assert (await hot.get_many([job.id], lambda _: _loaded(job))).keys() == {job.id}


async def _loaded(*views: object) -> list[object]:
    return [*views]


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "string"])
async def test_another_type_under_the_mark_of_the_first_to_return_keeps_no_process_away(
    redis: ArqRedis, kind: str
) -> None:
    store = RedisBackend(redis).store
    await put_a(redis, kind, "cache!returned")

    assert await is_first_to_return(store, "me")

    assert await redis.get("cache!returned") == b"me"
