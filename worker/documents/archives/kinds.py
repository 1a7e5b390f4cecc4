"""Which files are archives: those that say so by their name and by their first bytes.

Both must agree: DOCX, XLSX, ODT and EPUB are zips too, and a text may be called ``notes.zip``.
"""

from enum import StrEnum
from tarfile import BLOCKSIZE, HeaderError, TarInfo

HEAD_BYTES = BLOCKSIZE
"""How many bytes of a file :func:`is_archive` needs."""


class Kind(StrEnum):
    """The kinds of archives that are known."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_ZST = "tar.zst"
    TAR_BZ2 = "tar.bz2"
    TAR_XZ = "tar.xz"


_ENDINGS = {
    ".zip": Kind.ZIP,
    ".tar": Kind.TAR,
    ".tar.gz": Kind.TAR_GZ,
    ".tgz": Kind.TAR_GZ,
    ".tar.zst": Kind.TAR_ZST,
    ".tzst": Kind.TAR_ZST,
    ".tar.bz2": Kind.TAR_BZ2,
    ".tbz2": Kind.TAR_BZ2,
    ".tbz": Kind.TAR_BZ2,
    ".tar.xz": Kind.TAR_XZ,
    ".txz": Kind.TAR_XZ,
}
_MAGIC = {
    Kind.ZIP: (b"PK\x03\x04", b"PK\x05\x06"),  # the second begins a zip without entries
    Kind.TAR_GZ: (b"\x1f\x8b",),
    Kind.TAR_ZST: (b"(\xb5/\xfd",),
    Kind.TAR_BZ2: (b"BZh",),
    Kind.TAR_XZ: (b"\xfd7zXZ\0",),
}


def kind_by_name(name: str) -> Kind | None:
    """Return the kind of archive that a file is named as."""
    lower = name.lower()
    return next((kind for ending, kind in _ENDINGS.items() if lower.endswith(ending)), None)


def kind_of(name: str, head: bytes) -> Kind | None:
    """Return the kind of archive a file is, ``None`` if it is none; ``head`` is its first :data:`HEAD_BYTES`."""
    kind = kind_by_name(name)
    if kind is None:
        return None
    agrees = _begins_a_tar(head) if kind is Kind.TAR else head.startswith(_MAGIC[kind])
    return kind if agrees else None


def is_archive(name: str, head: bytes) -> bool:
    """Say whether a file is an archive, by its first bytes and by the ending of its name.

    Archives that are known but refused (``.tar.bz2``, ``.tar.xz``) are among them: opening one says why.

    Args:
        name: its name; the letters' case does not matter.
        head: its first 512 bytes, or all of it if it is shorter.
    """
    return kind_of(name, head) is not None


def _begins_a_tar(head: bytes) -> bool:
    if head[:BLOCKSIZE] == bytes(BLOCKSIZE):
        return True  # a tar without entries
    try:
        TarInfo.frombuf(head[:BLOCKSIZE], "utf-8", "surrogateescape")  # it compares the checksum
    except HeaderError:
        return False
    return True
