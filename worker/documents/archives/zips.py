"""Zips, with the standard library's reader, which believes what a directory says: that is checked here first."""

import struct
import zipfile
import zlib
from collections.abc import Iterator

from worker.documents.archives.errors import ArchiveError, corrupt
from worker.documents.archives.members import BLOCK, Member, damaged, missing
from worker.documents.archives.names import readable
from worker.documents.archives.source import Source

_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_LOCAL_HEADER_BYTES = 30
_MOST_DIGITS = 9
_UNKNOWN, _FOLDER, _REGULAR = 0, 4, 8  # the upper bits of a Unix mode
# Only these unpack a bounded block at a time; bzip2 and LZMA may turn a few hundred bytes into gigabytes in one call.
_COMPRESSION = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,  # a password, and NotImplementedError for what it does not know
    ValueError,
    OverflowError,
    IndexError,
)


class ZipReader:
    """One zip. A file's id is its place in the directory, from 0.

    Raises:
        ArchiveError: it cannot be opened, or its entries share bytes (``corrupt``); it is locked (``encrypted``).
    """

    unpacks = False

    def __init__(self, source: Source) -> None:
        self._name = source.name
        try:
            self._zip = zipfile.ZipFile(source)
        except _BROKEN as error:
            raise corrupt(source.name, "cannot be opened as a zip") from error
        self._entries = self._zip.infolist()
        self._check_overlap()
        files = [entry for entry in self._entries if not _is_folder(entry)]
        if files and all(entry.flag_bits & _ENCRYPTED for entry in files):
            raise ArchiveError("encrypted", f"{source.name} is locked with a password: pack it without one")

    def members(self) -> Iterator[Member]:
        """Yield all files, in the directory's order."""
        for at, entry in enumerate(self._entries):
            if not _is_folder(entry):
                yield _member(at, entry)

    def member(self, member_id: str) -> Member:
        """Return the file with this id; raise ``EntryError`` if there is none."""
        entry = self._entry(member_id)
        return _member(int(member_id), entry)

    def blocks(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of a file; raise ``EntryError`` if they or their checksum are damaged."""
        left = member.size
        try:
            with self._zip.open(self._entry(member.id)) as file:
                while block := file.read(BLOCK):
                    left -= len(block)
                    yield block
        except _BROKEN as error:
            raise damaged(self._name, member, type(error).__name__) from error
        if left:
            raise damaged(self._name, member, "it is cut short")

    def _entry(self, member_id: str) -> zipfile.ZipInfo:
        if not (member_id.isdecimal() and len(member_id) <= _MOST_DIGITS):
            raise missing(self._name, member_id)
        at = int(member_id)
        if at >= len(self._entries) or _is_folder(self._entries[at]):
            raise missing(self._name, member_id)
        return self._entries[at]

    def _check_overlap(self) -> None:
        """Refuse entries that lie on each other: so a small zip unpacks to petabytes without nesting (Fifield 2019)."""
        end = 0
        for entry in sorted(self._entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                raise corrupt(self._name, "holds entries that share bytes")
            end = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size
        if end > self._zip.start_dir:
            raise corrupt(self._name, "holds entries that reach into its directory")


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith(("/", "\\")) or entry.external_attr >> 28 == _FOLDER


def _member(at: int, entry: zipfile.ZipInfo) -> Member:
    problem = None
    if entry.flag_bits & _ENCRYPTED:
        problem = ("encrypted", "is encrypted: pack it without a password")
    elif entry.compress_type not in _COMPRESSION:
        problem = ("unsupported_compression", "is packed in a rare way: zip it anew")
    elif entry.external_attr >> 28 not in {_UNKNOWN, _REGULAR}:
        problem = ("not_a_file", "is a link or a device, not a file")
    # Without the UTF-8 flag the library reads CP437, yet most writers meant UTF-8. It also ends a name at a NUL.
    name = entry.orig_filename
    if not entry.flag_bits & _UTF8_NAME:
        name = readable(name.encode("cp437"), "cp437")
    return Member(str(at), name, entry.file_size, entry.compress_size, problem)
