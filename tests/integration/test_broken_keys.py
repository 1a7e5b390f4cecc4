"""Another type under each kind of key that the project keeps in Redis, while a worker runs: jobs go on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from signal import Signals
from typing import Any
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from structlog.testing import capture_logs

import worker.main
import worker.runner
from repositories.cache import reset_shared_memory_backend
from repositories.hot_status import HotStatus
from repositories.schemas import NewJob
from repositories.states import JobStatus
from tests.arq_workers import NOOP
from tests.redis_keys import TYPES, put_a
from tests.waiting import until
from worker.client import JobClient
from worker.ending import end_all
from worker.engines.base import EngineUnavailableError
from worker.engines.circuit import Circuit
from worker.engines.slots import Slots
from worker.queue import JobQueue
from worker.runner import Runner
from worker.settings import Settings
from worker.storage import Storage

MOVED: dict[str, tuple[str, str]] = {
    "the queue": ("zset", "arq:queue"),
    "a queue that nobody serves": ("zset", "arq:queue:nightly"),
    "cron jobs": ("zset", "arq:cron"),
    "names of queues": ("set", "arq:queues"),
    "calls": ("list", "arq:wake:arq:queue"),
    "names of workers": ("zset", "workers"),
    "a message": ("string", "arq:job:{waiting}"),
    "a mark": ("string", "arq:in-progress:{waiting}"),
    "the books of statuses": ("hash", "cache!status"),
    "a status": ("hash", "cache:status:{waiting}"),
}
"""The type that each is to have, and its key: what is in the way there is moved aside."""

WRITTEN_OVER: dict[str, tuple[str, str]] = {
    "what was handed over": ("string", "arq:known"),  # or moved: as it falls in a look of the reconciler
    "tries": ("string", "arq:retry:{waiting}"),
    "a result": ("string", "arq:result:{waiting}"),
    "a worker": ("string", "worker:{worker}"),
    "a caller's copy": ("string", "cache:job:{waiting}"),
    "that a worker polled": ("string", "arq:queue:health-check"),
    "ids to abort": ("zset", "arq:abort"),
}
"""Likewise, but nothing is in the way there: writing does not ask what stood there."""


@pytest.fixture
def client(client: JobClient, queue: JobQueue, storage: Storage, settings: Settings, redis: ArqRedis) -> JobClient:
    """One that reads statuses from Redis."""
    return JobClient(client._database, queue, storage, settings, engine="noting", hot=HotStatus(redis))


@asynccontextmanager
async def _runner(settings: Settings) -> AsyncIterator["asyncio.Task[None]"]:
    """``worker run`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.main, "configure_logging", lambda *_: None)
        patch.setattr(worker.runner, "_spare_the_collector", lambda: None)
        made = Runner(settings.model_copy(update={"reconcile_seconds": 0.05, "shutdown_grace_seconds": 0}), NOOP)
        running = asyncio.create_task(made.main())
        try:
            yield running
        finally:
            made.handle_sig(Signals.SIGTERM)
            await asyncio.wait({running}, timeout=10)
            await end_all({running})
            await made.close()
            reset_shared_memory_backend()


async def _complete(client: JobClient, ids: list[UUID]) -> bool:
    return {job.status for job in await client.wait(ids, timeout_seconds=20)} == {JobStatus.COMPLETED}


def _noops(count: int, **fields: Any) -> list[NewJob]:
    return [NewJob(type="noop", payload={}, **fields) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("what", MOVED | WRITTEN_OVER)
async def test_jobs_complete_whatever_stands_under_a_key(
    client: JobClient, settings: Settings, redis: ArqRedis, what: str
) -> None:
    kind, name = (MOVED | WRITTEN_OVER)[what]
    with capture_logs() as lines:
        async with _runner(settings) as running:
            (waiting,) = await client.enqueue_many(_noops(1, queue="nightly"))
            assert await _complete(client, await client.enqueue_many(_noops(2)))
            (worker_id,) = await redis.zrange("workers", 0, -1)
            key = name.format(waiting=waiting, worker=worker_id.decode())
            for wrong in [one for one in TYPES if one != kind]:
                await client.statuses([waiting])
                await put_a(redis, wrong, key)
                assert await _complete(client, await client.enqueue_many(_noops(2)))
                if what in MOVED:
                    await client.statuses([waiting])
                    await until(_told(lines, key, wrong))
            assert not running.done()
            assert (await client.status(waiting)).status is JobStatus.QUEUED
            await until(lambda: _stands_in_queue(redis, waiting))

    told = [line["found"] for line in lines if line["event"] == "redis.key_broken"]
    if what in MOVED:  # each once
        assert sorted(told) == sorted(one for one in TYPES if one != kind)
    assert [line for line in lines if line["log_level"] == "error"] == []


def _told(lines: list[Any], key: str, found: str) -> Callable[[], Any]:
    async def look() -> bool:
        return any(
            (line["event"], line.get("key"), line.get("found")) == ("redis.key_broken", key, found) for line in lines
        )

    return look


async def _stands_in_queue(redis: ArqRedis, job_id: UUID) -> bool:
    return await redis.zscore("arq:queue:nightly", str(job_id)) is not None


@pytest.mark.parametrize("name", [b"\xff", b"", b"two words", b"x" * 65, b"a:b", b"new\nline"])
async def test_a_name_that_no_queue_can_have_is_dropped(queue: JobQueue, redis: ArqRedis, name: bytes) -> None:
    async with redis.pipeline() as pipe:
        pipe.sadd("arq:queues", name, "nightly")
        await pipe.execute()

    with capture_logs() as lines:
        assert await queue.names() == ["default", "nightly"]
        assert await queue.names() == ["default", "nightly"]

    assert [line["event"] for line in lines] == ["queue.name_dropped"]


@pytest.mark.parametrize("wrong", [one for one in TYPES if one != "hash"])
async def test_a_circuit_counts_again_where_something_else_stood(redis: ArqRedis, wrong: str) -> None:
    async def away() -> None:
        raise EngineUnavailableError("engine_unavailable", "it is away")

    circuit = Circuit(redis, "test", away, failures=1)
    await put_a(redis, wrong, "circuit:test")

    with capture_logs() as lines, pytest.raises(EngineUnavailableError):
        async with circuit.guarding("part"):
            await away()

    state = await circuit.state()
    assert state is not None
    assert state.is_open
    assert [line["event"] for line in lines] == ["redis.key_broken", "circuit.opened"]


@pytest.mark.parametrize("field", ["open_until", "probe_until", "cooling", "failures:part", "opened_at"])
async def test_a_circuit_whose_fields_make_no_sense_is_begun_anew(redis: ArqRedis, field: str) -> None:
    async def away() -> None:
        raise EngineUnavailableError("engine_unavailable", "it is away")

    circuit = Circuit(redis, "test", away, failures=1)
    async with redis.pipeline() as pipe:
        pipe.hset("circuit:test", mapping={"open_until": "1", "failures:part": "1", "cooling": "1", "opened_at": "1"})
        pipe.hset("circuit:test", field, "text")
        await pipe.execute()

    with pytest.raises(EngineUnavailableError):
        async with circuit.guarding("part"):
            await away()

    assert await circuit.state() is not None


@pytest.mark.parametrize("wrong", [one for one in TYPES if one != "zset"])
async def test_slots_are_shared_again_where_something_else_stood(redis: ArqRedis, wrong: str) -> None:
    slots = Slots(redis, "test", 1)
    await put_a(redis, wrong, "slots:test")

    async with slots.hold():
        assert await redis.zcard("slots:test") == 1
