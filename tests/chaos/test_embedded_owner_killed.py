"""The owner of the embedded servers, or their guardian, is killed: nothing keeps running and nothing stored is lost."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis

from repositories.embedded import EmbeddedInUseError, Servers, embedded_servers, running_servers
from repositories.embedded.ownership import acquire

pytestmark = pytest.mark.chaos

GONE_WITHIN_SECONDS = 5.0
# Says where its servers are, then does what the test added, until its standard input ends.
OWNER = """
import json, os, sys, threading
from dataclasses import asdict
from pathlib import Path
from repositories.embedded import embedded_servers
with embedded_servers(Path(sys.argv[1])) as servers:
    say = lambda **what: print(json.dumps(what), flush=True)
    say(**asdict(servers))
    {then}
    sys.stdin.read()
"""


class Owner:
    """Another process that owns the servers of ``data_dir``, in a session of its own as a terminal would give it."""

    def __init__(self, data_dir: Path, then: str = "pass") -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then=then), str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def says(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def servers(self) -> Servers:
        return Servers(**self.says())

    def guardian(self) -> psutil.Process:
        (guardian,) = psutil.Process(self.process.pid).children()
        return guardian

    def server_processes(self) -> list[psutil.Process]:
        """PostgreSQL with its helpers, and Redis: each works inside the data folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if Path(process.cwd()).is_relative_to(self.data_dir):
                    found.append(process)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_owner(data_dir: Path) -> Iterator[Callable[..., Owner]]:
    started: list[Owner] = []

    def start(then: str = "pass") -> Owner:
        started.append(Owner(data_dir, then))
        return started[-1]

    yield start
    for owner in started:
        owner.close()
    lock = acquire(data_dir / "servers.lock", seconds=10)  # free once the last of them is gone
    assert lock is not None
    os.close(lock)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded") / "data"


async def store(servers: Servers, value: str) -> None:
    connection = await asyncpg.connect(servers.database_url.replace("+asyncpg", ""))
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", value)
    await connection.close()
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set(value, "kept")


async def assert_stored(servers: Servers, value: str) -> None:
    connection = await asyncpg.connect(servers.database_url.replace("+asyncpg", ""))
    assert await connection.fetchval("SELECT count(*) FROM kept WHERE value = $1", value) == 1
    await connection.close()
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.get(value) == b"kept"


def still_running(processes: list[psutil.Process], within: float = GONE_WITHIN_SECONDS) -> list[psutil.Process]:
    """Those of ``processes`` that have not ended within so many seconds."""
    if sys.platform != "linux":
        return psutil.wait_procs(processes, timeout=within)[1]
    deadline = time.monotonic() + within
    alive = []
    for process in processes:
        # A signal of the exit itself: an orphan's entry lasts until init gets round to it, which can be a second later.
        with suppress(ProcessLookupError), os.fdopen(os.pidfd_open(process.pid)) as exited:
            if not select.select([exited], [], [], max(0.0, deadline - time.monotonic()))[0]:
                alive.append(process)
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_servers_stop_with_their_killed_owner_and_the_next_one_finds_everything(
    start_owner: Callable[..., Owner], data_dir: Path, number: signal.Signals
) -> None:
    owner = start_owner()
    await store(owner.servers(), number.name)
    running = [owner.guardian(), *owner.server_processes()]
    assert {process.name() for process in running} >= {"postgres", "redis-server"}

    owner.process.send_signal(number)

    assert still_running(running) == []
    with embedded_servers(data_dir) as servers:
        assert servers.owned
        await assert_stored(servers, number.name)


@pytest.mark.slow
async def test_the_next_owner_need_not_wait_until_the_last_ones_servers_are_gone(
    start_owner: Callable[..., Owner], data_dir: Path
) -> None:
    owner = start_owner()
    await store(owner.servers(), "at once")
    running = owner.server_processes()

    owner.process.kill()
    owner.process.wait()

    with embedded_servers(data_dir) as servers:
        assert servers.owned
        assert still_running(running, within=0) == []
        await assert_stored(servers, "at once")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process whose parent died")
@pytest.mark.parametrize("owner_too", [False, True])
async def test_the_servers_stop_with_their_killed_guardian(
    start_owner: Callable[..., Owner], data_dir: Path, owner_too: bool
) -> None:
    owner = start_owner()
    await store(owner.servers(), f"guardian {owner_too}")
    running, guardian = owner.server_processes(), owner.guardian()

    if owner_too:
        guardian.suspend()  # so that it cannot act on the owner's death before its own
        owner.process.kill()
    guardian.kill()

    assert still_running(running) == []
    with embedded_servers(data_dir) as servers:
        assert servers.owned
        await assert_stored(servers, f"guardian {owner_too}")


@pytest.mark.slow
async def test_a_server_that_outlives_owner_and_guardian_keeps_others_from_its_files_until_it_is_gone(
    start_owner: Callable[..., Owner], data_dir: Path
) -> None:
    owner = start_owner()
    owner.servers()
    (hanging,) = (process for process in owner.server_processes() if process.name() == "redis-server")
    hanging.suspend()
    owner.guardian().kill()
    owner.process.kill()
    owner.process.wait()

    try:
        with (
            pytest.raises(EmbeddedInUseError, match="it is gone, but its servers have not stopped"),
            embedded_servers(data_dir, wait_seconds=0.5),
        ):
            pass
    finally:
        hanging.resume()
    with embedded_servers(data_dir) as servers:
        assert servers.owned


@pytest.mark.slow
async def test_a_process_id_left_by_a_crash_does_not_block_the_next_start(
    start_owner: Callable[..., Owner], data_dir: Path
) -> None:
    owner = start_owner()
    await store(owner.servers(), "crash")
    running = [owner.guardian(), *owner.server_processes()]
    for process in [psutil.Process(owner.process.pid), *running]:
        process.kill()
    assert still_running(running) == []
    left = data_dir / "postgresql/postmaster.pid"
    _, *rest = left.read_text().splitlines()
    user = (data_dir / "postgresql").stat().st_uid if os.geteuid() == 0 else None

    # The number has gone to another program of the same user, as after a restart of the machine.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=user) as stranger:  # noqa: ASYNC220 - waits for nothing
        left.write_text("\n".join([str(stranger.pid), *rest, ""]))
        with embedded_servers(data_dir) as servers:
            assert servers.owned
            await assert_stored(servers, "crash")


@pytest.mark.slow
def test_an_owner_killed_while_the_data_folder_is_made_leaves_nothing_running_and_the_next_one_makes_it(
    tmp_path: Path,
) -> None:
    owner = Owner(tmp_path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "postgresql.partial/base").exists():
        assert time.monotonic() < deadline
        assert owner.process.poll() is None
    running = [owner.guardian(), *owner.server_processes()]
    names = set()
    for process in running:
        with suppress(psutil.NoSuchProcess):  # initdb starts helpers that come and go
            names.add(process.name())

    owner.close()

    assert "initdb" in names

    assert still_running(running) == []
    assert not (tmp_path / "postgresql").exists()
    (tmp_path / "postgresql.partial").mkdir(exist_ok=True)
    (tmp_path / "postgresql.partial/left").touch()  # initdb tidies up after itself, unless it is killed as well
    with embedded_servers(tmp_path, durable=False) as servers:
        assert servers.owned
    assert not (tmp_path / "postgresql.partial").exists()


@pytest.mark.slow
def test_a_child_that_the_owner_forked_does_not_keep_the_servers_alive(
    start_owner: Callable[..., Owner], data_dir: Path
) -> None:
    owner = start_owner(
        """
    if not (child := os.fork()):
        threading.Event().wait()
    say(child=child)
    """.strip()
    )
    owner.servers()
    child = psutil.Process(owner.says()["child"])
    running = [process for process in owner.server_processes() if process != child]
    try:
        owner.process.kill()

        assert still_running(running) == []
        assert running_servers(data_dir) is None  # the child holds no lock of its parent's either
        assert child.is_running()
    finally:
        child.kill()


@pytest.mark.slow
async def test_ctrl_c_reaches_the_owner_and_leaves_it_its_servers_until_it_is_done(
    start_owner: Callable[..., Owner],
) -> None:
    owner = start_owner(
        """
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        say(interrupted=True)
    """.strip()
    )
    servers = owner.servers()
    running = [owner.guardian(), *owner.server_processes()]

    assert owner.process.pid not in {os.getsid(process.pid) for process in running}
    os.killpg(owner.process.pid, signal.SIGINT)  # what a terminal does: every process of the foreground group gets it

    assert owner.says() == {"interrupted": True}
    await store(servers, "after Ctrl-C")
    owner.process.communicate()
    assert owner.process.returncode == 0
    assert still_running(running, within=0) == []


@pytest.mark.slow
def test_a_server_that_hangs_is_killed_in_the_end(start_owner: Callable[..., Owner]) -> None:
    owner = start_owner()
    owner.servers()
    running = owner.server_processes()
    (hanging,) = (process for process in running if process.name() == "redis-server")
    hanging.suspend()

    owner.process.kill()

    assert still_running(running, within=10) == []
