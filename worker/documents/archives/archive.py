"""A tree of archives, seen as a list of files.

Promise: :meth:`Archive.entries` reads directories and headers and says of every file whether it can be had;
:meth:`Archive.open` then gives the bytes of one, in any order. What a format is made of is the readers' subject
(:mod:`.zips`, :mod:`.tars`), what is allowed is :mod:`.bounds`'.
"""

import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, Self, cast

from repositories.schemas import JobError
from worker.documents.archives.bounds import ArchiveBounds, Meter
from worker.documents.archives.errors import ArchiveError, BoundExceededError, EntryError, corrupt
from worker.documents.archives.kinds import HEAD_BYTES, Kind, is_archive, kind_by_name, kind_of
from worker.documents.archives.members import Member, Reader, check_ratio, missing
from worker.documents.archives.names import NamesSeen, inner_path, reason_to_skip, shown
from worker.documents.archives.source import Source
from worker.documents.archives.streams import open_stream
from worker.documents.archives.tars import TarReader
from worker.documents.archives.zips import ZipReader

_IN_MEMORY = 1024 * 1024  # bytes of one file; a larger one goes to disk
_KEPT = 4  # inner archives that stay open, each a temporary file
_DIRECTORY_BYTES, _DIRECTORY_BYTES_A_FILE = 1024 * 1024, 512  # a long path, and the folders between the files


class Entry(NamedTuple):
    """One file of an archive or of an archive in it.

    Attributes:
        name: ``<archive>/<path>``, for a file of an inner archive ``<archive>/<inner archive>/<path>``; at most 1,000
            characters, without NULs.
        path: by which :meth:`Archive.open` finds it, from the outermost archive inwards; the same for the same bytes,
            always. Decimal digits only.
        size: in bytes, unpacked.
        error: why it cannot be had; ``None`` if it can.
    """

    name: str
    path: tuple[str, ...]
    size: int | None
    error: JobError | None = None


class _Inner(NamedTuple):
    reader: Reader
    name: str
    file: BinaryIO


class Archive:
    """One archive and all that are in it. Its calls block; from several threads they wait for each other.

    Args:
        name: what messages and entries call it; its ending says what it is, and its bytes must agree.
        file: its bytes; whoever opened it closes it, after this.
        bounds: what it may hold.

    Attributes:
        name: as given.
        skipped: how many files :meth:`entries` left out: ``hidden`` (a name or folder begins with a dot), ``macos``
            (``__MACOSX``), ``system`` (``Thumbs.db``, ``desktop.ini``).

    Raises:
        ArchiveError: it cannot be opened (``corrupt``, ``encrypted``, ``unsupported_compression``,
            ``archive_too_large``).
        OSError: from ``file`` or the disk, here and by every call; it says nothing about the archive.
    """

    def __init__(self, name: str, file: BinaryIO, bounds: ArchiveBounds) -> None:
        self.name = name
        self.skipped: Counter[str] = Counter()
        self._bounds = bounds
        self._meter = Meter(name, file.seek(0, 2), bounds)
        self._inner: OrderedDict[tuple[str, ...], _Inner] = OrderedDict()
        self._seen = NamesSeen()
        with self._meter.running():
            self._root = self._reader(name, file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the temporary files of inner archives. What :meth:`open` returned stays open."""
        while self._inner:
            self._inner.popitem()[1].file.close()

    def entries(self) -> Iterator[Entry]:
        """Yield every file, those that cannot be had with the reason; folders and system files are left out.

        An inner archive that cannot be read is one such file. Its files are yielded after all of them were looked at.

        Raises:
            ArchiveError: the archive is damaged, or a bound of the whole tree is reached; what was yielded before is
                then not all of it.
        """
        self._meter.restart()
        self._seen = NamesSeen()
        self.skipped.clear()
        listing = self._list(self._root, (), self.name)
        while True:
            with self._meter.running():
                entry = next(listing, None)
            if entry is None:
                return
            yield entry

    def open(self, path: Sequence[str]) -> BinaryIO:
        """Return the bytes of a file, in a temporary file that stands at its start; the caller closes it.

        Args:
            path: as :class:`Entry` has it.

        Raises:
            EntryError: this file cannot be had.
            ArchiveError: a bound of the whole tree is reached (``archive_too_large``, ``archive_too_slow``).
        """
        with self._meter.running():
            try:
                return self._open(tuple(path))
            except BoundExceededError:
                raise
            except ArchiveError as error:
                raise EntryError(error.error.code, error.error.message) from error

    def _list(self, reader: Reader, path: tuple[str, ...], name: str) -> Iterator[Entry]:
        for member in reader.members():
            self._meter.count_entry()
            inner = inner_path(member.name)
            if (reason := reason_to_skip(inner)) is not None:
                self.skipped[reason] += 1
                continue
            full, place = f"{name}/{inner}", (*path, member.id)
            error = self._seen.problem(inner, full)
            try:
                if error is None:
                    self._check(member, full)
                    if not reader.unpacks:
                        self._meter.count_listed(member.size)
                    if kind_by_name(inner) is not None:
                        yield from self._list_inner(reader, member, place, full)
                        continue
            except BoundExceededError:
                raise
            except (ArchiveError, EntryError) as refused:
                error = refused.error
            yield Entry(shown(full), place, member.size, error)

    def _list_inner(self, reader: Reader, member: Member, place: tuple[str, ...], full: str) -> Iterator[Entry]:
        """Yield the files of what is named as an archive; if it is none, it is a file itself."""
        with self._unpacked(reader, member) as file:
            if not is_archive(full, file.read(HEAD_BYTES)):
                found = [Entry(full, place, member.size)]
            elif len(place) >= self._bounds.depth:
                raise ArchiveError(
                    "archive_too_deep",
                    f"{full} is an archive inside {len(place)} others, at most {self._bounds.depth - 1}: "
                    "upload it by itself",
                )
            else:
                found = list(self._list(self._reader(full, file), place, full))
        yield from found

    def _open(self, path: tuple[str, ...]) -> BinaryIO:
        if not 1 <= len(path) <= self._bounds.depth:
            raise missing(self.name, "/".join(path))
        reader, name = self._root, self.name
        for end in range(1, len(path)):
            reader, name = self._open_inner(reader, path[:end], name)
        return self._opened(reader, path, name)[0]

    def _open_inner(self, reader: Reader, path: tuple[str, ...], name: str) -> tuple[Reader, str]:
        """Return the reader of an inner archive: one that is still open, or else it is unpacked."""
        inner = self._inner.get(path)
        if inner is None:
            file, full = self._opened(reader, path, name)
            try:
                inner = _Inner(self._reader(full, file), full, file)
            except BaseException:
                file.close()
                raise
            self._inner[path] = inner
        self._inner.move_to_end(path)
        while len(self._inner) > max(_KEPT, self._bounds.depth):
            self._inner.popitem(last=False)[1].file.close()
        return inner.reader, inner.name

    def _opened(self, reader: Reader, path: tuple[str, ...], name: str) -> tuple[BinaryIO, str]:
        member = reader.member(path[-1])
        full = shown(f"{name}/{inner_path(member.name)}")
        self._check(member, full)
        self._meter.count_opened(path, member.size)
        return self._unpacked(reader, member), full

    def _check(self, member: Member, full: str) -> None:
        if member.problem is not None:
            code, why = member.problem
            raise EntryError(code, f"{full} {why}")
        check_ratio(member, self._meter, full)

    def _unpacked(self, reader: Reader, member: Member) -> BinaryIO:
        """Copy a file out of its archive; no more than its size comes out, and that was checked."""
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - it is returned open
        try:
            for block in reader.blocks(member):
                self._meter.check_time()
                file.write(block)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return cast("BinaryIO", file)  # it has all that one has; only its declared type is wider

    def _reader(self, name: str, file: BinaryIO) -> Reader:
        longest = _DIRECTORY_BYTES + self._bounds.entries * _DIRECTORY_BYTES_A_FILE
        source = Source(file, name, self._meter, longest)
        kind = kind_of(name, source.read(HEAD_BYTES))
        if kind is None:
            raise corrupt(name, f"is not a {kind_by_name(name) or 'known archive'}, whatever its name says")
        if kind is Kind.ZIP:
            return ZipReader(source)
        return TarReader(open_stream(kind, source, self._meter), name)
