"""What every format's reader offers: the files it names, and the bytes of each."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from worker.documents.archives.bounds import Meter
from worker.documents.archives.errors import EntryError

BLOCK = 64 * 1024
"""The most bytes of a file that are in memory at once."""


class Member(NamedTuple):
    """One file as the archive describes it; folders are none.

    Attributes:
        id: by which the reader finds it again; the same for the same archive, always.
        name: as it is written there, as text.
        size: of the file, unpacked; no more than that will ever come out.
        packed: how many bytes it takes in the archive, where it is packed by itself.
        problem: the code and the reason (which follows its name) why it cannot be had.
    """

    id: str
    name: str
    size: int
    packed: int | None = None
    problem: tuple[str, str] | None = None


class Reader(Protocol):
    """One archive. Files may be read in any order; in that of :meth:`members` it costs least."""

    unpacks: bool
    """Whether its bytes are counted as they come out, and not file by file."""

    def members(self) -> Iterator[Member]:
        """Yield all files, in the archive's order.

        Raises:
            ArchiveError: the archive cannot be read to its end.
        """
        ...

    def member(self, member_id: str) -> Member:
        """Return the file with this id.

        Raises:
            EntryError: there is none (``corrupt``).
        """
        ...

    def blocks(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of a file, at most :data:`BLOCK` at a time.

        Raises:
            EntryError: they cannot be unpacked, or are not those that were packed (``corrupt``).
        """
        ...


def check_ratio(member: Member, meter: Meter, full: str) -> None:
    """Refuse a file that is larger than the bounds allow.

    Raises:
        EntryError: ``too_large``.
    """
    most = meter.bounds.entry_bytes
    if member.packed is not None:
        most = min(most, meter.bounds.largest(member.packed))
    if member.size > most:
        raise EntryError("too_large", f"{full} unpacks to more than {most:,} bytes: upload it by itself if it is meant")


def missing(archive: str, member_id: str) -> EntryError:
    """Return the refusal of an id that an archive does not hold."""
    return EntryError("corrupt", f"{archive} holds no entry {member_id[:40]!r}: it is not the archive that was listed")


def damaged(archive: str, member: Member, why: str) -> EntryError:
    """Return the refusal of a file whose bytes are not what was packed."""
    return EntryError("corrupt", f"{archive}/{member.name[:200]} cannot be unpacked ({why}): make the archive again")
