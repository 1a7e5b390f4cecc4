"""The embedded PostgreSQL: how its data folder is made, how it is started and joined.

Laptop-sized, on loopback, without Unix sockets (their paths would bound the length of the data folder's). What it
stores is complete or absent: the folder is made under another name and renamed. ``durable=False`` is for tests: a power
cut then costs the data.
"""

import asyncio
import shutil
import signal
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg

from repositories.embedded.errors import EmbeddedStartError
from repositories.embedded.folder import DataFolder
from repositories.embedded.guarded import Guard, Program, Run
from repositories.embedded.programs import POSTGRESQL_MAJOR, Programs
from repositories.embedded.readiness import start_on_free_port

NAME = "PostgreSQL"
USER = "anythingllm_worker"
# Text search classes characters by the C library's locale: under plain "C" the quotes and dashes of ordinary prose
# stick to the words (measured), so it is the last resort. Sorting and case always follow PostgreSQL's own C.UTF-8.
LOCALES = ("C.UTF-8", "en_US.UTF-8", "C")
_INIT_SECONDS = 120.0
_CONNECT_SECONDS, _COMMAND_SECONDS = 10.0, 60.0

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "cluster_name": "anythingllm-worker",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def start(folder: DataFolder, programs: Programs, guard: Guard, *, durable: bool, seconds: float) -> int:
    """Start PostgreSQL, its data folder made first if missing, and return its port once it answers, within ``seconds``.

    Raises:
        EmbeddedStartError: it did not come up, or its data folder is another version's.
    """
    if folder.cluster.exists():
        _check_version(folder.cluster)
    else:
        _initialise(folder, programs, guard)
    # Left by a crash. PostgreSQL would compare the process id in it with whoever has that number now; the lock on the
    # data folder, which every server process holds, says for certain that none is left.
    (folder.cluster / "postmaster.pid").unlink(missing_ok=True)
    password = folder.password("postgresql")
    log = folder.log("postgresql")
    settings = _SETTINGS if durable else _SETTINGS | _NOT_DURABLE

    def launch(port: int) -> Run:
        options = [f"--{name}={value}" for name, value in {**settings, "port": str(port)}.items()]
        return guard.start(
            Program(
                NAME,
                (str(programs.postgres), "-D", _seen_by_server(folder.cluster, programs), *options),
                cwd=folder.cluster,
                log=log,
                stop_signals=(signal.SIGINT, signal.SIGQUIT),  # end sessions and checkpoint; then end at once
                user=programs.user,
            )
        )

    return start_on_free_port(launch, lambda port: _run(_refusal(port, password)), seconds=seconds)


def join(port: int, password: str, database: str) -> str | None:
    """Make ``database`` if it is missing; return ``None``, or why PostgreSQL cannot be used on ``port``."""
    return _run(_refusal(port, password, database))


def url(port: int, password: str, database: str) -> str:
    """Return the URL for clients."""
    return f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{port}/{database}"


def _seen_by_server(cluster: Path, programs: Programs) -> str:
    # As another user the server may not be able to walk to its folder (below /root, say). It is started inside it, and
    # this name leads to where it stands without a walk.
    if programs.user is not None and sys.platform == "linux":
        return "/proc/self/cwd"
    return str(cluster)


def _check_version(cluster: Path) -> None:
    marker = cluster / "PG_VERSION"
    found = marker.read_text().strip()[:20] if marker.exists() else "none"
    if found != POSTGRESQL_MAJOR:
        raise EmbeddedStartError(
            str(cluster),
            f"holds data of PostgreSQL {found}, but {POSTGRESQL_MAJOR} is installed; dump it with the version that "
            "wrote it, or move the folder away to begin with an empty one",
        )


def _initialise(folder: DataFolder, programs: Programs, guard: Guard) -> None:
    partial = folder.cluster.with_name("postgresql.partial")
    folder.make_password("postgresql", programs.user)
    for locale in LOCALES:
        if partial.exists():  # left by a start that was cut short, or by a locale this system lacks
            shutil.rmtree(partial)
        folder.make_private(partial, programs.user)
        run = guard.start(
            Program(
                f"{NAME} initdb",
                (
                    str(programs.initdb),
                    *("-D", _seen_by_server(partial, programs)),
                    *(f"--username={USER}", "--pwfile=/dev/stdin", "--auth=scram-sha-256"),
                    # Iterations protect passwords that can be guessed. Ours is random, and each costs every connection.
                    "--set=scram_iterations=1",
                    *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    *(f"--locale={locale}", "--lc-messages=C", "--no-instructions"),
                ),
                cwd=partial,
                log=folder.log("initdb"),
                stop_signals=(signal.SIGTERM, signal.SIGKILL),
                user=programs.user,
                stdin=folder.password_file("postgresql"),
            )
        )
        status = run.wait(_INIT_SECONDS)
        if status == 0:
            partial.rename(folder.cluster)
            return
        if status is None:
            raise run.failure(f"was not done after {_INIT_SECONDS:.0f} s")
        if "invalid locale name" not in run.output():
            break
    raise run.failure(f"ended with status {status}")


async def _refusal(port: int, password: str, database: str | None = None) -> str | None:
    try:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user=USER,
            password=password,
            database="postgres",
            ssl=False,
            timeout=_CONNECT_SECONDS,
            command_timeout=_COMMAND_SECONDS,
        )
        try:
            if database is not None:
                await _ensure_database(connection, database)
        finally:
            await connection.close(timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"{type(error).__name__}: {error}"
    return None


async def _ensure_database(connection: asyncpg.Connection, database: str) -> None:
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
        # The name was checked by embedded_servers; a database name cannot be a parameter of this statement.
        await connection.execute(f'CREATE DATABASE "{database}"')


def _run(coroutine: Coroutine[Any, Any, str | None]) -> str | None:
    # In a thread of its own: the caller may be inside a running event loop.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
