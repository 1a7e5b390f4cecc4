"""Bytes by digest, in a folder or anything obstore opens (S3, GCS, Azure).

A file's key is the digest of its content, so the same content is stored once, and a key in a message says nothing about
a path. Streams are stored with bounded memory. What is put again becomes young again, so that a sweep
(:mod:`worker.storage.sweeping`) cannot take it between the put and the job that names it.
"""

import asyncio
import hashlib
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from worker.storage import sweeping
from worker.storage.errors import (
    MISSING,
    StorageUnavailableError,
    TooLargeError,
    reading,
    translated,
)
from worker.storage.reading import open_object
from worker.storage.sweeping import INCOMING, Keep, Swept, key_of

log = structlog.get_logger(__name__)

_READ_BYTES = 1024 * 1024
# Up to this size a stream is gathered in memory and put as a whole; above it, it is sent in parts of this size.
_PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 2


class Stored(NamedTuple):
    """Bytes that are in storage now: their lower-case hex digest, and their ``size``."""

    sha256: str
    size: int


class Storage:
    """Bytes by digest.

    Args:
        url: a folder (made when missing, with ``~`` and relative paths resolved) or a URL that obstore knows.
        refresh_after: content that is put again is written again when it is older than this.
        options: what obstore is to know of the store besides (``region``, ``access_key_id``...). Unset: what it finds
            in the environment.

    Raises:
        StorageUnavailableError: the folder or URL cannot be opened; the message does not repeat it.
    """

    def __init__(
        self, url: str, refresh_after: timedelta = timedelta(hours=1), options: Mapping[str, str] | None = None
    ) -> None:
        self._refresh_after = refresh_after
        self._folder = _folder(url)
        self._store: Any
        try:
            given: Any = {"config": dict(options)} if options else {}
            self._store = from_url(url, **given) if self._folder is None else LocalStore(_made(self._folder))
            self._mode = 0 if self._folder is None else stat.S_IMODE(self._folder.stat().st_mode)
        except (BaseError, OSError, ValueError) as error:
            raise StorageUnavailableError(type(error).__name__) from error

    def warn_if_open(self) -> None:
        """Say in the log if others than its owner may read the folder: it keeps the rights that it was found with."""
        if self._mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning("storage.open_to_others", mode=f"{self._mode:04o}", advice="chmod 0700, unless that is meant")

    async def put(self, content: bytes) -> str:
        """Store ``content`` and return its digest; content that is there already, and young, is not written again.

        Raises:
            StorageUnavailableError: it could not be stored.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        await self._ensure(sha256, lambda: obstore.put_async(self._store, key_of(sha256), content))
        return sha256

    async def put_stream(self, source: BinaryIO | AsyncIterator[bytes], max_bytes: int) -> Stored:
        """Store what ``source`` gives, holding a few parts of 8 MiB in memory.

        What ``source`` raises passes through, and nothing is kept. A process that dies meanwhile leaves at most what
        :meth:`sweep` removes (in S3: parts of an unfinished upload, which a lifecycle rule of the bucket removes).

        Args:
            source: a file, read from where it stands, in a thread; or pieces of bytes.
            max_bytes: how many bytes it may hold at most.

        Raises:
            TooLargeError: it holds more.
            StorageUnavailableError: it could not be stored.
        """
        start = bytearray()
        async with aclosing(_bounded(source, max_bytes)) as pieces:
            async for piece in pieces:
                start += piece
                if len(start) > _PART_BYTES:
                    return await self._put_parts(bytes(start), pieces)
        return Stored(await self.put(bytes(start)), len(start))

    async def _put_parts(self, start: bytes, rest: AsyncIterator[bytes]) -> Stored:
        digest, size, incoming = hashlib.sha256(start), len(start), f"{INCOMING}/{uuid4()}"
        with translated():
            writer = obstore.open_writer_async(
                self._store, incoming, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        try:
            try:
                with translated():
                    await writer.write(start)
                async for piece in rest:
                    digest.update(piece)
                    size += len(piece)
                    with translated():
                        await writer.write(piece)
            finally:
                # Also after an error: an upload that was begun is only gone when it was ended and then deleted.
                with translated():
                    await asyncio.shield(writer.close())
            sha256 = digest.hexdigest()
            await self._ensure(sha256, lambda: obstore.copy_async(self._store, incoming, key_of(sha256)))
        finally:
            # An error in here would hide the one that matters; a sweep removes what stays.
            with suppress(*MISSING, BaseError, OSError):
                await asyncio.shield(obstore.delete_async(self._store, incoming))
        return Stored(sha256, size)

    async def _ensure(self, sha256: str, write: Callable[[], Awaitable[object]]) -> None:
        """Have these bytes in storage, and young; ``write`` puts them there."""
        meta = await sweeping.found(self._store, key_of(sha256))
        if meta is not None and sweeping.age(meta) < self._refresh_after:
            return
        # Where nothing is, no sweep can have looked at old bytes, unless it is just deleting them.
        contested = meta is not None or await sweeping.condemned(self._store, sha256)
        with translated():
            await write()
            if contested:
                await sweeping.settle(self._store, sha256, write)
        if self._folder is not None:
            await asyncio.to_thread(self._restrict, self._folder / key_of(sha256))

    def _restrict(self, file: Path) -> None:
        """Let whoever may read the storage's folder read this file, and nobody else, whatever the umask is."""
        with suppress(FileNotFoundError):  # deleted since it was written
            file.chmod(self._mode & 0o666)
            file.parent.chmod(self._mode)

    async def get(self, sha256: str) -> bytes:
        """Return the bytes with this digest.

        Raises:
            StoredBytesMissingError: they are not there.
            StorageUnavailableError: the store does not answer.
            ValueError: ``sha256`` is no digest.
        """
        key = key_of(sha256)
        with reading(sha256):
            reply = await obstore.get_async(self._store, key)
            return bytes(await reply.bytes_async())

    def open(self, sha256: str) -> BinaryIO:
        """Return the bytes with this digest as a seekable file, read a megabyte at a time. Blocks: use a thread.

        Reading it may raise the same errors.

        Raises:
            StoredBytesMissingError: they are not there.
            StorageUnavailableError: the store does not answer.
            ValueError: ``sha256`` is no digest.
        """
        key = key_of(sha256)
        with reading(sha256):
            size = obstore.head(self._store, key)["size"]
        return open_object(self._store, key, size, partial(reading, sha256))

    async def delete(self, digests: Collection[str]) -> None:
        """Delete bytes at once, whoever names them; what is not there is no error.

        Raises:
            StorageUnavailableError: the store does not answer.
            ValueError: one of them is no digest.
        """
        for key in [key_of(sha256) for sha256 in digests]:
            with translated(), suppress(*MISSING):
                await obstore.delete_async(self._store, key)

    async def sweep(self, older_than: timedelta, keep: Keep) -> Swept:
        """Delete bytes that are older than ``older_than`` and that nobody names, and what aborted uploads left.

        Args:
            older_than: at least twice ``refresh_after``, so that what a put found to be young enough stays so for as
                long again: time for its job to be written, and for clocks that differ.
            keep: is asked about at most 1,000 old digests at a time, and returns those that must stay.

        Raises:
            StorageUnavailableError: the store does not answer; what was deleted until then stays deleted.
            ValueError: ``older_than`` is too short.
        """
        if older_than < 2 * self._refresh_after:
            raise ValueError(f"older_than is {older_than}: at least {2 * self._refresh_after}, twice refresh_after")
        return await sweeping.sweep(self._store, self._folder, older_than, keep)


def _made(folder: Path) -> Path:
    """The folder, made if it is missing: documents are for its owner alone, unless a person gives it other rights."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process has just made it
            folder.mkdir(mode=0o700)
    return folder


def _folder(url: str) -> Path | None:
    """The folder that ``url`` names, ``None`` if it names something else."""
    if "://" not in url:
        return Path(url).expanduser().resolve()
    parts = urlsplit(url)
    return Path(unquote(parts.path)).resolve() if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


async def _bounded(source: BinaryIO | AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for piece in source if isinstance(source, AsyncIterator) else _read(source):
        size += len(piece)
        if size > max_bytes:
            raise TooLargeError(max_bytes)
        yield piece


async def _read(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _READ_BYTES):
        yield piece
