"""Statuses in a real Redis: what stands there, what may be believed, and what bars the way to older ones."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from repositories.cache import CacheRepository, RedisBackend, reset_shared_memory_backend
from repositories.hot_status import HotStatus, JobStatusChange, JobStatusView
from repositories.states import JobStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PARENT_TIME = NOW - timedelta(minutes=5)


@pytest.fixture(autouse=True)
def own_process_state() -> Iterator[None]:
    yield
    reset_shared_memory_backend()


@pytest.fixture
def hot(redis: ArqRedis) -> HotStatus:
    return HotStatus(redis)


def a_view(**fields: Any) -> JobStatusView:
    plain: dict[str, Any] = {
        "id": uuid7(),
        "type": "document_upload",
        "status": JobStatus.PROCESSING,
        "version": 2,
        "queue": "default",
        "workspace_id": "Manuäls",
        "worker_id": "worker-1",
        "attempt": 1,
        "progress": 100 / 3,
        "items_total": 30,
        "items_done": 8,
        "items_failed": 1,
        "items_skipped": 1,
        "created_at": PARENT_TIME,
        "queued_at": PARENT_TIME,
        "started_at": NOW,
    }
    return JobStatusView(**(plain | fields))


async def put(hot: HotStatus, *views: JobStatusView) -> None:
    """Write by a process that is in step: it has read before."""
    await hot.read([view.id for view in views])
    await hot.write(views)


async def run(redis: Redis, *command: Any) -> Any:
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


async def status_of(hot: HotStatus, job_id: UUID) -> JobStatusView | None:
    return (await hot.read([job_id])).get(job_id)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_status_comes_back_as_it_was_whatever_the_client_decodes(
    redis: ArqRedis, redis_url: str, decode: bool, protocol: int
) -> None:
    async with Redis.from_url(redis_url, decode_responses=decode, protocol=protocol) as client:
        hot = HotStatus(client)
        running = a_view()
        failed = a_view(
            status=JobStatus.FAILED, completed_at=NOW, error_count=2, error_code="broken", error="it\nbröke", version=7
        )
        bare = a_view(workspace_id=None, worker_id=None, queued_at=None, started_at=None, status=JobStatus.PENDING)

        await put(hot, running, failed, bare)

        assert await hot.read([running.id, failed.id, bare.id, uuid7()]) == {
            view.id: view for view in (running, failed, bare)
        }


async def test_a_final_status_is_kept_for_minutes_and_another_for_seconds(hot: HotStatus, redis: ArqRedis) -> None:
    live, final = a_view(), a_view(status=JobStatus.COMPLETED, completed_at=NOW)

    await put(hot, live, final)

    assert 9_000 < await redis.pttl(f"cache:status:{live.id}") <= 10_000
    assert 110_000 < await redis.pttl(f"cache:status:{final.id}") <= 120_000


def history(job_id: UUID) -> list[JobStatusView]:
    """A job's life: queued, run with progress, put back after an error, run again, completed."""
    queued = a_view(id=job_id, status=JobStatus.QUEUED, version=1, attempt=0, items_total=0, items_done=0)
    queued = replace(queued, items_failed=0, items_skipped=0, progress=0.0, worker_id=None, started_at=None)
    claimed = replace(queued, status=JobStatus.PROCESSING, version=2, attempt=1, worker_id="worker-1", started_at=NOW)
    listed = replace(claimed, items_total=3)
    one = replace(listed, items_done=1, progress=100 / 3)
    two = replace(one, items_skipped=1, progress=200 / 3)
    back = replace(two, status=JobStatus.QUEUED, version=3, error_count=1, error_code="broken", error="it broke")
    again = replace(back, status=JobStatus.PROCESSING, version=4, attempt=2, worker_id="worker-2")
    done = replace(again, items_done=2, progress=100.0)
    return [
        queued,
        claimed,
        listed,
        one,
        two,
        back,
        again,
        done,
        replace(done, status=JobStatus.COMPLETED, version=5, completed_at=NOW),
    ]


def change(after: JobStatusView) -> JobStatusChange:
    names = {"status", "worker_id", "attempt", "progress", "items_total", "started_at", "completed_at"}
    names |= {"items_done", "items_failed", "items_skipped", "error_count", "error_code", "error"}
    return JobStatusChange(after.id, after.version, {name: getattr(after, name) for name in names})


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=24), st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=20, deadline=None)
def test_any_order_and_duplication_of_a_jobs_writes_leaves_the_newest_or_a_question_to_postgresql(
    redis_url: str, extra: list[tuple[bool, int]], order: Any
) -> None:
    """Each step is written at least once, whole; further ones whole or, if they are transitions, as changes."""
    views = history(uuid7())
    transitions = {step for step in range(1, len(views)) if views[step].version > views[step - 1].version}
    steps = [(True, step) for step in range(len(views))]
    steps += [(whole or step not in transitions, step) for whole, step in extra]
    order.shuffle(steps)

    async def play() -> None:
        client = Redis.from_url(redis_url)
        try:
            await play_on(HotStatus(client))
        finally:
            reset_shared_memory_backend()
            await client.aclose(close_connection_pool=True)

    async def play_on(hot: HotStatus) -> None:
        newest = -1
        await hot.read([views[0].id])
        for whole, step in steps:
            if whole:
                await hot.write([views[step]])
            else:
                await hot.advance([change(views[step])])
            newest = max(newest, step)
            found = await status_of(hot, views[0].id)
            assert found is None or found == views[newest], "older than what was written, or made of parts"
            assert found is not None or not all(whole for whole, _ in steps)
        await hot.write([views[-1]])
        assert await status_of(hot, views[0].id) == views[-1]

    asyncio.run(play())


async def test_a_change_is_written_onto_what_stands_there(hot: HotStatus, redis: ArqRedis) -> None:
    running = a_view(version=4)
    await put(hot, running)
    ended = replace(running, status=JobStatus.FAILED, version=5, completed_at=NOW, error_code="broken", worker_id=None)

    await hot.advance(
        [
            JobStatusChange(
                running.id,
                5,
                {"status": JobStatus.FAILED, "completed_at": NOW, "error_code": "broken", "worker_id": None},
            )
        ]
    )

    assert await status_of(hot, running.id) == ended
    assert await redis.pttl(f"cache:status:{running.id}") > 110_000


async def test_a_change_without_its_ground_leaves_a_question_and_bars_the_way_to_older_ones(hot: HotStatus) -> None:
    nothing_there, a_gap = a_view(version=2), a_view(version=2)
    await put(hot, a_gap)
    await hot.read([nothing_there.id])

    await hot.advance([JobStatusChange(view.id, 4, {"status": JobStatus.COMPLETED}) for view in (nothing_there, a_gap)])
    await hot.write([nothing_there, a_gap])  # read from PostgreSQL before it, and late

    assert await hot.read([nothing_there.id, a_gap.id]) == {}


async def test_a_deleted_job_is_gone_also_for_who_read_it_before(hot: HotStatus) -> None:
    job = a_view()
    await put(hot, job)

    await hot.write([], gone=[job.id])
    await hot.write([job])

    assert await status_of(hot, job.id) is None


async def test_a_change_of_what_does_not_change_is_refused(hot: HotStatus) -> None:
    job = a_view()
    await put(hot, job)
    with pytest.raises(ValueError, match="'type'"):
        await hot.advance([JobStatusChange(job.id, 3, {"type": "other"})])
    with pytest.raises(ValueError, match="together"):
        await hot.advance([JobStatusChange(job.id, 3, {"items_done": 3})])
    with pytest.raises(ValueError, match="without a status"):
        await hot.advance([JobStatusChange(job.id, 3, {"progress": 3.0})])


@pytest.mark.parametrize("way", ["write", "advance", "gone", "watched"])
async def test_every_write_deletes_the_callers_own_key(hot: HotStatus, redis: ArqRedis, way: str) -> None:
    job, cache = a_view(), CacheRepository(redis)
    await hot.read([job.id])
    await cache.set(f"job:{job.id}", {"status": "queued"})
    changes = [JobStatusChange(job.id, 9, {"status": JobStatus.COMPLETED})]

    match way:
        case "write":
            await hot.write([job])
        case "advance":
            await hot.advance(changes)
        case "gone":
            await hot.write([], gone=[job.id])
        case _:
            await hot.watched([job.id])

    assert await cache.get(f"job:{job.id}") is None


async def test_a_reader_who_writes_back_leaves_the_callers_own_key(hot: HotStatus, redis: ArqRedis) -> None:
    job, cache = a_view(), CacheRepository(redis)
    await cache.set(f"job:{job.id}", "theirs")

    assert await hot.get_many([job.id], lambda _: loaded(job)) == {job.id: job}

    assert await status_of(hot, job.id) == job
    assert await cache.get(f"job:{job.id}") == "theirs"


async def loaded(*views: JobStatusView) -> list[JobStatusView]:
    return [*views]


async def test_what_nobody_asked_for_is_not_written_and_leaves_nothing(hot: HotStatus, redis: ArqRedis) -> None:
    job, known = a_view(), a_view()
    await put(hot, known)  # in step
    keys = set(await redis.keys())

    await hot.write([job], gone=[uuid7()])
    await hot.advance([JobStatusChange(job.id, 3, {"status": JobStatus.COMPLETED})])

    assert await hot.watched([job.id, known.id]) == [known.id]
    assert set(await redis.keys()) == keys


async def test_what_was_read_before_somebody_asked_is_not_written_over_the_question(redis: ArqRedis) -> None:
    """Between the two a transition may have found nobody to tell."""
    hot, other, job = HotStatus(redis), HotStatus(redis), a_view()
    await hot.read([uuid7()])
    since = hot.mark
    await other.read([job.id])  # asks, and is about to read what was committed meanwhile

    await hot.write([job], since=since)
    assert await status_of(other, job.id) is None

    await other.write([replace(job, version=3)])
    assert await status_of(hot, job.id) == replace(job, version=3)


async def test_a_question_lives_as_long_as_a_live_status_and_a_later_answer_is_not_written(redis: ArqRedis) -> None:
    hot, job = HotStatus(redis), a_view()

    async def load(_: Sequence[UUID]) -> list[JobStatusView]:
        assert 9_000 < await redis.pttl(f"cache:status:{job.id}") <= 10_000
        await redis.delete(f"cache:status:{job.id}")  # its time is up
        return [job]

    assert await hot.get_many([job.id], load) == {job.id: job}
    assert await status_of(hot, job.id) is None


async def test_who_is_not_in_step_writes_nothing_to_be_believed_and_is_in_step_afterwards(redis: ArqRedis) -> None:
    early, late = HotStatus(redis), HotStatus(redis)
    job = a_view()
    await put(early, job)
    since = early.mark
    await late.missed([])  # an outage that only the other one saw
    before = late.mark

    await early.write([replace(job, version=3)], since=since)
    assert await status_of(late, job.id) is None
    await late.write([job], since=before)  # what the other one read before that version
    assert await status_of(late, job.id) is None
    assert await early.watched([job.id]) == [job.id]
    await early.write([replace(job, version=3)])

    assert await status_of(late, job.id) == replace(job, version=3)


async def test_a_loader_overtaken_by_a_new_epoch_writes_nothing_to_be_believed(redis: ArqRedis) -> None:
    reader, other = HotStatus(redis), HotStatus(redis)
    job = a_view()

    async def load(_: Sequence[UUID]) -> list[JobStatusView]:
        await other.missed([])  # committed a newer version while it could not write, and is back
        return [job]

    assert await reader.get_many([job.id], load) == {job.id: job}  # as the record had it when it was asked

    assert await status_of(other, job.id) is None


async def test_the_status_of_an_invalidated_workspace_is_asked_for_again(redis: ArqRedis) -> None:
    hot, other = HotStatus(redis), HotStatus(redis)
    ours, theirs, nobodys = a_view(workspace_id="ours"), a_view(workspace_id="theirs"), a_view(workspace_id=None)
    ids = [ours.id, theirs.id, nobodys.id]
    await put(hot, ours, theirs, nobodys)

    async def load(wanted: Sequence[UUID]) -> list[JobStatusView]:
        assert wanted == [ours.id]
        await other.invalidate_workspace("ours")  # once more, while PostgreSQL is being asked
        return [ours]

    await other.invalidate_workspace("ours")
    assert await hot.read(ids) == {theirs.id: theirs, nobodys.id: nobodys}
    await hot.get_many(ids, load)
    assert await status_of(hot, ours.id) is None
    await hot.write([ours])

    assert await status_of(hot, ours.id) == ours


async def test_too_many_invalidated_workspaces_outdate_everything_and_are_forgotten(
    hot: HotStatus, redis: ArqRedis
) -> None:
    job = a_view(workspace_id="untouched")
    await put(hot, job)
    await run(redis, "HSET", "cache!status", *(part for n in range(10_000) for part in (f"w:{n}", 0)))

    await hot.invalidate_workspace("one more")

    assert await status_of(hot, job.id) is None
    assert await run(redis, "HLEN", "cache!status") == 4


async def test_what_somebody_else_wrote_or_only_part_of_a_hash_is_ignored_and_written_over(
    hot: HotStatus, redis: ArqRedis
) -> None:
    views = {name: a_view() for name in ("text", "partial", "garbled", "foreign", "other's", "evicted")}
    await put(hot, *views.values())
    keys = {name: f"cache:status:{view.id}" for name, view in views.items()}
    await redis.set(keys["text"], "a string")
    await run(redis, "HDEL", keys["partial"], "created_at")
    await run(redis, "HSET", keys["garbled"], "status", b"\xff\xfe")
    await redis.delete(keys["foreign"])
    await run(redis, "HSET", keys["foreign"], "status", "completed", "version", "no number")
    await run(redis, "HSET", keys["other's"], "id", str(uuid7()))
    await redis.delete(keys["evicted"])

    assert await hot.read([view.id for view in views.values()]) == {}
    await hot.write(list(views.values()))

    assert await hot.read([view.id for view in views.values()]) == {view.id: view for view in views.values()}


@pytest.mark.parametrize("loss", ["flushdb", "evicted", "another type", "another server"])
async def test_without_its_books_nothing_is_believed(hot: HotStatus, redis: ArqRedis, loss: str) -> None:
    job = a_view()
    await put(hot, job)

    match loss:
        case "flushdb":
            kept = await redis.dump(f"cache:status:{job.id}")
            await redis.flushdb()
            await redis.restore(f"cache:status:{job.id}", 10_000, kept)
        case "evicted":
            await redis.delete("cache!status")
        case "another type":
            await redis.set("cache!status", "text")
        case _:
            await run(redis, "HSET", "cache!status", "run", "0" * 40)

    assert await status_of(hot, job.id) is None
    await hot.write([job])
    assert await status_of(hot, job.id) == job


async def test_a_server_that_forgot_the_scripts_gets_them_again(hot: HotStatus, redis: ArqRedis) -> None:
    job = a_view()
    await put(hot, job)
    await redis.script_flush()

    assert await status_of(hot, job.id) == job
    await redis.script_flush()
    await hot.write([replace(job, version=3)])

    assert await status_of(hot, job.id) == replace(job, version=3)


async def test_hundreds_of_statuses_are_one_round_trip_each_way(hot: HotStatus, redis: ArqRedis) -> None:
    views = [a_view() for _ in range(600)]
    await hot.read([view.id for view in views])
    sent: list[int] = []
    execute = type(redis.pipeline(transaction=False)).execute

    async def counted(pipe: Any, *, raise_on_error: bool = True) -> Any:
        sent.append(len(pipe.command_stack))
        return await execute(pipe, raise_on_error=raise_on_error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(redis.pipeline(transaction=False)), "execute", counted)
        await hot.write(views)
        found = await hot.read([view.id for view in views])

    assert sent == [2, 2]
    assert len(found) == 600


async def test_namespaces_keep_apart_and_clearing_the_cache_clears_statuses(redis: ArqRedis) -> None:
    hot, other = HotStatus(redis), HotStatus(redis, namespace="other")
    job = a_view()
    await put(hot, job)

    assert await status_of(other, job.id) is None
    assert await RedisBackend(redis).clear()

    assert await status_of(hot, job.id) is None


async def test_more_than_ten_thousand_ids_are_refused(hot: HotStatus) -> None:
    with pytest.raises(ValueError, match="at most 10000"):
        await hot.read([uuid7() for _ in range(10_001)])
