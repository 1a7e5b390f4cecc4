"""Opening documents in archives: what is held open, and for how long."""

import asyncio
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.archives import packed
from worker.payloads import DocumentItem
from worker.storage import Storage
from worker.uploads.opening import Opener, Sources

PACK = packed(a__txt=b"alpha")


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
