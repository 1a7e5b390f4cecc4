"""No secret of the settings is shown: by the command, in a text of the object, in an error, to child processes."""

import json
import os
import re
import subprocess
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from repositories.database import DatabaseManager
from tests.waiting import until
from worker.cli.context import environment as child_environment
from worker.engines.anythingllm.transport import Call, Transport
from worker.engines.base import EngineRefusedError
from worker.queue import connect
from worker.settings import Settings, SettingsError, load_settings, variable_name
from worker.storage import Storage, StorageUnavailableError
from worker.supervisor import Supervisor

CANARY = "c4n4ry"
SOUNDS_SECRET = re.compile(r"key|secret|password|passwd|token|credential|dsn|_url$")
URLS = {
    "DATABASE_URL": f"postgresql+asyncpg://{CANARY}u:{CANARY}p%40@127.0.0.1:9/db?password={CANARY}q",
    "DATABASE_REPLICA_URL": f"postgresql+asyncpg://{CANARY}u:{CANARY}/p@127.0.0.1:9/db",
    "DATABASE_DIRECT_URL": f"postgresql+asyncpg://{CANARY}u:{CANARY}p@127.0.0.1:9/db",
    "REDIS_URL": f"redis://{CANARY}u:{CANARY}p@127.0.0.1:9/0?password={CANARY}q",
}
PLACES = {"STORAGE_URL", "ANYTHINGLLM_URL"}  # shown as they are: a secret in one is refused


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


SECRETS = {variable_name(name) for name, field in Settings.model_fields.items() if _is_secret(field.annotation)}


def environment(**given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    secrets = {name: URLS.get(name, f"{CANARY}-{name}") for name in SECRETS}
    return kept | secrets | {"ANYTHINGLLM_URL": "http://127.0.0.1:9/api", "COLUMNS": "300"} | given


COMMANDS = [
    *(("settings",), ("settings", "--json"), ("db", "current"), ("jobs", "list"), ("run",)),
    *(
        ("upload", "README.md", "-w", "x"),
        ("--debug", "db", "current"),
        ("--debug", "jobs", "list"),
        ("--debug", "run"),
    ),
    ("--debug", "upload", "README.md", "-w", "x"),
]
# One process for all of them: to import the package takes longer than they do.
PROGRAM = """
import json, sys
from worker.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["worker", *arguments]
    try:
        main()
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        print("\\x00", flush=True, file=stream)
"""


def printed(commands: list[tuple[str, ...]], folder: Path, given: dict[str, str]) -> list[str]:
    """All that each command prints, in a process of its own environment."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        env=given,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pieces = zip(done.stdout.split("\x00\n"), done.stderr.split("\x00\n"), strict=True)
    return [f"{out}{err}" for out, err in pieces][:-1]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], str]:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "README.md").write_text("A document.")
    return dict(zip(COMMANDS, printed(COMMANDS, folder, environment()), strict=True))


def test_what_sounds_secret_is_a_secret() -> None:
    sound = {variable_name(name) for name in Settings.model_fields if SOUNDS_SECRET.search(name)}

    assert sound - PLACES == SECRETS
    assert len(SECRETS) >= 7


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_shows_a_secret(shown: dict[tuple[str, ...], str], arguments: tuple[str, ...]) -> None:
    assert shown[arguments].strip()
    assert CANARY not in shown[arguments]
    assert "--debug" not in arguments or "Traceback" in shown[arguments] or "run" in arguments


def test_the_settings_command_masks_every_secret(shown: dict[tuple[str, ...], str]) -> None:
    values = json.loads(shown["settings", "--json"])

    assert {values[name] for name in SECRETS - URLS.keys()} == {"***"}
    assert "127.0.0.1:9" in shown["settings",]  # where a URL leads is no secret


def test_a_secret_of_a_file_is_shown_as_little(tmp_path: Path) -> None:
    given = environment()
    lines = [f"{name}={given.pop(name)}" for name in sorted(SECRETS)]
    (tmp_path / ".env").write_text("\n".join(lines))
    right = printed([("settings",)], tmp_path, given)
    (tmp_path / ".env").write_text("\n".join([*lines, f"REDIS_URL=ftp://u:{CANARY}@h", f"WORKER_CONCURRENCY={CANARY}"]))
    wrong = printed([("settings",), ("--debug", "jobs", "list")], tmp_path, given)

    assert "ANYTHINGLLM_API_KEY" in right[0]
    assert "WORKER_CONCURRENCY" in wrong[0]
    assert CANARY not in f"{right}{wrong}"


async def test_worker_processes_are_started_without_a_secret_in_their_command_lines() -> None:
    settings = load_settings(**{name.lower(): value for name, value in URLS.items()})
    told = child_environment(settings.model_copy(update={"anythingllm_api_key": SecretStr(CANARY)}))
    lines: list[str] = []

    async def started() -> bool:
        lines[:] = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        return sum("worker run" in line for line in lines) == 2

    async with Supervisor(2, told, 0.1, quiet=True):
        await until(started)

    assert CANARY not in f"{lines}"


class Repeating(BaseHTTPRequestHandler):
    """A server that refuses its key, and quotes all that it was asked with."""

    def do_GET(self) -> None:
        body = json.dumps({"error": f"401 for {self.headers.items()} and {self.headers['Authorization']}"}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


async def test_an_engine_that_refuses_the_key_and_quotes_it_is_not_repeated() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Repeating) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        transport = Transport(f"http://127.0.0.1:{server.server_port}/api", SecretStr(f"{CANARY}-key"))
        try:
            with pytest.raises(EngineRefusedError) as caught:
                await transport.send(Call("auth", "GET", "/v1/auth", "the key", 10.0))
        finally:
            await transport.aclose()
            server.shutdown()

    told = "".join(traceback.format_exception(caught.value))
    assert CANARY not in f"{told}{caught.value!r}{transport!r}{vars(transport)!r}"


@pytest.mark.parametrize(
    "variable",
    ["DATABASE_URL", "REDIS_URL", "STORAGE_URL", "ANYTHINGLLM_URL", "OBJECT_SOURCES", "WORKER_CONCURRENCY"],
)
@pytest.mark.parametrize(
    "value",
    [
        f"mysql://u:{CANARY}@h/db",
        f"postgresql://u:{CANARY}@h:{CANARY}/db",
        f"redis://u:{CANARY}@h:{CANARY}",
        f"s3://u:{CANARY}@bucket/x",
        f"https://h/api?key={CANARY}",
        f"http://{CANARY}@h/api#{CANARY}",
    ],
)
def test_a_malformed_value_is_refused_or_masked(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    for name, given in environment(**{variable: value}).items():
        monkeypatch.setenv(name, given)
    try:
        shown = repr(load_settings())
    except SettingsError as error:
        shown = "".join(traceback.format_exception(error))

    assert CANARY not in shown


@pytest.mark.parametrize("url", [f"s3://u:{CANARY}@bucket/x", f"https://h/x?sig={CANARY}", f"gs://b/x#{CANARY}"])
def test_a_place_that_is_shown_may_hold_no_secret(url: str) -> None:
    with pytest.raises(SettingsError, match="must hold no user, password or query") as caught:
        load_settings(storage_url=url)

    assert CANARY not in str(caught.value)


def test_texts_of_objects_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.redis_url is not None
    manager = DatabaseManager(settings.database_url.get_secret_value())
    engine = manager.engine
    told = [settings, manager, engine, engine.sync_engine, engine.url, connect(settings.redis_url.get_secret_value())]

    shown = "\n".join(f"{each} {each!r}" for each in told)
    shown += f"{settings.model_dump()} {settings.model_dump_json()}"

    assert CANARY not in shown.replace(f"{CANARY}u", "user")


def test_a_storage_that_cannot_be_opened_is_not_quoted() -> None:
    with pytest.raises(StorageUnavailableError) as caught:
        Storage(f"nothing://{CANARY}")

    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_stored_bytes_are_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        storage = Storage(str(tmp_path / "deep" / "storage"))
        await storage.put(b"a document")
        await storage.put_stream(_large(), 64 * 1024 * 1024)
    finally:
        os.umask(before)

    folder = tmp_path / "deep" / "storage"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


async def test_a_folder_that_is_there_keeps_the_rights_a_person_gave_it(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o750)

    await Storage(str(folder)).put(b"a document")

    (file,) = [path for path in folder.rglob("*") if path.is_file()]
    assert folder.stat().st_mode & 0o777 == 0o750
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("mode", "told"), [(0o700, 0), (0o711, 0), (0o750, 1), (0o755, 1)])
def test_a_folder_that_others_may_read_is_told(tmp_path: Path, mode: int, told: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)

    with capture_logs() as lines:
        Storage(str(folder)).warn_if_open()

    assert [line["event"] for line in lines] == ["storage.open_to_others"] * told
    assert [line["mode"] for line in lines] == [f"{mode:04o}"] * told


async def _large() -> Any:
    for _ in range(10):
        yield os.urandom(1024 * 1024)
