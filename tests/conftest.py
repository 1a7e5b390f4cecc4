"""Servers, databases and clients for the tests: a real PostgreSQL and a real Redis, from wheels unless a URL names
others.

One migrated template database a session; each test that asks for ``database`` has a copy of it to itself.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import pytest
import structlog
from arq.connections import ArqRedis
from sqlalchemy import Engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.embedded import Servers, embedded_servers
from repositories.jobs import JobRepository
from repositories.migrations import upgrade
from tests.databases import Databases
from worker.queue import JobQueue, connect
from worker.settings import Settings

# Read now: the session's fixtures take variables away that are settings of the worker.
_A_REAL_SERVER = "ANYTHINGLLM_URL" in os.environ


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Tests read no ``.env`` and none of the developer's variables but the two that name servers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            if name not in {"database_url", "redis_url"}:
                patch.delenv(name.upper(), raising=False)
        patch.setitem(Settings.model_config, "env_file", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """HTTP clients read one certificate, not over a hundred, which takes 45 ms each time; no test meets one of those.

    A server that ``ANYTHINGLLM_URL`` names may have a certificate of any of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not _A_REAL_SERVER:
            end = "-----END CERTIFICATE-----\n"
            first, _, _ = Path(certifi.where()).read_text("ascii").partition(end)
            path = tmp_path_factory.mktemp("authorities") / "one.pem"
            path.write_text(first + end)
            patch.setenv("SSL_CERT_FILE", str(path))
            patch.setattr(certifi, "where", lambda: str(path))
        yield


@pytest.fixture(autouse=True)
def log_lines_as_at_first() -> Iterator[None]:
    """What a test configures of the log ends with it: another one looks at the lines."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Redis for the whole session; ``DATABASE_URL`` and ``REDIS_URL`` replace either."""
    with embedded_servers(
        tmp_path_factory.mktemp("servers"),
        database_url=os.environ.get("DATABASE_URL"),
        redis_url=os.environ.get("REDIS_URL"),
        durable=False,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """This process's own Redis database: tests empty it, and beside this one another process may run tests."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return urlsplit(servers.redis_url)._replace(path=f"/{number}").geturl()


@pytest.fixture(scope="session")
def databases(servers: Servers) -> Iterator[Databases]:
    """Copies of a database with the newest schema."""
    server = make_url(servers.database_url).set(database="postgres")
    with Databases(server, "template0") as bare:
        template = bare.make()

        async def migrate() -> None:
            async with DatabaseManager(bare.url(template), pool_size=1) as manager:
                await upgrade(manager.engine)

        asyncio.run(migrate())
        with Databases(server, template) as databases:
            yield databases
        bare.drop(template)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A database for this test, with the newest schema and no rows; a new one if it is marked ``own_database``."""
    if request.node.get_closest_marker("own_database"):
        name = databases.make()
        yield databases.url(name)
        databases.drop(name)
    else:
        lent = databases.lend()
        yield databases.url(lent.name)
        databases.take_back(lent)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database without any table."""
    name = databases.make("template0")
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(database_url) as manager:
        yield manager


@pytest.fixture(scope="session")
def shared_url(databases: Databases) -> Iterator[str]:
    """A database for every test that rolls its work back."""
    name = databases.make()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def session(shared_url: str) -> AsyncIterator[AsyncSession]:
    """A session whose work is rolled back."""
    async with DatabaseManager(shared_url, pool_size=1) as manager, manager.get_session() as session:
        yield session


@pytest.fixture
def jobs(session: AsyncSession) -> JobRepository:
    return JobRepository(session)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that any engine sends from now on; ``clear()`` it before what is to be counted."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield sent
    event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    """An empty Redis database of this test's own."""
    client = connect(redis_url)
    await client.flushdb()
    yield client
    await client.flushdb()
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def queue(redis: ArqRedis) -> JobQueue:
    return JobQueue(redis)


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings for this test's servers, with a storage folder of its own; nothing is read from a ``.env``."""
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "storage_url": str(tmp_path / "storage"),
            "data_dir": tmp_path / "data",
        }
    )
