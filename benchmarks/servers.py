"""PostgreSQL and Redis for the benchmark: started once, emptied for every measurement, and asked what they did."""

import asyncio
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from repositories.embedded import embedded_servers
from repositories.embedded.folder import DataFolder
from repositories.embedded.programs import find_programs

DATABASE = "bench"
_OUTAGE_PORT = 28_379
_START_SECONDS = 20.0


class Servers:
    """Both servers. ``database_url`` (``postgresql://``) and ``redis_url`` are those that systems get."""

    def __init__(self, admin_url: str, redis_url: str, folder: Path) -> None:
        self._admin_url = admin_url
        self.database_url = urlsplit(admin_url)._replace(path=f"/{DATABASE}").geturl()
        self.redis_url = redis_url
        self.folder = folder
        self._templates: set[str] = set()

    async def empty(self, template: str, prepare: Callable[[], Awaitable[None]]) -> None:
        """Make the database anew, with what ``prepare`` once made of an empty one, and empty Redis."""
        if template not in self._templates:
            await self.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", f"CREATE DATABASE {DATABASE}")
            await prepare()
            await self.execute(f"DROP DATABASE IF EXISTS template_{template} WITH (FORCE)")
            await self.execute(f"ALTER DATABASE {DATABASE} RENAME TO template_{template}")
            self._templates.add(template)
        await self.execute(
            f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)",
            f"CREATE DATABASE {DATABASE} TEMPLATE template_{template}",
            "CHECKPOINT",
        )
        async with self.redis() as redis:
            await redis.flushall()
            await redis.config_resetstat()

    async def execute(self, *statements: str) -> None:
        """Run statements as the administrator, each in its own transaction."""
        connection = await asyncpg.connect(self._admin_url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fetch(self, query: str) -> asyncpg.Record:
        """The one row of a query, from the administrator's database."""
        connection = await asyncpg.connect(self._admin_url)
        try:
            row = await connection.fetchrow(query)
        finally:
            await connection.close()
        assert row is not None
        return row

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        """A client of the Redis that systems use."""
        client: Redis = Redis.from_url(self.redis_url)
        try:
            yield client
        finally:
            await client.aclose()

    async def processes(self) -> tuple[psutil.Process, psutil.Process]:
        """PostgreSQL's first process, the parent of all its others, and Redis."""
        marker = DataFolder(self.folder).cluster / "postmaster.pid"
        async with self.redis() as redis:
            redis_id = int((await redis.info("server"))["process_id"])
        return psutil.Process(int(marker.read_text().split()[0])), psutil.Process(redis_id)

    @property
    def postgresql_log(self) -> Path:
        """What PostgreSQL said."""
        return DataFolder(self.folder).log("postgresql")


@contextmanager
def bench_servers(*, durable: bool) -> Iterator[Servers]:
    """The embedded servers in a folder of their own, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        with embedded_servers(folder / "data", durable=durable) as running:
            admin_url = running.database_url.replace("postgresql+asyncpg:", "postgresql:", 1)
            yield Servers(admin_url, running.redis_url, folder / "data")


class OutageRedis:
    """A Redis that is killed and comes back, with its data (an append-only file, synced each second)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = find_programs(folder / "unused").redis_server
        self._process: Process | None = None
        self.url = f"redis://127.0.0.1:{_OUTAGE_PORT}/0"

    async def start(self) -> None:
        """Start it, and return once it answers."""
        options = ("--bind", "127.0.0.1", "--port", str(_OUTAGE_PORT), "--save", "", "--appendonly", "yes")
        self._process = await asyncio.create_subprocess_exec(
            str(self._program), *options, "--dir", str(self._folder), stdout=DEVNULL
        )
        async with asyncio.timeout(_START_SECONDS):
            while not await self._answers():  # noqa: ASYNC110 - another process cannot set our events
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def _answers(self) -> bool:
        client: Redis = Redis.from_url(self.url)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
