"""Tars, header by header.

The standard library parses each header block. It is not given the stream: it reads an extended header of any size into
memory, calls itself for each further one, and searches it with patterns whose time grows with the square of its length
(CVE-2024-6232) while no other thread can run.
"""

from collections.abc import Iterator
from tarfile import (
    AREGTYPE,
    BLKTYPE,
    BLOCKSIZE,
    CHRTYPE,
    CONTTYPE,
    DIRTYPE,
    FIFOTYPE,
    GNUTYPE_LONGLINK,
    GNUTYPE_LONGNAME,
    GNUTYPE_SPARSE,
    LNKTYPE,
    REGTYPE,
    SOLARIS_XHDTYPE,
    SYMTYPE,
    XGLTYPE,
    XHDTYPE,
    HeaderError,
    TarInfo,
)
from typing import NamedTuple

from worker.documents.archives.errors import ArchiveError, EntryError, corrupt
from worker.documents.archives.members import BLOCK, Member, damaged, missing
from worker.documents.archives.names import readable
from worker.documents.archives.streams import PackedStream, Stream

_END = bytes(BLOCKSIZE)
_FILES = {REGTYPE, AREGTYPE, CONTTYPE}
_EXTENSIONS = {GNUTYPE_LONGNAME, GNUTYPE_LONGLINK, XHDTYPE, SOLARIS_XHDTYPE, XGLTYPE}
_WITHOUT_BYTES = {LNKTYPE, SYMTYPE, CHRTYPE, BLKTYPE, DIRTYPE, FIFOTYPE}
_VOLUME_LABEL = b"V"
_LONGEST_EXTENSION = 64 * 1024
_MOST_EXTENSIONS = 8  # of one file: each kind once, and a few that say nothing
_MOST_DIGITS = 19
_MORE_HOLES, _MORE_HOLES_AGAIN = 482, 504  # where an old sparse header, and each block after it, says there is more


class _Header(NamedTuple):
    """A file or folder: where its bytes are, and where the next header is."""

    kind: bytes
    name: str
    size: int
    data: int
    next: int
    sparse: bool


class TarReader:
    """One tar. A file's id is the position of its first header.

    Args:
        stream: its bytes, unpacked.
        name: what messages call it.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self._stream, self._name = stream, name
        self.unpacks = isinstance(stream, PackedStream)
        # To read it again before its bytes would be a step back, for which a packed stream begins anew.
        self._latest: tuple[int, _Header] | None = None

    def members(self) -> Iterator[Member]:
        """Yield all files, in order; raise ``ArchiveError`` if the archive is damaged or cut short."""
        at = 0
        while (header := self._header_at(at)) is not None:
            if header.kind not in {DIRTYPE, _VOLUME_LABEL}:
                yield _member(at, header)
            at = header.next
        if self.unpacks:  # the checksum comes last, after the padding
            while self._stream.read(BLOCK):
                pass

    def member(self, member_id: str) -> Member:
        """Return the file with this id; raise ``EntryError`` if there is none."""
        header = self._found(member_id)
        return _member(int(member_id), header)

    def blocks(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of a file; raise ``EntryError`` if they end too soon."""
        header = self._found(member.id)
        at, left = header.data, header.size
        while left:
            self._stream.seek(at)
            block = self._stream.read(min(BLOCK, left))
            if not block:
                raise damaged(self._name, member, "it is cut short")
            at, left = at + len(block), left - len(block)
            yield block

    def _found(self, member_id: str) -> _Header:
        if not (member_id.isdecimal() and len(member_id) < _MOST_DIGITS):
            raise missing(self._name, member_id)
        try:
            header = self._header_at(int(member_id))
        except ArchiveError as error:
            raise EntryError(error.error.code, error.error.message) from error
        if header is None:
            raise missing(self._name, member_id)
        return header

    def _header_at(self, at: int) -> _Header | None:
        """Return the header at a position, which is not read again right after it was read."""
        if self._latest is not None and self._latest[0] == at:
            return self._latest[1]
        header = self._header(at)
        self._latest = None if header is None else (at, header)
        return header

    def _header(self, at: int) -> _Header | None:
        """Read the header at a position, and those that go before it to extend it; ``None`` at the archive's end."""
        long_name: bytes | None = None
        records: dict[bytes, bytes] = {}
        for _ in range(_MOST_EXTENSIONS + 1):
            block = self._read(at, BLOCKSIZE)
            if block == _END:
                return None
            info = self._parsed(block)
            at += BLOCKSIZE
            if info.type not in _EXTENSIONS:
                return self._complete(info, block, at, long_name, records)
            if info.type == GNUTYPE_LONGNAME:
                long_name = self._extension(at, info.size).partition(b"\0")[0]
            elif info.type in {XHDTYPE, SOLARIS_XHDTYPE}:
                records |= self._records(self._extension(at, info.size))
            at += _padded(info.size)
        raise corrupt(self._name, "has an entry with too many headers")

    def _complete(
        self, info: TarInfo, block: bytes, at: int, long_name: bytes | None, records: dict[bytes, bytes]
    ) -> _Header:
        size = info.size
        if (digits := records.get(b"size")) is not None:
            if not (digits.isdigit() and len(digits) < _MOST_DIGITS):
                raise corrupt(self._name, "has an entry whose size is no number")
            size = int(digits)
        raw = records.get(b"path", long_name)
        if raw is None:
            raw = info.name.encode("utf-8", "surrogateescape")
        sparse = info.type == GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse.") for key in records)
        if info.type == GNUTYPE_SPARSE:
            more = block[_MORE_HOLES]
            while more:
                more = self._read(at, BLOCKSIZE)[_MORE_HOLES_AGAIN]
                at += BLOCKSIZE
        # Links and folders may name a size and have no bytes; kinds that nobody knows have what they say.
        has_bytes = info.type not in _WITHOUT_BYTES
        following = at + (_padded(size) if has_bytes else 0)
        return _Header(info.type, readable(raw, "cp1252"), size if has_bytes else 0, at, following, sparse)

    def _parsed(self, block: bytes) -> TarInfo:
        try:
            info = TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except HeaderError as error:
            raise corrupt(self._name, "has a damaged header") from error
        if info.size < 0:
            raise corrupt(self._name, "has an entry of less than no bytes")
        return info

    def _read(self, at: int, size: int) -> bytes:
        self._stream.seek(at)
        content = self._stream.read(size)
        if len(content) < size:
            raise corrupt(self._name, "is cut short")
        return content

    def _extension(self, at: int, size: int) -> bytes:
        if size > _LONGEST_EXTENSION:
            raise corrupt(self._name, f"has a header of {size:,} bytes, which is too long")
        return self._read(at, size)

    def _records(self, content: bytes) -> dict[bytes, bytes]:
        """Parse ``<length> <key>=<value>`` lines, whose length counts all of the line."""
        records: dict[bytes, bytes] = {}
        at = 0
        while at < len(content) and content[at]:
            digits, blank, _ = content[at : at + _MOST_DIGITS].partition(b" ")
            length = int(digits) if blank and digits.isdigit() else 0
            line = content[at : at + length]
            if len(line) < length or not line.endswith(b"\n"):
                raise corrupt(self._name, "has a damaged header")
            key, _, value = line[len(digits) + 1 : -1].partition(b"=")
            records[key] = value
            at += length
        return records


def _padded(size: int) -> int:
    return -(-size // BLOCKSIZE) * BLOCKSIZE


def _member(at: int, header: _Header) -> Member:
    problem = None
    if header.sparse:
        problem = ("unsupported_compression", "is stored without its holes (sparse): pack it anew without that")
    elif header.kind not in _FILES:
        problem = ("not_a_file", "is a link or a device, not a file")
    return Member(str(at), header.name, header.size, problem=problem)
