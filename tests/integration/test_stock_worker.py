"""A stock ARQ worker, whatever stands in its queue: it lives, runs what is ours, and says what it serves."""

import asyncio
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix, retry_key_prefix
from arq.worker import Worker
from structlog.testing import capture_logs

from repositories.schemas import NewJob
from repositories.states import JobStatus
from tests.arq_workers import NOOP, stock_worker
from tests.redis_keys import TYPES, put_a
from tests.waiting import until
from worker.cli.context import environment
from worker.client import JobClient
from worker.main import worker_settings
from worker.queue import JobQueue
from worker.reasons import Reason
from worker.registry import Registry
from worker.settings import Settings

MESSAGE: dict[str, Any] = {"t": None, "f": "noop", "a": [str(uuid4())], "k": {}, "et": 1_700_000_000_000}


class Unwelcome:
    """What a pickle runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


BODIES: dict[str, bytes] = {
    "a pickle": b"\x80\x04K\x01.",
    "no JSON": b"not json",
    "nothing": b"",
    "a list": b"[1]",
    "null": b"null",
    "an empty object": b"{}",
    "no UTF-8": b'{"f": "\xff"}',
    "nested too deep": b"[" * 20_000 + b"]" * 20_000,
    "nested as deep as Redis reads": json.dumps(MESSAGE | {"a": "deep"})
    .replace('"deep"', "[" * 990 + "]" * 990)
    .encode(),
    "a function that is a list": json.dumps(MESSAGE | {"f": ["noop"]}).encode(),
    "an unknown function": json.dumps(MESSAGE | {"f": "rm"}).encode(),
    "arguments that are text": json.dumps(MESSAGE | {"a": "abc"}).encode(),
    "too many arguments": json.dumps(MESSAGE | {"a": ["a", "b", "c"]}).encode(),
    "names that are a list": json.dumps(MESSAGE | {"k": [1]}).encode(),
    "unknown names": json.dumps(MESSAGE | {"k": {"colour": "red"}}).encode(),
    "tries that are text": json.dumps(MESSAGE | {"t": "1"}).encode(),
    "a time that is text": json.dumps(MESSAGE | {"et": "now"}).encode(),
    "a time after all": json.dumps(MESSAGE | {"et": 10**30}).encode(),
    "a time before all": json.dumps(MESSAGE | {"et": -(10**20)}).encode(),
    "a time that is no number": json.dumps(MESSAGE | {"et": float("nan")}).encode(),
}


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"reconcile_seconds": 0.1})


async def _enqueue(client: JobClient, count: int = 1, **fields: Any) -> list[UUID]:
    return await client.enqueue_many([NewJob(type="noop", payload={}, **fields) for _ in range(count)])


async def _completes(client: JobClient, running: "asyncio.Task[None]", ids: list[UUID]) -> bool:
    """Whether the jobs complete while the worker lives."""
    waiting = asyncio.create_task(client.wait(ids, timeout_seconds=20))
    await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        waiting.cancel()
        await running
    return {job.status for job in await waiting} == {JobStatus.COMPLETED} and not running.done()


@pytest.mark.parametrize("whose", ["a job's", "nobody's"])
@pytest.mark.parametrize("body", BODIES)
async def test_an_odd_message_ends_no_worker_and_costs_no_job(
    client: JobClient, quick: Settings, redis: ArqRedis, body: str, whose: str
) -> None:
    ids = await _enqueue(client, 3)
    odd = str(ids[1]) if whose == "a job's" else str(uuid4())
    await redis.set(job_key_prefix + odd, BODIES[body])
    await redis.zadd(default_queue_name, {odd: 1})

    async with stock_worker(quick) as running:
        assert await _completes(client, running, ids)


async def test_a_pickle_is_moved_aside_and_never_loaded(
    client: JobClient, quick: Settings, redis: ArqRedis, tmp_path: Path
) -> None:
    (job_id,) = await _enqueue(client)
    body = pickle.dumps(Unwelcome(tmp_path / "made"))
    await redis.set(f"{job_key_prefix}{job_id}", body)

    with capture_logs() as lines:
        async with stock_worker(quick) as running:
            assert await _completes(client, running, [job_id])

    assert not (tmp_path / "made").exists()
    assert await redis.get(f"broken:{job_key_prefix}{job_id}") == body
    assert [line["key"] for line in lines if line["event"] == "redis.key_broken"] == [f"{job_key_prefix}{job_id}"]


@pytest.mark.parametrize("odd", [b"\xff\xfe", b"", b"x" * 5_000, b"two\nlines", "Größe".encode(), b"cron:none"])
async def test_an_odd_id_ends_no_worker(client: JobClient, quick: Settings, redis: ArqRedis, odd: bytes) -> None:
    ids = await _enqueue(client, 3)
    await redis.zadd(default_queue_name, {odd: 1})

    async with stock_worker(quick) as running:
        assert await _completes(client, running, ids)
        await until(lambda: _is_empty(redis))


async def _is_empty(redis: ArqRedis) -> bool:
    return not await redis.exists(default_queue_name)


@pytest.mark.parametrize("score", [float("-inf"), 0.0, -1.5, 1e300, float("inf")])
async def test_an_odd_place_in_the_queue_ends_no_worker(
    client: JobClient, quick: Settings, redis: ArqRedis, score: float
) -> None:
    ids = await _enqueue(client, 3)
    await redis.zadd(default_queue_name, {str(ids[0]): score})

    async with stock_worker(quick) as running:
        assert await _completes(client, running, ids[1:] if score > 1e15 else ids)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("what", ["queue", "body", "tries", "abort"])
async def test_another_type_under_a_key_of_arq_ends_no_worker(
    client: JobClient, quick: Settings, redis: ArqRedis, what: str, kind: str
) -> None:
    ids = await _enqueue(client, 3)
    key = {
        "queue": default_queue_name,
        "body": f"{job_key_prefix}{ids[0]}",
        "tries": f"{retry_key_prefix}{ids[0]}",
        "abort": "arq:abort",
    }[what]
    await put_a(redis, kind, key)

    async with stock_worker(quick) as running:
        assert await _completes(client, running, ids)


@pytest.mark.parametrize("told", ["many", "-1", "1.5", "9" * 30])
async def test_tries_that_are_no_number_end_no_worker(
    client: JobClient, quick: Settings, redis: ArqRedis, told: str
) -> None:
    ids = await _enqueue(client, 2)
    await redis.set(f"{retry_key_prefix}{ids[0]}", told)

    async with stock_worker(quick) as running:
        assert await _completes(client, running, ids)


async def test_the_one_queue_that_is_named_is_served_and_told(
    client: JobClient, settings: Settings, redis: ArqRedis
) -> None:
    other = settings.model_copy(update={"worker_queues": ("nightly",)})
    nightly, default = await _enqueue(client, queue="nightly"), await _enqueue(client)
    asking = JobClient(
        client._database,
        JobQueue(redis),
        client._storage,
        settings,
        engine="noting",
        registry=Registry(redis),
    )

    async with stock_worker(other) as running:
        assert await _completes(client, running, nightly)
        (worker,) = await asking.workers()
        assert worker.queues == ("nightly",)
        assert (await asking.why(default[0])).reason is Reason.NO_WORKER
        assert (await client.status(default[0])).status is JobStatus.QUEUED


async def test_a_stock_worker_says_how_many_jobs_it_runs(
    client: JobClient, settings: Settings, redis: ArqRedis
) -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    async def held(_: object) -> dict[str, Any]:
        entered.set()
        await gate.wait()
        return {}

    ids = await _enqueue(client)
    registry = Registry(redis)

    async def runs_one() -> bool:
        return [worker.running for worker in await registry.live()] == [1]

    async with stock_worker(settings, {"noop": held}) as running:
        await asyncio.wait_for(entered.wait(), 10)
        await until(runs_one)
        gate.set()
        assert await _completes(client, running, ids)


@pytest.mark.parametrize("queues", ["default,nightly", "nightly,default"])
async def test_a_stock_worker_that_is_told_several_queues_does_not_start(
    settings: Settings, redis: ArqRedis, tmp_path: Path, queues: str
) -> None:
    ours = {name.upper() for name in Settings.model_fields}
    outside = {name: value for name, value in os.environ.items() if name not in ours}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "arq", "worker.main.WorkerSettings"),
        env=outside | environment(settings) | {"WORKER_QUEUES": queues},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 1
    last = said.decode().splitlines()[-1]
    assert last.startswith(f"arq: WORKER_QUEUES names {queues.replace(',', ', ')}, and a stock ARQ worker takes")
    assert "worker run" in last
    assert "Traceback" not in said.decode()


async def test_what_the_settings_make_is_a_worker_of_their_first_queue(settings: Settings) -> None:
    made = Worker(**worker_settings(settings, NOOP), handle_signals=False)

    assert (made.queue_name, made.pool.default_queue_name) == (default_queue_name, default_queue_name)
