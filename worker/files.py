"""From paths on a disk to files in storage: what `worker upload` and the client read, and what they refuse.

A file that cannot be taken does not stop the others: it travels as a refused file and becomes a failed item that says
why.
"""

import asyncio
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from repositories.schemas import JobError
from worker.payloads import StoredFile
from worker.storage import Storage

_AT_ONCE = 8


class FileSource(NamedTuple):
    """A file to upload: the name it shall have, and its bytes or where they are."""

    name: str
    content: bytes | Path


class NoFilesError(ValueError):
    """There is nothing to upload; the message names the paths and what to do."""


def find_files(paths: Sequence[Path]) -> list[FileSource]:
    """Return the files under ``paths``, sorted by name; folders are walked, hidden files and links to folders skipped.

    A file named directly keeps its base name; a file in a folder is named by its path inside that folder. Where
    two files would have the same name, the second is named by its whole path.

    Raises:
        NoFilesError: a path does not exist, a folder cannot be read, or there is no file under any of them.
    """
    found: dict[str, FileSource] = {}
    taken: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise NoFilesError(f"{path} does not exist: check the spelling (the working folder is {Path.cwd()})")
        for file in _walk(path) if path.is_dir() else [path]:
            if file.resolve() in taken:
                continue  # named twice: by itself and with its folder
            taken.add(file.resolve())
            name = _readable(file.relative_to(path) if path.is_dir() else Path(file.name))
            if name in found:  # another file of this name, from another folder: say which
                name = _readable(file.resolve().relative_to(file.resolve().anchor))
            found[name] = FileSource(name, file)
    if not found:
        raise NoFilesError(f"there is no file in {', '.join(map(str, paths))}: nothing to upload")
    return [found[name] for name in sorted(found)]


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise NoFilesError(f"{error.filename} cannot be read: {error.strerror}; check its permissions")

    for current, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(current, name)
            if not name.startswith(".") and not path.is_dir():
                yield path


def _readable(path: Path) -> str:
    """The path as text; bytes that are no UTF-8 become the replacement character."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


async def store_files(sources: Sequence[FileSource], storage: Storage, max_bytes: int) -> list[StoredFile]:
    """Put files into storage, a few at a time; those that cannot be taken come back with their error."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def store(source: FileSource) -> StoredFile:
        async with at_once:
            read = await asyncio.to_thread(_read, source, max_bytes)
            if isinstance(read, JobError):
                return StoredFile(name=source.name, error=read)
            return StoredFile(name=source.name, sha256=await storage.put(read), bytes=len(read))

    return list(await asyncio.gather(*map(store, sources)))


def _read(source: FileSource, max_bytes: int) -> bytes | JobError:
    """Read at most ``max_bytes``, whatever the file says of its size: it may grow while it is read."""
    if isinstance(source.content, bytes):
        content = source.content[: max_bytes + 1]
    else:
        try:
            # Without waiting: a pipe that nobody writes to would hold us for ever.
            with os.fdopen(os.open(source.content, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return JobError(code="not_a_file", message=f"{source.name} is a folder, a device or a pipe")
                content = file.read(max_bytes + 1)
        except OSError as error:
            message = f"{source.name} cannot be read: {error.strerror}; check its permissions"
            return JobError(code="unreadable", message=message)
    if len(content) > max_bytes:
        message = f"{source.name} is larger than {max_bytes:,} bytes: split it, or raise MAX_FILE_BYTES"
        return JobError(code="too_large", message=message)
    if not content:
        return JobError(code="empty", message=f"{source.name} is empty: there is nothing to upload")
    return content
