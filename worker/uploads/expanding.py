"""From what a person named to a list of documents: archives are opened, prefixes are listed, nothing is stored yet.

A source that cannot be read becomes one document with an error; the others go on. What is away for a moment is no such
error: the attempt ends, and comes again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import BinaryIO

from repositories.schemas import MAX_ITEMS, JobError
from worker.documents.archives import Archive, ArchiveBounds, ArchiveError
from worker.documents.archives.errors import without_files
from worker.documents.archives.kinds import HEAD_BYTES, is_archive, kind_by_name
from worker.errors import JobFailedError
from worker.lengths import LONGEST_PATH, problem_of_path
from worker.payloads import LONGEST_OBJECT_URL, DocumentItem, DocumentUploadPayload, ObjectVersion
from worker.sources import GlobsError, ObjectEntry, SourceError
from worker.sources.errors import shown
from worker.sources.names import mark_of_link, name_of_link
from worker.storage import StoredBytesMissingError, TooLargeError
from worker.uploads.opening import Opener, Sources


@dataclass(slots=True)
class Expanded:
    """The documents of a job, in order, and how many files of archives were left out, by reason."""

    items: list[DocumentItem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


async def expand(
    payload: DocumentUploadPayload, sources: Sources, opener: Opener, *, is_last_attempt: bool
) -> Expanded:
    """List the documents of a job.

    Args:
        payload: what was named.
        sources: where it may come from.
        opener: opens archives.
        is_last_attempt: what cannot be read now is not waited for any more: it becomes a document with an error.

    Raises:
        JobFailedError: there are more than ``MAX_ITEMS`` (``too_many_files``).
        StoredBytesMissingError: an archive is not in storage (yet): what is in it is not known before it is there.
        StorageUnavailableError: the storage does not answer.
        SourceError: a store does not answer now.
    """
    found = Expanded()
    async for item in _named(payload, sources, is_last_attempt=is_last_attempt):
        if not _may_be_an_archive(item):
            found.items.append(item)
        else:
            found.items += await _opened(item, sources, opener, found.left_out, is_last_attempt=is_last_attempt)
        if len(found.items) > MAX_ITEMS:
            raise JobFailedError("too_many_files", f"the job holds more than {MAX_ITEMS:,} files: split it")
    return found


async def _named(
    payload: DocumentUploadPayload, sources: Sources, *, is_last_attempt: bool
) -> AsyncIterator[DocumentItem]:
    """What was named, archives unopened."""
    for file in payload.files:
        yield DocumentItem(name=file.name, sha256=file.sha256, metadata=file.metadata, error=file.error)
    for source in payload.objects:
        try:
            async for entry in sources.objects.expand(source.url, source.include, source.exclude):
                yield _object(entry)
        except SourceError as error:
            yield DocumentItem(name=shown(source.url), error=error.lasting(is_last_attempt=is_last_attempt))
        except GlobsError as error:
            yield DocumentItem(name=shown(source.url), error=JobError(code="invalid_glob", message=str(error)))
    for link in payload.links:
        yield await _link(link.url, sources, is_last_attempt=is_last_attempt)
    for item in payload.items:
        yield item if item.link is None else await _link(item.link, sources, is_last_attempt=is_last_attempt)


def _object(entry: ObjectEntry) -> DocumentItem:
    problem = problem_of_path(entry.name)
    if problem is None and len(entry.url) > LONGEST_OBJECT_URL:
        problem = f"has a URL of {len(entry.url):,} characters, of which {LONGEST_OBJECT_URL:,} are taken"
    if problem is not None:
        message = f"the name {entry.name[:100]!r} {problem}: give the object another one"
        return DocumentItem(name=entry.name[:LONGEST_PATH], error=JobError(code="invalid_name", message=message))
    version = ObjectVersion(url=entry.url, size=entry.size, etag=entry.etag, modified=entry.modified)
    return DocumentItem(name=entry.name, object=version)


async def _link(link: str, sources: Sources, *, is_last_attempt: bool) -> DocumentItem:
    """A link is fetched when its turn comes, unless it is named like an archive: then to see what is in it."""
    name = name_of_link(link)
    if kind_by_name(link.partition("?")[0].partition("#")[0]) is None:
        return DocumentItem(name=name, link=link)
    try:
        async with sources.links.fetch(link) as fetched:
            head, chunks = await _begun(fetched.chunks)
            bounds = sources.bounds
            most = bounds.total_bytes if is_archive(fetched.name, head) else bounds.entry_bytes
            stored = await sources.storage.put_stream(chunks, most)
    except SourceError as error:
        return DocumentItem(name=name, link=link, error=error.lasting(is_last_attempt=is_last_attempt))
    except TooLargeError as error:
        return DocumentItem(name=name, link=link, error=JobError(code="too_large", message=f"{name}: {error}"))
    mark = mark_of_link(link)
    return DocumentItem(name=f"{mark}-{fetched.name}" if mark else fetched.name, sha256=stored.sha256)


async def _begun(chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes, by which an archive is known, and all of them."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= HEAD_BYTES:
            break

    async def whole() -> AsyncIterator[bytes]:
        yield head
        async for chunk in chunks:
            yield chunk

    return head, whole()


def _may_be_an_archive(item: DocumentItem) -> bool:
    return item.error is None and not item.path and item.link is None and kind_by_name(item.name) is not None


async def _opened(
    item: DocumentItem, sources: Sources, opener: Opener, left_out: Counter[str], *, is_last_attempt: bool
) -> list[DocumentItem]:
    """The documents of an archive; the archive alone, with the reason, if it cannot be read."""
    try:
        async with opener.open(item) as file:
            return await asyncio.to_thread(_listed, item, file, sources.bounds, left_out)
    except ArchiveError as error:
        return [_refused(item, error.error)]
    except SourceError as error:
        return [_refused(item, error.lasting(is_last_attempt=is_last_attempt))]
    except StoredBytesMissingError as error:
        if not is_last_attempt:
            raise
        return [_refused(item, JobError(code="bytes_missing", message=f"{item.name}: {error}"))]


def _listed(item: DocumentItem, file: BinaryIO, bounds: ArchiveBounds, left_out: Counter[str]) -> list[DocumentItem]:
    place = item.model_dump(include={"sha256", "object", "metadata"})
    with Archive(item.name, file, bounds) as archive:
        items = [
            DocumentItem(name=entry.name, archive=item.name, path=entry.path, error=entry.error, **place)
            for entry in archive.entries()
        ]
        left_out.update(archive.skipped)
    if not items:
        raise without_files(item.name)
    return items


def _refused(item: DocumentItem, error: JobError) -> DocumentItem:
    return item.model_copy(update={"error": error})  # where it is stays known: it may be tried again
