"""What an upload would do, before it does anything: for ``worker upload --dry-run``.

The files are read as the worker will read them, archives opened, and compared with the record of the workspace. Nothing
is written and the engine is not asked, so what somebody removed from the engine by hand still counts as there.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

from repositories.database import DatabaseManager
from repositories.documents import DocumentRepository, Verdict
from repositories.schemas import JobError
from repositories.workspaces import WorkspaceRepository
from worker.document_settings import DocumentSettings
from worker.documents.archives import Archive, ArchiveError, EntryError
from worker.documents.archives.errors import without_files
from worker.documents.archives.kinds import kind_by_name
from worker.documents.preparing import check_type, prepare
from worker.engines.base import DocumentRejectedError
from worker.files import (
    FileSource,
    UnreadableFileError,
    empty,
    invalid_name,
    most_bytes,
    open_file,
    readable_name,
    too_large,
)
from worker.uploads.opening import archive_bounds


class Fate(StrEnum):
    """What would become of a file."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    UNSUPPORTED = "unsupported"  # it would fail; the reason says why
    # It stands in the workspace from this source, and is no more among the files. None is while one is unsupported: a
    # sync in which something fails removes nothing.
    ORPHANED = "orphaned"


class PlannedFile(NamedTuple):
    """One file of the plan.

    Attributes:
        name: as the item would be called.
        fate: what would become of it.
        about: the name of what it duplicates, or why it cannot be stored.
        code: of the error, where it cannot be stored.
    """

    name: str
    fate: Fate
    about: str | None = None
    code: str | None = None


class _Read(NamedTuple):
    name: str
    sha256: str | None
    error: JobError | None


async def plan_upload(
    database: DatabaseManager,
    engine: str,
    workspace: str,
    files: Sequence[FileSource],
    source: str | None,
    settings: DocumentSettings,
) -> list[PlannedFile]:
    """Say for each document what an upload would do.

    Args:
        database: where the record of the workspace is.
        engine: whose workspace.
        workspace: its name; one that does not exist holds nothing.
        files: on this machine's disk, or their bytes; a stream cannot be looked at before it is sent.
        source: the label of the set, to learn what it holds no more.
        settings: what a document and an archive may be.

    Raises:
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    read = await asyncio.to_thread(lambda: [part for file in files for part in _read(file, settings)])
    known = [(part.name, part.sha256) for part in read if part.sha256 is not None]
    planned = [
        PlannedFile(part.name, Fate.UNSUPPORTED, part.error.message, part.error.code)
        for part in read
        if part.error is not None
    ]
    async with database.get_session() as session:
        found = await WorkspaceRepository(session, engine).get(workspace)
        plan = await DocumentRepository(session).plan(
            0 if found is None else found.id, known, None if planned else source
        )
    planned += [PlannedFile(one.name, _FATES[one.verdict], one.duplicate_of) for one in plan.documents]
    planned += [PlannedFile(name, Fate.ORPHANED) for name in plan.orphaned]
    return sorted(planned)


_FATES = {
    Verdict.NEW: Fate.NEW,
    Verdict.CHANGED: Fate.CHANGED,
    Verdict.UNCHANGED: Fate.UNCHANGED,
    Verdict.DUPLICATE: Fate.DUPLICATE,
}


def _read(source: FileSource, settings: DocumentSettings) -> Iterator[_Read]:
    if not isinstance(source.content, Path):
        raise TypeError(f"{source.name}: only files on a disk can be planned")
    if (error := invalid_name(source.name)) is not None:
        yield _Read(readable_name(source.name), None, error)
        return
    try:
        with open_file(source.name, source.content, follow=source.follow, place=source.place) as file:
            yield from _documents(file, source.name, settings)
    except UnreadableFileError as unreadable:
        yield _Read(source.name, None, unreadable.error)
    except ArchiveError as error_of_all:
        yield _Read(source.name, None, error_of_all.error)
    except OSError as failed:  # on the way: a disk that breaks, a share that goes away
        message = f"{source.name} cannot be read: {failed.strerror or failed}; check the disk, then ask again"
        yield _Read(source.name, None, JobError(code="unreadable", message=message))


def _documents(file: BinaryIO, name: str, settings: DocumentSettings) -> Iterator[_Read]:
    """What a file is, or what is in it: refused as storage does, listed as the worker does."""
    size, most = os.fstat(file.fileno()).st_size, most_bytes(name, settings)
    if size > most or size == 0:
        yield _Read(name, None, too_large(name, most) if size else empty(name))
        return
    if kind_by_name(name) is None:
        yield _document(file, name, settings)
        return
    with Archive(name, file, archive_bounds(settings)) as archive:
        entries = list(archive.entries())  # all of them first: an archive that breaks a bound is refused whole
        if not entries:
            raise without_files(name)
        for entry in entries:
            if entry.error:
                yield _Read(entry.name, None, entry.error)
            else:
                yield _entry(archive, entry.name, entry.path, settings)


def _entry(archive: Archive, name: str, path: tuple[str, ...], settings: DocumentSettings) -> _Read:
    try:
        with archive.open(path) as file:
            return _document(file, name, settings)
    except (ArchiveError, EntryError) as error:
        return _Read(name, None, error.error)


def _document(file: BinaryIO, name: str, settings: DocumentSettings) -> _Read:
    try:
        with prepare(file, name, max_bytes=settings.max_file_bytes) as prepared:
            check_type(name, prepared, settings.allowed_file_types)
            return _Read(name, prepared.sha256, None)
    except DocumentRejectedError as error:
        return _Read(name, None, JobError(code=error.code, message=error.message))
