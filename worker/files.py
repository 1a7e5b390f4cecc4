"""From paths on a disk to files in storage: what `worker upload` and the client read, and what they refuse.

A file that cannot be taken does not stop the others: it travels as a refused file and becomes a failed item that says
why. No file is held in memory: its bytes go from the disk to the storage in blocks.
"""

import asyncio
import errno
import io
import os
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from repositories.schemas import JobError
from worker.document_settings import DocumentSettings
from worker.documents.archives.kinds import kind_by_name
from worker.engines.base import DocumentMetadata
from worker.lengths import LONGEST_PATH, problem_of_path
from worker.payloads import StoredFile
from worker.sources import Globs
from worker.storage import Storage, TooLargeError

_AT_ONCE = 8


class FileSource(NamedTuple):
    """A file to upload: the name it shall have, and its bytes, where they are, or a stream that can be read once.

    ``metadata`` is what else is told of it; of an archive, of each document in it. ``follow`` says whether a symbolic
    link at this path is read where it leads. ``place`` is where a file that must be none was found, without a link in
    it: nothing else is opened.
    """

    name: str
    content: bytes | Path | AsyncIterator[bytes]
    metadata: DocumentMetadata | None = None
    follow: bool = True
    place: Path | None = None


class NoFilesError(ValueError):
    """There is nothing to upload; the message names the paths and what to do."""


class UnreadableFileError(Exception):
    """A path is no file that can be read; ``error`` says why."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error)
        self.error = error


class Found(NamedTuple):
    """What is to be uploaded, and the symbolic links in folders that were left out: to files, and to folders."""

    files: list[FileSource]
    links: list[Path]
    folders: list[Path]


def find_files(paths: Sequence[Path], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[FileSource]:
    """As :func:`look_for_files`, for callers to whom what was left out does not matter."""
    return look_for_files(paths, include, exclude).files


def look_for_files(
    paths: Sequence[Path], include: Sequence[str] = (), exclude: Sequence[str] = (), *, follow: bool = False
) -> Found:
    """Return the files under ``paths``, sorted by name; folders are walked, hidden files and links to folders skipped.

    A symbolic link to a file is left out as well unless ``follow``: whoever may write into a folder must not be able to
    make its uploader read what is outside. A path that is named directly is followed. Links to folders that no pattern
    excludes are returned, as they may have been meant.

    A file named directly keeps its base name; a file in a folder is named by its path inside that folder. Where
    two files would have the same name, the second is named by its whole path.

    Args:
        paths: files and folders.
        include: patterns of paths inside a folder (``**/*.pdf``); without any, all are meant. See :class:`Globs`.
        exclude: patterns of paths inside a folder that are not meant.
        follow: read links to files in folders where they lead.

    Raises:
        NoFilesError: a path does not exist, a folder cannot be read, or there is no file under any of them.
        GlobsError: a pattern cannot be used.
    """
    globs = Globs(include, exclude)
    found: dict[str, FileSource] = {}
    taken: set[Path] = set()
    links: list[Path] = []
    folders: list[Path] = []
    for path in paths:
        if not path.exists():
            raise NoFilesError(f"{path} does not exist: check the spelling (the working folder is {Path.cwd()})")
        for file in _walk(path, folders) if path.is_dir() else [path]:
            name = readable(file.relative_to(path) if path.is_dir() else Path(file.name))
            if path.is_dir() and not globs.matches(name):
                continue
            if path.is_dir() and not follow and file.is_symlink():
                links.append(file)
                continue
            place = Path(os.path.realpath(file))  # a link that leads to itself has one, too
            if place in taken:
                continue  # named twice: by itself and with its folder
            taken.add(place)
            if name in found:  # another file of this name, from another folder: say which
                name = readable(place.relative_to(place.anchor))
            followed = follow or not path.is_dir()
            found[name] = FileSource(name, file, follow=followed, place=None if followed else place)
    if not found:
        what = "no file that the patterns leave" if include or exclude else "no file"
        but = f" but {len(links)} symbolic links, which are not followed" if links else ""
        raise NoFilesError(f"there is {what} in {', '.join(map(str, paths))}{but}: nothing to upload")
    excluded = Globs((), exclude)
    folders = [link for link in folders if excluded.matches(_below(link, paths))]
    return Found([found[name] for name in sorted(found)], links, folders)


def _below(path: Path, above: Sequence[Path]) -> str:
    """The path inside the folder that was named; patterns speak of that."""
    return readable(next(path.relative_to(folder) for folder in above if path.is_relative_to(folder)))


def _walk(folder: Path, links: list[Path]) -> Iterator[Path]:
    """The files below a folder; ``links`` gets the symbolic links to folders, which are not walked."""

    def refuse(error: OSError) -> None:
        raise NoFilesError(f"{error.filename} cannot be read: {error.strerror}; check its permissions")

    for current, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links += [path for name in folders if (path := Path(current, name)).is_symlink()]
        for name in sorted(names):
            path = Path(current, name)
            if not name.startswith(".") and not path.is_dir():
                yield path


def readable(path: Path) -> str:
    """The path as text; bytes that are no UTF-8 become the replacement character."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def most_bytes(name: str, settings: DocumentSettings) -> int:
    """How many bytes a file of this name may have: an archive may hold many documents."""
    return settings.max_file_bytes if kind_by_name(name) is None else settings.max_archive_bytes


async def store_files(sources: Sequence[FileSource], storage: Storage, settings: DocumentSettings) -> list[StoredFile]:
    """Put files into storage, a few at a time; those that cannot be taken come back with their error.

    Raises:
        StorageUnavailableError: the storage does not answer; nothing is written any more then.
    """
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def store(source: FileSource) -> StoredFile:
        async with at_once:
            return await _stored(source, storage, most_bytes(source.name, settings))

    try:
        async with asyncio.TaskGroup() as group:
            storing = [group.create_task(store(source)) for source in sources]
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__  # callers know it by its own type, and its cause is not the group
    return [task.result() for task in storing]


async def _stored(source: FileSource, storage: Storage, most: int) -> StoredFile:
    if (error := invalid_name(source.name)) is not None:
        return StoredFile(name=readable_name(source.name), error=error)
    try:
        if isinstance(source.content, Path):
            with await asyncio.to_thread(
                open_file, source.name, source.content, follow=source.follow, place=source.place
            ) as file:
                stored = await storage.put_stream(file, most)
        elif isinstance(source.content, bytes):
            stored = await storage.put_stream(io.BytesIO(source.content), most)
        else:
            stored = await storage.put_stream(source.content, most)
    except UnreadableFileError as unreadable:
        return StoredFile(name=source.name, error=unreadable.error)
    except TooLargeError:
        return StoredFile(name=source.name, error=too_large(source.name, most))
    if stored.size == 0:
        return StoredFile(name=source.name, error=empty(source.name))
    return StoredFile(name=source.name, sha256=stored.sha256, bytes=stored.size, metadata=source.metadata)


def invalid_name(name: str) -> JobError | None:
    """Say why a file cannot be recorded under this name (code ``invalid_name``); ``None`` if it can."""
    if not name:
        problem = "is empty"
    elif (too_long := problem_of_path(name)) is not None:
        problem = too_long
    elif "\0" in name or _without_surrogates(name) != name:
        problem = "holds a NUL, or what is no UTF-8"
    else:
        return None
    message = f"the name {readable_name(name)[:100]!r} {problem}: give the file another one"
    return JobError(code="invalid_name", message=message)


def readable_name(name: str) -> str:
    """A name that can be recorded, as like as possible to one that cannot."""
    return _without_surrogates(name.replace("\0", "\ufffd"))[:LONGEST_PATH] or "(no name)"


def _without_surrogates(name: str) -> str:
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in name)


def too_large(name: str, most: int) -> JobError:
    """A file has more than ``most`` bytes (code ``too_large``)."""
    setting = "MAX_FILE_BYTES" if kind_by_name(name) is None else "MAX_ARCHIVE_BYTES"
    return JobError(code="too_large", message=f"{name} is larger than {most:,} bytes: split it, or raise {setting}")


def empty(name: str) -> JobError:
    """A file has no bytes (code ``empty``)."""
    return JobError(code="empty", message=f"{name} is empty: there is nothing to upload")


def open_file(name: str, path: Path, *, follow: bool = True, place: Path | None = None) -> BinaryIO:
    """Open a file, and nothing but a file; without waiting: a pipe that nobody writes to would hold us for ever.

    Args:
        name: what messages call it.
        path: where it is.
        follow: whether it may be a symbolic link; asked again here, as it may have become one since it was found.
        place: as of :class:`FileSource`: neither it nor a folder above it may have become one either.

    Raises:
        UnreadableFileError: it cannot be read, or is no file.
    """
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        file = os.fdopen(_opened(place, flags) if place is not None else os.open(path, flags), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            link = f"{name} is a symbolic link, which is not followed: use --follow-symlinks, or copy the file"
            raise UnreadableFileError(JobError(code="not_a_file", message=link)) from error
        message = f"{name} cannot be read: {error.strerror}; check its permissions"
        raise UnreadableFileError(JobError(code="unreadable", message=message)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableFileError(JobError(code="not_a_file", message=f"{name} is a folder, a device or a pipe"))
    return file


def _opened(place: Path, flags: int) -> int:
    """Open an absolute path part by part, each in the folder that was opened before: none may be a symbolic link.

    Between two looks at a path somebody may put a link in the place of a folder; what is open stays what it was.
    """
    only_to_pass = getattr(os, "O_PATH", os.O_RDONLY)  # a folder above need not be readable
    folder = os.open(place.anchor, only_to_pass | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in place.parts[1:-1]:
            above, folder = folder, _folder_in(folder, part, only_to_pass)
            os.close(above)
        return os.open(place.name, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _folder_in(folder: int, part: str, flags: int) -> int:
    try:
        return os.open(part, flags | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise
