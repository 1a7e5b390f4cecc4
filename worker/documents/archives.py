"""Opening a zip without trusting it: every entry is either read within the bounds or refused with a reason.

Nothing is ever unpacked to a path: entries become bytes with a name, so a name such as ``../../etc/passwd`` cannot
reach a file. It is still refused, because whoever wrote it meant harm or made a mistake.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from repositories.schemas import JobError

_READ_BYTES = 64 * 1024
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_LONGEST_NAME = 1_000
# Only these unpack a bounded block at a time; bzip2 and LZMA may turn a few hundred bytes into gigabytes in one call.
_COMPRESSION = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_SYSTEM_FILES = frozenset({"Thumbs.db", "desktop.ini"})


class ArchiveBounds(NamedTuple):
    """What one zip may hold: ``entries``, ``entry_bytes`` and ``total_bytes`` unpacked, growth of an entry (times)."""

    entries: int
    entry_bytes: int
    total_bytes: int
    ratio: int


class ArchiveEntry(NamedTuple):
    """One file of a zip: its content, or the reason why it was refused. Folders and system files are left out."""

    name: str
    content: bytes
    error: JobError | None = None


class ArchiveError(Exception):
    """The whole zip was refused; ``error`` has the code (``corrupt``, ``archive_too_large``) and a sentence."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return self.error.message


def is_zip_archive(name: str, content: bytes) -> bool:
    """Whether this is a zip of files, and not a document format that is a zip itself (DOCX, XLSX, ODT)."""
    return name.lower().endswith(".zip") and content.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read_zip(name: str, content: bytes, bounds: ArchiveBounds) -> Iterator[ArchiveEntry]:
    """Yield the files of a zip one at a time, in the archive's order.

    Args:
        name: what messages call the archive; entries are named ``<archive>/<path inside>``.
        content: the zip's bytes.
        bounds: what it may hold.

    Raises:
        ArchiveError: the zip cannot be read, or holds more than ``bounds`` allows.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _refused("corrupt", f"{name} cannot be opened as a zip: make it again") from error
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > bounds.entries:
            raise _refused(
                "archive_too_large", f"{name} holds {len(entries):,} files, at most {bounds.entries:,}: split it"
            )
        left = bounds.total_bytes
        seen: set[str] = set()
        for entry in entries:
            path = _entry_name(entry)
            if _is_system_file(path):
                continue
            full = f"{name}/{path}"
            problem = _problem(entry, path, seen)
            if problem is not None:
                yield ArchiveEntry(full[:_LONGEST_NAME], b"", problem)
                continue
            seen.add(path)
            read = _read(archive, entry, full, bounds, left)
            left -= len(read.content)
            if left < 0:
                raise _refused(
                    "archive_too_large", f"{name} unpacks to more than {bounds.total_bytes:,} bytes: split it"
                )
            yield read


def _read(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, full: str, bounds: ArchiveBounds, left: int
) -> ArchiveEntry:
    """Read one entry, counting what really comes out: the sizes in the header are the author's word."""
    most = min(bounds.entry_bytes, left + 1, max(entry.compress_size, 1_024) * bounds.ratio)
    out = io.BytesIO()
    try:
        with archive.open(entry) as source:
            while block := source.read(_READ_BYTES):
                out.write(block)
                if out.tell() > most:
                    break
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
        return ArchiveEntry(
            full, b"", JobError(code="corrupt", message=f"{full} cannot be unpacked ({type(error).__name__})")
        )
    if out.tell() > most and out.tell() <= left:
        message = f"{full} unpacks to more than {most:,} bytes: upload it by itself if it is meant"
        return ArchiveEntry(full, b"", JobError(code="too_large", message=message))
    return ArchiveEntry(full, out.getvalue())


def _problem(entry: zipfile.ZipInfo, path: str, seen: set[str]) -> JobError | None:
    parts = PurePosixPath(path).parts
    if len(path) > _LONGEST_NAME:
        return JobError(code="name_too_long", message=f"the zip holds a name of {len(path):,} characters: {path[:60]}…")
    if not parts or path.startswith("/") or ".." in parts or (len(path) > 1 and path[1] == ":"):
        return JobError(code="unsafe_name", message=f"the zip names a path outside itself: {path!r}")
    if entry.flag_bits & _ENCRYPTED:
        return JobError(code="encrypted", message=f"{path} is encrypted: upload it without a password")
    if entry.compress_type not in _COMPRESSION:
        return JobError(code="unsupported_compression", message=f"{path} is packed in a rare way: zip it anew")
    kind = entry.external_attr >> 28
    if kind not in {0, 8}:  # neither unknown nor a regular file: a link, a device
        return JobError(code="not_a_file", message=f"{path} is a link or a device, not a file")
    if path in seen:
        return JobError(code="duplicate_name", message=f"{path} stands in the zip twice; the first one is taken")
    return None


def _entry_name(entry: zipfile.ZipInfo) -> str:
    """The entry's path. Without the UTF-8 flag zipfile reads CP437, yet most writers meant UTF-8."""
    name = entry.filename
    if not entry.flag_bits & _UTF8_NAME:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = entry.filename
    return name.replace("\\", "/").replace("\x00", "")


def _is_system_file(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(part == "__MACOSX" or (part.startswith(".") and part not in {".", ".."}) for part in parts) or (
        bool(parts) and parts[-1] in _SYSTEM_FILES
    )


def _refused(code: str, message: str) -> ArchiveError:
    return ArchiveError(JobError(code=code, message=message))
