"""Stored bytes: streamed in with bounded memory, read at any place, swept away only when nobody can need them."""

import asyncio
import hashlib
import io
import os
import time
import zipfile
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from pathlib import Path

import obstore
import psutil
import pytest
from obstore.store import from_url

from worker.storage import (
    Storage,
    StorageUnavailableError,
    Stored,
    StoredBytesMissingError,
    Swept,
    TooLargeError,
    sweeping,
)
from worker.storage import store as store_module

MIB = 1024 * 1024
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture(params=["folder", "file-url", "memory"])
def storage(request: pytest.FixtureRequest, folder: Path) -> Storage:
    return Storage({"folder": str(folder), "file-url": folder.as_uri(), "memory": "memory:///"}[request.param])


@pytest.fixture
def local(folder: Path) -> Storage:
    return Storage(str(folder))


async def nobody(digests: Collection[str]) -> Collection[str]:
    return ()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pieces(size: int, piece: int = MIB) -> list[bytes]:
    """Random content, so that parts in the wrong order are seen; another with each call."""
    content = os.urandom(size)
    return [content[at : at + piece] for at in range(0, size, piece)]


async def given(parts: list[bytes], then: BaseException | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then is not None:
        raise then


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def make_old(folder: Path, days: float = 2) -> None:
    then = time.time() - days * 86_400
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 30 * MIB + 7])
async def test_a_stream_is_stored_under_the_digest_of_its_bytes(storage: Storage, size: int) -> None:
    parts = pieces(size)
    content = b"".join(parts)

    from_pieces = await storage.put_stream(given(parts), size)
    from_file = await storage.put_stream(io.BytesIO(content), size)

    assert from_pieces == from_file == Stored(digest(content), size)
    assert await storage.get(from_pieces.sha256) == content


async def test_nothing_but_the_bytes_is_left_of_a_stream(local: Storage, folder: Path) -> None:
    stored = await local.put_stream(given(pieces(20 * MIB)), 20 * MIB)

    assert files(folder) == [f"sha256/{stored.sha256[:2]}/{stored.sha256}"]


@pytest.mark.parametrize("max_bytes", [10, 20 * MIB - 1])
async def test_a_stream_that_is_too_long_leaves_nothing(local: Storage, folder: Path, max_bytes: int) -> None:
    with pytest.raises(TooLargeError, match=f"more than {max_bytes:,} bytes"):
        await local.put_stream(given(pieces(20 * MIB)), max_bytes)

    assert files(folder) == []


async def test_an_endless_stream_ends_at_its_bound(local: Storage, folder: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(MIB)

    with pytest.raises(TooLargeError):
        await local.put_stream(endless(), 40 * MIB)

    assert files(folder) == []


async def test_what_the_source_raises_passes_through_and_leaves_nothing(local: Storage, folder: Path) -> None:
    with pytest.raises(ConnectionResetError, match="gone"):
        await local.put_stream(given(pieces(20 * MIB), then=ConnectionResetError("gone")), 90 * MIB)

    assert files(folder) == []


async def test_a_cancelled_stream_leaves_nothing(local: Storage, folder: Path) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        for part in pieces(20 * MIB):
            yield part
        begun.set()
        await never.wait()

    upload = asyncio.create_task(local.put_stream(source(), 90 * MIB))
    await begun.wait()
    assert files(folder) != []  # so that the last line can fail
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert files(folder) == []


async def test_a_stream_of_300_mib_needs_the_memory_of_a_few_parts(local: Storage) -> None:
    process, part = psutil.Process(), os.urandom(MIB)
    await local.put_stream(given([part] * 20), 20 * MIB)  # what is allocated once
    before, peak = process.memory_info().rss, 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal peak
        for _ in range(300):
            peak = max(peak, process.memory_info().rss)
            yield part

    await local.put_stream(source(), 300 * MIB)

    assert peak - before < 80 * MIB


async def test_an_opened_object_reads_like_a_file(storage: Storage) -> None:
    content = b"".join(pieces(5 * MIB + 3))
    sha256 = await storage.put(content)

    with await asyncio.to_thread(storage.open, sha256) as file:
        assert await asyncio.to_thread(file.read) == content
        assert file.read(1) == b""
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]
        assert file.seek(3 * MIB) == 3 * MIB
        assert file.read(5) == content[3 * MIB : 3 * MIB + 5]
        assert file.seek(2, os.SEEK_CUR) == 3 * MIB + 7
        assert file.tell() == 3 * MIB + 7
        assert file.seek(len(content) + 5) == len(content) + 5
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-len(content) - 1, os.SEEK_END)


async def test_an_entry_of_a_large_zip_is_read_with_few_requests(
    local: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(60):
            archive.writestr(f"{number}.bin", os.urandom(MIB))
    with path.open("rb") as packed:
        stored = await local.put_stream(packed, 90 * MIB)
    asked: list[int] = []
    original = obstore.get_range

    def noting(store: object, key: str, *, start: int, end: int) -> object:
        asked.append(end - start)
        return original(store, key, start=start, end=end)  # type: ignore[arg-type]  # it is passed on

    monkeypatch.setattr(obstore, "get_range", noting)
    with local.open(stored.sha256) as file, zipfile.ZipFile(file) as archive:
        opening = len(asked)
        with archive.open("30.bin") as entry:
            size = sum(len(piece) for piece in iter(lambda: entry.read(4_096), b""))

    assert size == MIB
    assert opening <= 6
    assert len(asked) - opening <= 6
    # An entry of 1 MiB is read in pieces of some kilobytes, each after a seek: they come from the buffer.
    assert sum(asked[opening:]) <= 4 * MIB


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "/..", f"{'a' * 64}\n"])
async def test_a_key_that_is_no_digest_is_refused(local: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        await local.get(name)
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        local.open(name)
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        await local.delete([name])


async def test_bytes_that_are_not_there_are_missing(storage: Storage) -> None:
    with pytest.raises(StoredBytesMissingError):
        await storage.get("0" * 64)
    with pytest.raises(StoredBytesMissingError):
        storage.open("0" * 64)


async def test_bytes_that_are_deleted_while_they_are_read_are_missing(storage: Storage) -> None:
    sha256 = await storage.put(os.urandom(5 * MIB))

    with storage.open(sha256) as file:
        assert len(file.read(10)) == 10
        await storage.delete([sha256])
        with pytest.raises(StoredBytesMissingError):
            file.read()


async def test_deleted_bytes_are_gone_and_deleting_again_is_no_error(storage: Storage) -> None:
    gone, stays = await storage.put(b"gone"), await storage.put(b"stays")

    await storage.delete([gone])
    await storage.delete([gone])

    with pytest.raises(StoredBytesMissingError):
        await storage.get(gone)
    assert await storage.get(stays) == b"stays"


async def test_a_sweep_takes_what_is_old_and_named_by_nobody(local: Storage, folder: Path) -> None:
    named, old = await local.put(b"named"), await local.put(b"unnamed")
    make_old(folder)
    young = await local.put(b"young")
    asked: list[str] = []

    async def keep(digests: Collection[str]) -> Collection[str]:
        asked.extend(digests)
        return [named]

    assert await local.sweep(DAY, keep) == Swept(1, len(b"unnamed"))
    assert sorted(asked) == sorted([named, old])  # nobody is asked about young bytes
    assert files(folder) == sorted(f"sha256/{sha256[:2]}/{sha256}" for sha256 in (named, young))


async def test_a_sweep_asks_page_by_page(local: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "_PAGE", 10)
    for number in range(35):
        await local.put(str(number).encode())
    make_old(folder)
    asked: list[int] = []

    async def keep(digests: Collection[str]) -> Collection[str]:
        asked.append(len(digests))
        return ()

    assert (await local.sweep(DAY, keep)).count == 35
    assert sorted(asked) == [5, 10, 10, 10]
    assert files(folder) == []


async def test_a_sweep_takes_what_dead_uploads_left(local: Storage, folder: Path) -> None:
    await local.put(b"whole")
    (sha256,) = files(folder)
    for name in ("incoming/9f1c", "incoming/77aa#1", f"{sha256}#2", "condemned/" + "0" * 64):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    make_old(folder)
    (folder / "incoming/beef#1").write_bytes(b"still being written")

    async def everything(digests: Collection[str]) -> Collection[str]:
        return digests

    assert await local.sweep(DAY, everything) == Swept(3, 12)
    assert files(folder) == sorted(["incoming/beef#1", sha256])


async def test_a_sweep_leaves_files_alone_that_are_not_stored_bytes(local: Storage, folder: Path) -> None:
    await local.put(b"x")
    others = [folder / "sha256/readme.txt", folder / "sha256/aa" / ("b" * 64), folder / "mine"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not ours")
    make_old(folder)

    assert (await local.sweep(DAY, nobody)).count == 1
    assert all(path.exists() for path in others)


async def test_a_sweep_that_would_take_what_a_put_relies_on_is_refused(local: Storage) -> None:
    with pytest.raises(ValueError, match="at least 2:00:00"):
        await local.sweep(timedelta(minutes=119), nobody)


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_what_is_put_again_is_young_again(local: Storage, folder: Path, size: int) -> None:
    content = b"".join(pieces(size))
    await local.put_stream(given([content]), size)
    make_old(folder)

    stored = await local.put_stream(given([content]), size)

    assert (await local.sweep(DAY, nobody)).count == 0
    assert await local.get(stored.sha256) == content


async def test_young_content_is_not_written_again(local: Storage, folder: Path) -> None:
    await local.put(b"same")
    (name,) = files(folder)
    before = (folder / name).stat()

    await local.put(b"same")

    assert (folder / name).stat().st_ino == before.st_ino


@pytest.mark.parametrize("step", ["before_looking", "before_deleting"])
async def test_a_sweep_never_takes_what_is_put_while_it_sweeps(
    local: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A put begins at the worst moments: the sweep has decided, and looks; it has looked, and deletes."""
    sha256 = await local.put(b"wanted again")
    make_old(folder)
    putting: list[asyncio.Task[str]] = []
    wrote = asyncio.Event()
    look, delete, put = obstore.head_async, obstore.delete_async, obstore.put_async

    async def begin_the_put() -> None:
        if not putting:
            putting.append(asyncio.create_task(local.put(b"wanted again")))
            await wrote.wait()

    async def noting_put(store: object, key: str, content: bytes, **options: object) -> object:
        done = await put(store, key, content, **options)  # type: ignore[arg-type]  # they are passed on
        if key.startswith("sha256/"):
            wrote.set()
        return done

    async def looking(store: object, key: str) -> object:
        if step == "before_looking" and key == sweeping.key_of(sha256) and (folder / "condemned" / sha256).exists():
            await begin_the_put()
        return await look(store, key)  # type: ignore[arg-type]  # they are passed on

    async def deleting(store: object, key: str) -> object:
        if step == "before_deleting" and key == sweeping.key_of(sha256):
            await begin_the_put()
        return await delete(store, key)  # type: ignore[arg-type, func-returns-value]  # they are passed on

    monkeypatch.setattr(obstore, "put_async", noting_put)
    monkeypatch.setattr(obstore, "head_async", looking)
    monkeypatch.setattr(obstore, "delete_async", deleting)

    swept = await local.sweep(DAY, nobody)

    assert await putting[0] == sha256
    assert await local.get(sha256) == b"wanted again"
    assert swept.count == (1 if step == "before_deleting" else 0)  # there it was too late: the put wrote it once more
    assert files(folder) == [f"sha256/{sha256[:2]}/{sha256}"]


async def test_puts_and_sweeps_at_once_lose_nothing(local: Storage, folder: Path) -> None:
    contents = [f"content {number}".encode() for number in range(40)]
    for _ in range(15):
        await asyncio.gather(*map(local.put, contents))
        make_old(folder)

        await asyncio.gather(*[local.sweep(2 * HOUR, nobody) for _ in range(2)], *map(local.put, contents))

        for content in contents:
            assert await local.get(digest(content)) == content


async def test_a_put_gives_up_on_a_sweep_that_does_not_end(
    local: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = await local.put(b"held")
    make_old(folder)
    (folder / "condemned").mkdir(exist_ok=True)
    (folder / "condemned" / sha256).write_bytes(b"")
    monkeypatch.setattr(sweeping, "_WAIT_FOR_SWEEP", timedelta(0))

    with pytest.raises(StorageUnavailableError, match="a sweep has held these bytes"):
        await local.put(b"held")
    make_old(folder)  # a marker that old is of a sweep that died
    assert await local.put(b"held") == sha256


@pytest.mark.parametrize("url", ["s3://bucket/inbox", "gs://bucket/inbox"])
def test_a_bucket_is_named_by_a_url(url: str) -> None:
    storage = Storage(url)

    assert storage._store == from_url(url)
    assert storage._folder is None


@pytest.mark.parametrize("url", ["nonsense://x", "s3://", "file://elsewhere/share"])
def test_a_url_that_cannot_be_opened_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StorageUnavailableError) as raised:
        Storage(url)

    assert url not in str(raised.value)


def test_the_part_size_is_one_that_s3_takes() -> None:
    assert store_module._PART_BYTES >= 5 * MIB
