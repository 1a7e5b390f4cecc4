"""Taking away stored bytes that no job names any more, while others put the same bytes again.

No object store deletes "if still old", so a sweep and a put agree by a marker. The sweep writes ``condemned/<digest>``,
*then* looks at the age once more, deletes and removes the marker. A put writes its bytes, *then* looks for the marker:
if there is none, the sweep either has yet to look (and will see young bytes) or is over (and the put sees whether its
bytes are still there, and writes them again if not); if there is one, the put waits until it is gone.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from worker.storage.errors import MISSING, StorageUnavailableError, translated

if TYPE_CHECKING:
    from obstore import ObjectMeta  # it is in the stubs alone

INCOMING = "incoming"
# A sweep deletes within the first of these after it wrote a marker, or not at all. One that old is of a dead sweep.
_DELETE_WITHIN = timedelta(seconds=60)
_MARKER_STALE = timedelta(minutes=10)
_WAIT_FOR_SWEEP = timedelta(seconds=30)
_PAGE = 1_000
_BATCH = 100
_AT_ONCE = 16
# How a local store names what it has not finished writing; its own listing leaves them out.
_STAGED = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep took away: how many objects, and how many ``bytes`` they were."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Swept") -> "Swept":
        return Swept(self.count + other.count, self.bytes + other.bytes)


Keep = Callable[[Collection[str]], Awaitable[Collection[str]]]


def key_of(sha256: str) -> str:
    """Return the key of the bytes with this digest.

    Raises:
        ValueError: this is no lower-case hex digest, and might lead anywhere.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256[:80]!r} is not a SHA-256 digest: 64 lower-case hex digits")
    # Two levels of folders keep a local directory listing short.
    return f"sha256/{sha256[:2]}/{sha256}"


async def found(store: ObjectStore, key: str) -> "ObjectMeta | None":
    """Return what the store knows of an object, ``None`` if it is not there."""
    try:
        with translated(missing=True):
            return await obstore.head_async(store, key)
    except MISSING:
        return None


def age(meta: "ObjectMeta") -> timedelta:
    """How long ago an object was written."""
    return datetime.now(UTC) - meta["last_modified"]


async def condemned(store: ObjectStore, sha256: str) -> bool:
    """Whether a living sweep is about to delete these bytes."""
    marker = await found(store, _marker(sha256))
    return marker is not None and age(marker) < _MARKER_STALE


async def settle(store: ObjectStore, sha256: str, write: Callable[[], Awaitable[object]]) -> None:
    """Return once bytes that were just written are out of reach of every sweep.

    Args:
        store: where they are.
        sha256: their digest.
        write: writes them again, if a sweep was faster.

    Raises:
        StorageUnavailableError: a sweep that condemned them did not end in time.
    """
    deadline, pause = time.monotonic() + _WAIT_FOR_SWEEP.total_seconds(), 0.02
    while True:
        while await condemned(store, sha256):
            if time.monotonic() > deadline:
                raise StorageUnavailableError("a sweep has held these bytes for too long")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1)
        if await found(store, key_of(sha256)) is not None:
            return
        await write()


async def sweep(store: ObjectStore, folder: Path | None, older_than: timedelta, keep: Keep) -> Swept:
    """Delete bytes that are older than a bound and that nobody names, and what aborted uploads left behind.

    Args:
        store: where they are.
        folder: the same store as a folder, if it is one.
        older_than: what is younger stays, named or not.
        keep: is asked about the old digests of one page of the listing, and returns those that must stay.

    Raises:
        StorageUnavailableError: the store does not answer; what was deleted until then stays deleted.
    """
    with translated():
        await _remove_old(store, _marker(""), _MARKER_STALE)
        swept = await _remove_old(store, INCOMING, older_than)
        if folder is not None:
            swept += await asyncio.to_thread(_remove_staged, folder, older_than)
        async for page in obstore.list(store, "sha256", chunk_size=_PAGE):
            old = {
                sha256: meta
                for meta in page
                if age(meta) > older_than
                if (sha256 := meta["path"].rpartition("/")[2])
                if re.fullmatch(r"[0-9a-f]{64}", sha256)
            }
            if not old:
                continue
            kept = set(await keep(frozenset(old)))
            doomed = sorted(set(old) - kept)
            for start in range(0, len(doomed), _BATCH):
                swept += await _delete(store, doomed[start : start + _BATCH], older_than)
    return swept


async def _delete(store: ObjectStore, digests: Sequence[str], older_than: timedelta) -> Swept:
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(sha256: str) -> Swept:
        async with at_once:
            return await _delete_one(store, sha256, older_than)

    return sum(await asyncio.gather(*map(one, digests)), Swept())


async def _delete_one(store: ObjectStore, sha256: str, older_than: timedelta) -> Swept:
    started = time.monotonic()
    try:
        await obstore.put_async(store, _marker(sha256), b"", mode="create")
    except AlreadyExistsError:
        return Swept()  # another sweep is at it; removing its marker would take away its protection
    try:
        meta = await found(store, key_of(sha256))
        late = time.monotonic() - started > _DELETE_WITHIN.total_seconds()
        if meta is None or age(meta) <= older_than or late:
            return Swept()
        with suppress(*MISSING):
            await obstore.delete_async(store, key_of(sha256))
        return Swept(1, meta["size"])
    finally:
        with suppress(*MISSING):
            await obstore.delete_async(store, _marker(sha256))


async def _remove_old(store: ObjectStore, prefix: str, older_than: timedelta) -> Swept:
    removed = Swept()
    async for page in obstore.list(store, prefix.rstrip("/"), chunk_size=_PAGE):
        for meta in page:
            if age(meta) > older_than:
                with suppress(*MISSING):
                    await obstore.delete_async(store, meta["path"])
                    removed += Swept(1, meta["size"])
    return removed


def _remove_staged(folder: Path, older_than: timedelta) -> Swept:
    """Remove what a killed process was still writing."""
    removed, before = Swept(), time.time() - older_than.total_seconds()
    for current, _, names in os.walk(folder):
        for name in filter(_STAGED.search, names):
            path = Path(current, name)
            with suppress(FileNotFoundError):
                status = path.lstat()
                if status.st_mtime < before:
                    path.unlink()
                    removed += Swept(1, status.st_size)
    return removed


def _marker(sha256: str) -> str:
    return f"condemned/{sha256}"
