"""Opening documents in archives: what is held open, and for how long."""

import asyncio
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.archives import packed
from worker.documents.archives import Archive, Entry
from worker.payloads import DocumentItem
from worker.storage import Storage
from worker.uploads.opening import Opener, Sources

PACK = packed(a__txt=b"alpha")
FILES = 60


class Lent(io.BytesIO):
    """An archive's bytes, whose closing a test may hold up."""

    def __init__(self, closing: Callable[[], None]) -> None:
        super().__init__(PACK)
        self._closing = closing

    def close(self) -> None:
        if not self.closed:
            self._closing()
        super().close()


class LendingStorage(Storage):
    """Has the same archive under every digest; the first that is closed waits until it ``may_close``."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lent: dict[str, Lent] = {}
        self.closing, self.may_close = threading.Event(), threading.Event()

    def open(self, sha256: str) -> BinaryIO:
        self.lent[sha256] = Lent(self._wait)
        return self.lent[sha256]

    def _wait(self) -> None:
        self.closing.set()
        assert self.may_close.wait(10)


def in_archive(number: int) -> DocumentItem:
    return DocumentItem(name="pack.zip/a.txt", sha256=f"{number:064}", archive="pack.zip", path=("0",))


class CountedFile(io.BytesIO):
    """Counts the bytes that are read of it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


class OneFileStorage(Storage):
    """Has one file under every digest."""

    def __init__(self, url: str, file: BinaryIO) -> None:
        super().__init__(url)
        self._file = file

    def open(self, sha256: str) -> BinaryIO:
        return self._file


def tar_gz(files: Iterable[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def flat() -> bytes:
    # A name beyond ASCII has a header of its own before it.
    return tar_gz((f"Größe {number}.bin", os.urandom(20_000)) for number in range(FILES))


def nested() -> bytes:
    parts = [
        (f"{part}.tar.gz", tar_gz((f"{number}.bin", os.urandom(20_000)) for number in range(FILES // 6)))
        for part in range(6)
    ]
    return tar_gz(parts)


@pytest.mark.parametrize("made", [flat, nested])
@pytest.mark.parametrize("every", [1, 3])
async def test_a_packed_tar_is_unpacked_once_however_many_documents_of_it_are_read_at_a_time(
    sources: Sources, tmp_path: Path, made: Callable[[], bytes], every: int
) -> None:
    content = made()
    file = CountedFile(content)
    with Archive("pack.tar.gz", io.BytesIO(content), sources.bounds) as archive:
        entries = [*archive.entries()][::every]
    assert len(entries) == FILES // every

    async def read(opener: Opener, entry: Entry) -> int:
        item = DocumentItem(name=entry.name, sha256="0" * 64, archive="pack.tar.gz", path=entry.path)
        async with opener.open(item) as document:
            return len(await asyncio.to_thread(document.read))

    async with Opener(replace(sources, storage=OneFileStorage(str(tmp_path), file))) as opener:
        sizes = await asyncio.gather(*(read(opener, entry) for entry in entries))

    assert sizes == [20_000] * len(entries)
    assert file.count < 1.1 * len(content)


async def read(opener: Opener, number: int) -> bytes:
    async with opener.open(in_archive(number)) as file:
        return file.read()


async def test_a_reader_that_is_stopped_while_an_old_archive_is_closed_holds_none_open(
    sources: Sources, tmp_path: Path
) -> None:
    lending = LendingStorage(str(tmp_path))
    async with Opener(replace(sources, storage=lending)) as opener:
        for number in range(4):
            assert await read(opener, number) == b"alpha"
        fifth = asyncio.create_task(read(opener, 4))
        assert await asyncio.to_thread(lending.closing.wait, 10)
        fifth.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fifth
        lending.may_close.set()

        for number in range(5, 9):
            await read(opener, number)

        held = [int(sha256) for sha256, file in lending.lent.items() if not file.closed]
        assert sorted(held) == [5, 6, 7, 8]
    assert all(file.closed for file in lending.lent.values())
