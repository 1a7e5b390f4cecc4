"""The packed bytes of an archive, as the readers of formats see them: no read without a bound, none without a clock.

Format libraries believe what a file says about itself: they read a directory in one call, however large, and follow a
name to its end, however far. Here such a read is refused before it is made. What the disk says (``OSError``) is passed
on as it is: it says nothing about the archive.
"""

import io
from typing import BinaryIO

from worker.documents.archives.bounds import Meter
from worker.documents.archives.errors import ArchiveError

_FARTHEST = 2**62


class Source(io.RawIOBase):
    """A file of packed bytes; closing it leaves the file open.

    Args:
        file: any seekable file.
        name: what messages call the archive.
        meter: whose clock every read asks.
        longest_read: bytes that one read may ask for.
    """

    def __init__(self, file: BinaryIO, name: str, meter: Meter, longest_read: int) -> None:
        super().__init__()
        self.name = name
        self._file, self._meter, self._longest_read = file, meter, longest_read
        self.size = file.seek(0, io.SEEK_END)
        self._at = 0

    def readable(self) -> bool:
        """Return ``True``."""
        return True

    def seekable(self) -> bool:
        """Return ``True``."""
        return True

    def tell(self) -> int:
        """Return the position, from the start."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, which may be past the end.

        Raises:
            io.UnsupportedOperation: it is before the start, or absurdly far: an OSError, as of files (what the
                zip library expects of a short archive), and a ValueError: the bytes are to blame.
        """
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if not 0 <= at <= _FARTHEST:
            raise io.UnsupportedOperation(f"a position of {at} in a file of {self.size} bytes")
        self._at = at
        return at

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, or what is left; fewer only at the end.

        Raises:
            ArchiveError: that would be more than one read may ask for (``archive_too_large``).
        """
        self._meter.check_time()
        left = max(self.size - self._at, 0)
        wanted = left if size < 0 else min(size, left)
        if wanted > self._longest_read:
            raise ArchiveError(
                "archive_too_large", f"{self.name} has a directory of {wanted:,} bytes, which is too long: split it"
            )
        self._file.seek(self._at)
        content = self._file.read(wanted)
        self._at += len(content)
        return content

    def readall(self) -> bytes:
        """Return what is left."""
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # all that readers pass
        """Fill ``buffer`` and return how many bytes it got."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
