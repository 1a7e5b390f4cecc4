"""The unpacked bytes of a tar: where they are in the file itself, or as they come out of gzip or Zstandard.

A packed stream is read forward; asked for an earlier position it begins again. Its memory is bounded: gzip needs
32 KiB, Zstandard what its window says, of which more than 32 MiB is refused. bzip2 and LZMA are not read at all: they
turn a few hundred bytes into gigabytes in one call, and are rare.
"""

import gzip
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from worker.documents.archives.bounds import Meter
from worker.documents.archives.errors import ArchiveError, corrupt
from worker.documents.archives.kinds import Kind
from worker.documents.archives.source import Source

_BLOCK = 64 * 1024
_LARGEST_WINDOW = 32 * 1024 * 1024  # bytes; what `zstd --ultra -20` writes
_LONGEST_FRAME_HEADER = 18  # bytes
_BROKEN = (zlib.error, zstandard.ZstdError, gzip.BadGzipFile, EOFError)


class Stream(Protocol):
    """Bytes at positions."""

    def seek(self, offset: int, /) -> int:
        """Move to a position, from the start."""
        ...

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes; fewer only at the end."""
        ...


class _Forward(Protocol):
    def read(self, size: int, /) -> bytes: ...


class PackedStream:
    """What comes out of a packed file.

    Args:
        source: the packed bytes.
        unpack: begins to unpack them from where the source stands.
        meter: counts each byte the first time it comes out.
    """

    def __init__(self, source: Source, unpack: Callable[[Source], _Forward], meter: Meter) -> None:
        self._source, self._unpack, self._meter = source, unpack, meter
        self._largest = meter.bounds.largest(source.size)
        self._at = self._farthest = self._wanted = 0
        self._stream: _Forward | None = None
        self._broken: ArchiveError | None = None

    def seek(self, offset: int, /) -> int:
        """Move to a position; the bytes before it are unpacked when something is read there."""
        self._wanted = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes; fewer only at the end.

        Raises:
            ArchiveError: it cannot be unpacked (``corrupt``), or grows beyond its bounds (``archive_too_large``).
        """
        if self._broken is not None:  # what a broken stream gives next is anybody's guess
            raise self._broken
        if self._stream is None or self._wanted < self._at:
            self._source.seek(0)
            self._stream, self._at = self._unpack(self._source), 0
        while self._at < self._wanted:
            if not self._next(self._stream, min(_BLOCK, self._wanted - self._at)):
                return b""
        content = bytearray()
        while len(content) < size and (block := self._next(self._stream, min(_BLOCK, size - len(content)))):
            content += block
        self._wanted = self._at
        return bytes(content)

    def _next(self, stream: _Forward, size: int) -> bytes:
        try:
            block = stream.read(size)
        except _BROKEN as error:
            self._broken = corrupt(self._source.name, f"cannot be unpacked ({type(error).__name__})")
            raise self._broken from error
        self._at += len(block)
        if self._at > self._farthest:
            self._meter.count_listed(self._at - self._farthest)
            self._farthest = self._at
        if self._at > self._largest:
            why = f"unpacks to more than {self._meter.bounds.ratio:,} times its size: upload its files by themselves"
            raise ArchiveError("archive_too_large", f"{self._source.name} {why}")
        self._meter.check_time()
        return block


def open_stream(kind: Kind, source: Source, meter: Meter) -> Stream:
    """Return the unpacked bytes of a tar.

    Raises:
        ArchiveError: it is packed in a way that is not read (``unsupported_compression``), or would need too much
            memory (``archive_too_large``).
    """
    if kind is Kind.TAR:
        return source
    if kind is Kind.TAR_GZ:
        return PackedStream(source, lambda packed: gzip.GzipFile(fileobj=packed, mode="rb"), meter)
    if kind is Kind.TAR_ZST:
        _check_window(source)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        return PackedStream(
            source,
            lambda packed: unpacker.stream_reader(
                packed,  # type: ignore[arg-type]  # declared as IO[bytes], but it only reads
                read_size=_BLOCK,
                read_across_frames=True,
                closefd=False,
            ),
            meter,
        )
    raise ArchiveError(
        "unsupported_compression", f"{source.name} is packed in a rare way: make a .zip, .tar.gz or .tar.zst of it"
    )


def _check_window(source: Source) -> None:
    source.seek(0)
    try:
        window = zstandard.get_frame_parameters(source.read(_LONGEST_FRAME_HEADER)).window_size
    except zstandard.ZstdError as error:
        raise corrupt(source.name, "cannot be opened as Zstandard") from error
    if window > _LARGEST_WINDOW:
        raise ArchiveError(
            "archive_too_large",
            f"{source.name} needs {window // 2**20:,} MiB of memory to unpack, at most {_LARGEST_WINDOW // 2**20}: "
            "pack it with `zstd -19` or less",
        )
