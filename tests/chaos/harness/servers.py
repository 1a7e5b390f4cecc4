"""A PostgreSQL and a Redis of the run's own, each of which can be stopped, killed, emptied and started again.

Both are durable, so whatever a client was told is kept, also by ``kill -9``. The workers reach them through a proxy
each; the harness, whose record must not suffer from its own faults, reaches them directly.
"""

import asyncio
import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from redis.asyncio import Redis
from sqlalchemy import make_url

from repositories.embedded import embedded_servers
from tests.chaos.harness.proxy import Proxy
from tests.chaos.harness.schedule import POSTGRESQL, REDIS

# Never connected to: an URL that is given keeps the embedded server of its kind from being started as well.
_NO_POSTGRESQL, _NO_REDIS = "postgresql+asyncpg://none@127.0.0.1:1/none", "redis://127.0.0.1:1/0"


class Server:
    """One server behind its proxy.

    Attributes:
        proxy: what the workers talk to.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.proxy = Proxy()
        self._folder = folder
        self._stack = ExitStack()
        self._direct = ""

    @property
    def direct_url(self) -> str:
        """The server itself; another port after every restart."""
        return self._direct

    @property
    def url(self) -> str:
        """The server through its proxy; the same for the whole run."""
        if self.name == POSTGRESQL:
            return make_url(self._direct).set(port=self.proxy.port).render_as_string(hide_password=False)
        parts = urlsplit(self._direct)
        return parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{self.proxy.port}")).geturl()

    async def start(self) -> None:
        """Start it (again), and lead the proxy to it."""
        postgresql = self.name == POSTGRESQL
        context = embedded_servers(
            self._folder,
            database_url=None if postgresql else _NO_POSTGRESQL,
            redis_url=_NO_REDIS if postgresql else None,
            durable=True,
        )
        servers = await asyncio.to_thread(self._stack.enter_context, context)
        self._direct = servers.database_url if self.name == POSTGRESQL else servers.redis_url
        port = make_url(self._direct).port if self.name == POSTGRESQL else urlsplit(self._direct).port
        assert port is not None
        self.proxy.open(port)

    async def stop(self, number: signal.Signals | None = None) -> None:
        """Stop it: in its own polite way, or by a signal to its process (``SIGKILL``, PostgreSQL's ``SIGQUIT``)."""
        if number is not None:
            os.kill(await self._pid(), number)
        await asyncio.to_thread(self._stack.close)
        self.proxy.refuse()

    def empty(self) -> None:
        """Throw away what a stopped server stored."""
        for path in (self._folder / self.name).iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    async def close(self) -> None:
        """Stop it for good."""
        await self.proxy.close()
        await asyncio.to_thread(self._stack.close)

    async def _pid(self) -> int:
        if self.name == POSTGRESQL:
            return int((self._folder / self.name / "postmaster.pid").read_text().splitlines()[0])
        async with Redis.from_url(self._direct) as client:
            return int((await client.info("server"))["process_id"])


class ChaosServers:
    """Both servers while the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.postgresql = Server(POSTGRESQL, folder / "servers-postgresql")
        self.redis = Server(REDIS, folder / "servers-redis")

    def named(self, name: str) -> Server:
        """The server called so."""
        return {POSTGRESQL: self.postgresql, REDIS: self.redis}[name]

    async def __aenter__(self) -> Self:
        try:
            await self.postgresql.start()
            await self.redis.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.close()
        await self.postgresql.close()
