"""No secret of the settings is shown: by the command, in a text of the object, in an error, to child processes."""

import json
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from repositories.database import DatabaseManager
from worker.queue import connect
from worker.settings import Settings, SettingsError, load_settings, variable_name
from worker.storage import Storage, StorageUnavailableError

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


def worker(*arguments: str, **given: str) -> str:
    """All that a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=environment(**given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_what_sounds_secret_is_a_secret() -> None:
    sound = {variable_name(name) for name in Settings.model_fields if SOUNDS_SECRET.search(name)}

    assert sound - PLACES == SECRETS
    assert len(SECRETS) >= 7


@pytest.mark.parametrize("arguments", [("settings",), ("settings", "--json")])
def test_the_settings_command_masks_every_secret(arguments: tuple[str, ...]) -> None:
    shown = worker(*arguments)

    assert CANARY not in shown
    assert "127.0.0.1:9" in shown  # where a URL leads is no secret
    if "--json" in arguments:
        values = json.loads(shown)
        assert {values[name] for name in SECRETS - URLS.keys()} == {"***"}


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        ("db", "current"),
        ("jobs", "list"),
        ("run",),
        ("upload", "README.md", "-w", "x"),
    ],
)
def test_a_command_that_fails_shows_no_secret(arguments: tuple[str, ...], debug: bool) -> None:
    shown = worker(*(("--debug",) if debug else ()), *arguments)

    assert shown
    assert CANARY not in shown


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
    manager = DatabaseManager(settings.database_url.get_secret_value().replace("?password", "?x"))
    told = [settings, manager, manager.engine, connect(settings.redis_url.get_secret_value())]

    shown = "\n".join(f"{each} {each!r}" for each in told)
    shown += f"{settings.model_dump()} {settings.model_dump_json()}"

    assert CANARY not in shown.replace(f"{CANARY}u", "user").replace(f"x={CANARY}q", "")


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


async def _large() -> Any:
    for _ in range(10):
        yield os.urandom(1024 * 1024)
