"""The user of Redis that docs/operating.md names can do all that a deployment does, and nothing else."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from arq.connections import ArqRedis
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from repositories.cache import CacheRepository, reset_shared_memory_backend
from repositories.schemas import NewJob
from repositories.states import JobStatus
from tests.chaos.cron_process import HOLD, JOURNAL
from tests.chaos.programs import Programs
from tests.redis_keys import put_a
from tests.waiting import until
from worker.client import JobClient, open_client
from worker.engines.base import EngineUnavailableError
from worker.engines.circuit import Circuit
from worker.engines.slots import Slots
from worker.files import FileSource
from worker.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
NAME, PASSWORD = "worker-of-the-docs", "of-the-docs"
FILES = [FileSource("pump.txt", b"The pump needs oil."), FileSource("valve.txt", b"The valve needs none.")]


def rules() -> list[str]:
    """What the page tells to say to Redis, after the user's name and the password."""
    (said,) = re.findall(r"ACL SETUSER worker on >PASSWORD (.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(said).split()


@pytest.fixture
async def user_url(redis: ArqRedis, redis_url: str) -> AsyncIterator[str]:
    """The URL of the user that the page makes; afterwards Redis says of nothing that it was refused."""
    await _admin(redis, "ACL", "SETUSER", NAME, "reset", "on", f">{PASSWORD}", *rules())
    await _admin(redis, "ACL", "LOG", "RESET")
    parts = urlsplit(redis_url)
    yield parts._replace(netloc=f"{NAME}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    refused = await _admin(redis, "ACL", "LOG")
    await _admin(redis, "ACL", "DELUSER", NAME)
    reset_shared_memory_backend()
    assert [line for line in refused if NAME.encode() in line] == []


async def _admin(redis: Redis, *words: str) -> list[list[bytes]]:
    answer: list[list[bytes]] = await redis.execute_command(*words)  # type: ignore[no-untyped-call]
    return answer


@pytest.fixture
def as_user(settings: Settings, user_url: str) -> Settings:
    return settings.model_copy(update={"redis_url": SecretStr(user_url)})


@pytest.fixture
async def programs(as_user: Settings, tmp_path: Path) -> AsyncIterator[Programs]:
    started = Programs(as_user, tmp_path / "log")
    yield started
    await started.end()


async def _uses_everything(client: JobClient) -> None:
    """What services and people do with a client, while a worker runs."""
    job = await client.upload_documents("handbook", FILES)
    seen = [view.status async for view in client.events([job.id])]
    assert seen[-1] is JobStatus.COMPLETED
    await client.pause_queue("nightly", "a test")
    ids = await client.enqueue_many([NewJob(type="document_upload", payload={}, queue="nightly") for _ in range(3)])
    await client.positions(ids)
    await client.why(ids[0])
    assert len(await client.workers()) == 1
    await client.cancel(ids, "no more need")
    await client.retry(ids[:1])
    await client.resume_queue("nightly")
    await client.cancel(ids[:1])
    await client.statuses(ids)


@pytest.mark.slow
async def test_a_worker_its_cron_jobs_and_its_clients_need_no_more(
    as_user: Settings, programs: Programs, redis: ArqRedis, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await programs.start("tests.chaos.cron_process", **{JOURNAL: str(journal), HOLD: str(tmp_path / "hold")})
    await programs.workers(1)

    async with open_client(as_user) as client:
        await _uses_everything(client)
        for key, kind in (("arq:known", "hash"), ("arq:queues", "list"), ("workers", "set"), ("arq:queue", "string")):
            await put_a(redis, kind, key)
            await until(lambda key=key: _moved(redis, key))  # type: ignore[misc]
        await redis.sadd("arq:queues", b"\xff")  # type: ignore[misc]
        await until(lambda: _is_dropped(redis))
        job = await client.upload_documents("handbook", FILES)
        await client.wait([job.id], timeout_seconds=30)
    await until(lambda: _ended(journal))


async def _moved(redis: Redis, key: str) -> bool:
    return bool(await redis.exists(f"broken:{key}"))


async def _is_dropped(redis: Redis) -> bool:
    return not await redis.sismember("arq:queues", b"\xff")  # type: ignore[misc,arg-type]


async def _ended(journal: Path) -> bool:
    return journal.exists() and '"ended"' in journal.read_text()  # noqa: ASYNC240 - a line


@pytest.mark.slow
async def test_a_stock_worker_needs_no_more(as_user: Settings, programs: Programs) -> None:
    await programs.start("arq", "worker.main.WorkerSettings")
    await programs.workers(1)

    async with open_client(as_user) as client:
        await _uses_everything(client)


async def test_the_circuit_the_slots_and_the_cache_need_no_more(user_url: str) -> None:
    async with Redis.from_url(user_url) as client:
        circuit = Circuit(client, "test", _unavailable, failures=1, cooling_seconds=0.01)
        for _ in range(3):
            with pytest.raises(EngineUnavailableError):
                async with circuit.guarding("part"):
                    await _unavailable()
        state = await circuit.state()
        assert state is not None
        assert state.is_open
        async with Slots(client, "test", 1, hold_seconds=0.1).hold():
            await asyncio.sleep(0.1)

        cache = CacheRepository(client)
        await cache.set("key", 1, ttl=60)
        await cache.set_many({"other": 2, "number": 3})
        await cache.set_if_absent("key", 2)
        await cache.increment("number")
        await cache.expire("key", 30)
        assert await cache.get_many(["key", "other", "number"]) == {"key": 1, "other": 2, "number": 4}
        assert await cache.ttl("key")
        assert await cache.exists("key")
        assert {"key", "number", "other"} <= set(await cache.get_keys("*"))
        assert (await cache.delete("key"), await cache.invalidate_pattern("o*")) == (True, 1)
        assert await cache.health_check()
        assert await cache.clear()
        assert cache.get_backend_type() == "redis"


async def _unavailable() -> None:
    raise EngineUnavailableError("engine_unavailable", "it is away")


REFUSED = {
    "flushall": ("FLUSHALL",),
    "flushdb": ("FLUSHDB",),
    "keys": ("KEYS", "*"),
    "config": ("CONFIG", "GET", "requirepass"),
    "shutdown": ("SHUTDOWN",),
    "acl": ("ACL", "LIST"),
    "monitor": ("MONITOR",),
    "clients": ("CLIENT", "LIST"),
    "replication": ("REPLICAOF", "NO", "ONE"),
    "functions": ("FUNCTION", "LIST"),
    "scripts": ("SCRIPT", "FLUSH"),
    "a channel": ("PUBLISH", "channel", "text"),
    "another's key": ("GET", "theirs"),
    "a key that begins alike": ("GET", "workers-of-others"),
    "another's key in a script": ("EVAL", "return redis.call('GET', 'theirs')", "0"),
    "another's key to rename": ("RENAME", "theirs", "broken:theirs"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_the_user_can_do_nothing_else(redis: ArqRedis, user_url: str, what: str) -> None:
    async with Redis.from_url(user_url) as client:
        try:
            with pytest.raises(Exception, match=r"(?i)permission|can't access|ACL failure") as caught:
                await _admin(client, *REFUSED[what])
        finally:
            await _admin(redis, "ACL", "LOG", "RESET")  # it is what the test is about

    assert isinstance(caught.value, NoPermissionError) or what == "another's key in a script"


@pytest.mark.slow
async def test_no_command_is_allowed_that_nobody_sends(
    as_user: Settings, programs: Programs, redis: ArqRedis, tmp_path: Path, user_url: str
) -> None:
    """The page stays as short as it can: all that it allows is used in the tests above, or named here."""
    await _admin(redis, "CONFIG", "RESETSTAT")
    await test_a_worker_its_cron_jobs_and_its_clients_need_no_more(as_user, programs, redis, tmp_path)
    await test_the_circuit_the_slots_and_the_cache_need_no_more(user_url)
    used = {name.removeprefix("cmdstat_") for name in await redis.info("commandstats")}

    allowed = {rule.removeprefix("+") for rule in rules() if rule.startswith("+")}

    # The last is a stock worker's, and database 0 needs no SELECT.
    of_rare_moments = {"discard", "unwatch", "hlen", "expire", "select", "dbsize"}
    assert allowed - used <= of_rare_moments
