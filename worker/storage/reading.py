"""A stored object as a file: seekable and read in pieces, so that a zip of any size is opened cheaply.

obstore has such a reader, but drops its buffer at every seek, and zipfile seeks before every read: each few kilobytes
would fetch a megabyte again. Python's own buffer keeps what it has when a seek stays inside it.
"""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, cast

import obstore
from obstore.store import ObjectStore

BUFFER_BYTES = 1024 * 1024

Translation = Callable[[], AbstractContextManager[None]]


def open_object(store: ObjectStore, key: str, size: int, translation: Translation, etag: str | None = None) -> BinaryIO:
    """Return a reader over one object; it holds at most ``BUFFER_BYTES`` and what one read asks for.

    Args:
        store: where the object is.
        key: which one.
        size: of the object, in bytes.
        translation: surrounds every request, and turns the store's errors into those of the caller.
        etag: read only this version of the object; without it, whichever is there.
    """
    raw = _RangeReader(store, key, size, translation, etag)
    return cast("BinaryIO", io.BufferedReader(raw, BUFFER_BYTES))


class _RangeReader(io.RawIOBase):
    """Each read is one request for a range."""

    def __init__(self, store: ObjectStore, key: str, size: int, translation: Translation, etag: str | None) -> None:
        super().__init__()
        self._store, self._key, self._size, self._translation = store, key, size, translation
        self._etag = etag
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}: before the start")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]  # typeshed's Buffer has no len
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        with self._translation():
            if self._etag is None:
                piece = bytes(obstore.get_range(self._store, self._key, start=self._at, end=end))
            else:
                reply = obstore.get(self._store, self._key, options={"range": (self._at, end), "if_match": self._etag})
                piece = bytes(reply.bytes())
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
