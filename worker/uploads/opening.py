"""Opening a document of a job, wherever its bytes are: in storage, in a bucket, on the web, or deep in an archive.

Promise: what comes out is a seekable file that stands at its start, and no more of it is in memory than a block. An
archive is opened once for all of its documents, and read in the order in which they are asked for: so a packed tar,
which can only be read forward, is unpacked once however many documents of it are read at a time.
"""

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self, cast

from worker.document_settings import DocumentSettings
from worker.documents.archives import Archive, ArchiveBounds
from worker.payloads import DocumentItem, ObjectVersion
from worker.settings import SettingsError
from worker.sources import LinkFetcher, ObjectEntry, ObjectSources
from worker.storage import Storage

_IN_MEMORY = 1024 * 1024  # bytes of a fetched document; a larger one goes to disk
_OPEN_ARCHIVES = 4


@dataclass(frozen=True, slots=True)
class Sources:
    """Where documents may come from, and what an archive may hold."""

    storage: Storage
    objects: ObjectSources
    links: LinkFetcher
    bounds: ArchiveBounds


def archive_bounds(settings: DocumentSettings) -> ArchiveBounds:
    """What the settings allow an archive to hold."""
    return ArchiveBounds(
        settings.max_archive_entries,
        settings.max_file_bytes,
        settings.max_archive_bytes,
        settings.max_archive_ratio,
        settings.max_archive_depth,
        settings.max_archive_seconds,
    )


def make_sources(settings: DocumentSettings) -> Sources:
    """What the settings allow.

    Raises:
        StorageUnavailableError: the storage cannot be opened.
        SettingsError: a prefix of ``OBJECT_SOURCES`` is none.
    """
    try:
        objects = ObjectSources(settings.object_sources)
    except ValueError as error:
        raise SettingsError(f"OBJECT_SOURCES: {error}") from None
    return Sources(
        Storage(settings.storage_url, options=settings.storage_options),
        objects,
        LinkFetcher(
            max_bytes=max(settings.max_file_bytes, settings.max_archive_bytes),
            timeout_seconds=settings.link_timeout_seconds,
            allow_private=settings.private_networks,
        ),
        archive_bounds(settings),
    )


@dataclass(slots=True)
class _OpenArchive:
    archive: Archive
    file: BinaryIO
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # fair, unlike the lock that threads would wait for
    readers: int = 0


class Opener:
    """Opens documents while the block lasts; leaving it closes every archive.

    Args:
        sources: where they may come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._archives: OrderedDict[str, _OpenArchive] = OrderedDict()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        archives = [*self._archives.values()]
        self._archives.clear()
        await asyncio.shield(asyncio.to_thread(_close, archives))

    @asynccontextmanager
    async def open(self, item: DocumentItem) -> AsyncIterator[BinaryIO]:
        """Give the bytes of a document while the block lasts.

        Raises:
            SourceError: a link or an object cannot be read.
            ArchiveError: a bound of the archive that holds it is reached, or the archive is damaged.
            EntryError: it cannot be had from its archive.
            StoredBytesMissingError: its bytes are not in storage.
            StorageUnavailableError: the storage does not answer.
        """
        if item.path:
            async with self._archive(item) as opened, opened.turn:
                file = await asyncio.to_thread(opened.archive.open, item.path)
        else:
            file = await self._whole(item)
        try:
            yield file
        finally:
            await asyncio.to_thread(file.close)

    @asynccontextmanager
    async def _archive(self, item: DocumentItem) -> AsyncIterator[_OpenArchive]:
        """Lend the archive that holds a document; the one used longest ago is closed once nobody reads it."""
        key = item.sha256 or (item.object.url if item.object is not None else "")
        async with self._opening:
            kept = self._archives.get(key)
            if kept is None:
                file = await self._whole(item)
                try:
                    archive = await asyncio.to_thread(Archive, item.archive or item.name, file, self._sources.bounds)
                except BaseException:
                    file.close()
                    raise
                kept = self._archives[key] = _OpenArchive(archive, file)
            self._archives.move_to_end(key)
            kept.readers += 1  # nothing is awaited from here to where it is taken back
            surplus = self._surplus()
        try:
            if surplus:
                await asyncio.shield(asyncio.to_thread(_close, surplus))
            yield kept
        finally:
            kept.readers -= 1

    def _surplus(self) -> list[_OpenArchive]:
        idle = [key for key, kept in self._archives.items() if kept.readers == 0]
        return [self._archives.pop(key) for key in idle[: max(0, len(self._archives) - _OPEN_ARCHIVES)]]

    async def _whole(self, item: DocumentItem) -> BinaryIO:
        """The file that a person named: the document, or the archive that holds it."""
        if item.sha256 is not None:
            return await asyncio.to_thread(self._sources.storage.open, item.sha256)
        if item.object is not None:
            return await asyncio.to_thread(self._sources.objects.open, _entry(item.name, item.object))
        return await self._fetched(item.link or "")

    async def _fetched(self, link: str) -> BinaryIO:
        spooled = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - it is returned open
        try:
            async with self._sources.links.fetch(link, self._sources.bounds.entry_bytes) as fetched:
                async for chunk in fetched.chunks:
                    await asyncio.to_thread(spooled.write, chunk)
            spooled.seek(0)
        except BaseException:
            spooled.close()
            raise
        return cast("BinaryIO", spooled)  # it has all that one has; only its declared type is wider


def _close(archives: Sequence[_OpenArchive]) -> None:
    with ExitStack() as stack:
        for opened in archives:
            stack.callback(opened.file.close)
            stack.callback(opened.archive.close)


def _entry(name: str, version: ObjectVersion) -> ObjectEntry:
    return ObjectEntry(name, version.url, version.size, version.etag, version.modified)
