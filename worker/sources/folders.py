"""Objects that are files below a folder of the worker's machine, a mounted share for instance.

No symbolic link below the folder is followed, neither when files are listed nor when one is opened: whoever may write
into the folder must not be able to make a worker read what is outside.
"""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from worker.sources.buckets import changed, missing, translated
from worker.sources.errors import SourceError
from worker.sources.places import Listed, Location

_PAGE = 500


class Folder:
    """A place of files; see :class:`worker.sources.places.Place`.

    Args:
        root: the allowed folder's location.
    """

    def __init__(self, root: Location) -> None:
        self._root = root

    async def look(self, location: Location) -> Listed:
        """Return what is known of one file.

        Raises:
            SourceError: ``object_not_found``, ``object_unreachable``.
        """

        def opened() -> Listed:
            with self._opened(location) as file:
                return _listed(location, os.fstat(file.fileno()))

        return await asyncio.to_thread(opened)

    async def walk(self, location: Location, most: int) -> AsyncGenerator[Listed, None]:
        """Give every file below a folder, sorted; hidden files and folders are left out.

        Raises:
            SourceError: ``too_many_objects``, ``object_not_found``, ``object_unreachable``.
        """
        found, seen = self._found(location), 0
        while page := await asyncio.to_thread(lambda: list(islice(found, _PAGE))):
            seen += len(page)
            if seen > most:
                raise SourceError("too_many_objects", f"{location} holds more than {most:,} files: split it")
            for listed in page:
                yield listed

    def open(self, listed: Listed) -> BinaryIO:
        """Open a file that is still as it was listed.

        Raises:
            SourceError: ``source_changed``, ``object_not_found``, ``object_unreachable``.
        """
        file = self._opened(listed.location)
        if _listed(listed.location, os.fstat(file.fileno())) != listed:
            file.close()
            raise changed(listed.location)
        return file

    def _real(self, location: Location) -> Path:
        """Where a location is if no link is on the way to it; links that lead to the root are the operator's."""
        root = Path("/", *self._root.parts).resolve(strict=True)
        return root.joinpath(*location.parts[len(self._root.parts) :])

    def _found(self, location: Location) -> Iterator[Listed]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # gone since its parent was read
                raise error

        with translated(location):
            top = self._real(location)
            if top.resolve(strict=True) != top or not top.is_dir():
                raise missing(location)
            for current, folders, names in os.walk(top, onerror=refuse):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    path = Path(current, name)
                    if not name.startswith(".") and (status := _plain(path)) is not None:
                        yield _listed(location.below(path.relative_to(top).parts), status)

    def _opened(self, location: Location) -> BinaryIO:
        with translated(location):
            path = self._real(location)
            try:
                # Without waiting: a pipe that nobody writes to would hold us for ever.
                opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                # A link, or a file where the path wants a folder.
                raise missing(location) if error.errno in (errno.ELOOP, errno.ENOTDIR) else error from None
            # Looked at after it was opened, so that a folder swapped for a link meanwhile is seen.
            if not _is_opened(path, opened):
                os.close(opened)
                raise missing(location)
            return os.fdopen(opened, "rb")


def _plain(path: Path) -> os.stat_result | None:
    """What is known of a regular file; ``None`` for anything else, and for what is gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_opened(path: Path, opened: int) -> bool:
    """Whether an open file is a regular one, and the one at this path with no link on the way."""
    status = os.fstat(opened)
    try:
        return stat.S_ISREG(status.st_mode) and path.resolve() == path and os.path.samestat(path.lstat(), status)
    except OSError:
        return False  # it is gone


def _listed(location: Location, status: os.stat_result) -> Listed:
    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return Listed(location, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))
