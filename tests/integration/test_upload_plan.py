"""What a plan of an upload says, next to what the upload then does."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from repositories.database import DatabaseManager
from tests.archives import packed
from tests.engines import NotingEngine
from worker.client import JobClient
from worker.execution import execute
from worker.files import FileSource
from worker.queue import JobQueue
from worker.run import Runtime
from worker.settings import Settings
from worker.storage import Storage
from worker.uploads.opening import make_sources
from worker.uploads.planning import Fate

PROGRAM = b"\x7fELF" + bytes(100)


def on_disk(folder: Path, contents: dict[str, bytes]) -> list[FileSource]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [FileSource(name, folder / name) for name in contents]


async def uploaded(client: JobClient, runtime: Runtime, contents: dict[str, bytes]) -> None:
    files = [FileSource(name, content) for name, content in contents.items()]
    job = await client.upload_documents("handbook", files, source="folder")
    await execute(runtime, str(job.id))


async def test_a_plan_says_what_an_upload_would_do_and_does_nothing(
    client: JobClient, runtime: Runtime, engine: NotingEngine, tmp_path: Path
) -> None:
    await uploaded(client, runtime, {"same.txt": b"same", "changed.txt": b"old", "gone.txt": b"gone"})
    contents = {"same.txt": b"same", "changed.txt": b"new", "twin.txt": b"same", "fresh.txt": b"fresh"}
    files = on_disk(tmp_path, contents | {"pack.zip": packed(inner__txt=b"inner")})

    plan = await client.plan_upload("handbook", files, "folder")

    assert {one.name: one.fate for one in plan} == {
        "same.txt": Fate.UNCHANGED,
        "changed.txt": Fate.CHANGED,
        "twin.txt": Fate.DUPLICATE,
        "fresh.txt": Fate.NEW,
        "gone.txt": Fate.ORPHANED,
        "pack.zip/inner.txt": Fate.NEW,
    }
    assert len(engine.added) == 3


async def test_nothing_is_told_as_orphaned_while_a_file_would_fail(
    client: JobClient, runtime: Runtime, tmp_path: Path
) -> None:
    await uploaded(client, runtime, {"bad.txt": b"once good", "gone.txt": b"gone", "same.txt": b"same"})

    plan = await client.plan_upload("handbook", on_disk(tmp_path, {"bad.txt": b"", "same.txt": b"same"}), "folder")

    assert {one.name: one.fate for one in plan} == {"bad.txt": Fate.UNSUPPORTED, "same.txt": Fate.UNCHANGED}


async def test_a_plan_refuses_what_the_upload_refuses_with_the_same_codes(
    database: DatabaseManager,
    queue: JobQueue,
    storage: Storage,
    settings: Settings,
    runtime: Runtime,
    tmp_path: Path,
) -> None:
    bounds = {"allowed_file_types": (".txt", ".zip"), "max_file_bytes": 1_000, "max_archive_bytes": 2_000}
    strict = settings.model_copy(update=bounds)
    client = JobClient(database, queue, storage, strict, engine="noting")
    contents = {
        "good.txt": b"good",
        "long.txt": b"x" * 1_001,
        "empty.txt": b"",
        "page.html": b"<html><body>a page</body></html>",
        "notes.zip": b"only a text",
        "hollow.zip": packed(),
        "wide.zip": bytes(2_001),
        "pack.zip": packed(inner__txt=b"inner", page__html=b"<html><body>one more</body></html>", program__txt=PROGRAM),
    }
    files = [*on_disk(tmp_path, contents), FileSource("nul\0.txt", tmp_path / "good.txt")]

    plan = await client.plan_upload("handbook", files)
    job = await client.upload_documents("handbook", files)
    await execute(replace(runtime, settings=strict, sources=make_sources(strict)), str(job.id))

    items = {item.key: item for item in await client.items(job.id)}
    codes = {name: item.error_code for name, item in items.items()}
    assert {one.name: one.code for one in plan} == codes
    assert codes == {
        "good.txt": None,
        "long.txt": "too_large",
        "empty.txt": "empty",
        "page.html": "type_not_allowed",
        "notes.zip": "corrupt",
        "hollow.zip": "empty",
        "wide.zip": "too_large",
        "pack.zip/inner.txt": None,
        "pack.zip/page.html": "type_not_allowed",
        "pack.zip/program.txt": "unsupported_type",
        "nul\ufffd.txt": "invalid_name",
    }
    archives = {one.name: one.about for one in plan if one.name.endswith(".zip")}
    assert archives == {name: items[name].error for name in archives}


async def test_an_error_of_reading_one_file_does_not_hide_the_others(
    client: JobClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A long text that is no UTF-8 needs room for its conversion, and there is none.
    files = on_disk(tmp_path, {"a.txt": b"alpha", "long.txt": "Öl für die Pumpe. ".encode("cp1252") * 100_000})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

    plan = await client.plan_upload("handbook", files)

    assert [(one.name, one.fate, one.code) for one in plan] == [
        ("a.txt", Fate.NEW, None),
        ("long.txt", Fate.UNSUPPORTED, "unreadable"),
    ]
