"""What a file is, by its first bytes and its name.

Promise: :func:`sniff` looks at what the bytes say before it believes the name, so a PDF named ``.txt`` is a PDF and a
program named ``.pdf`` is refused. It needs no parser and never reads further than it must. Whether the file can be
parsed is :mod:`worker.documents.extract.reading`'s business.
"""

import io
import mimetypes
import re
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

from worker.documents.archives.bounds import ArchiveBounds, Meter
from worker.documents.archives.errors import ArchiveError
from worker.documents.archives.source import Source
from worker.documents.extract.decoding import wide_encoding
from worker.documents.extract.magic import HEAD_BYTES, kind_in_words
from worker.documents.extract.refusals import unsupported

_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."

PDF = "application/pdf"
RTF = "application/rtf"
DOCX = _OOXML + "wordprocessingml.document"
XLSX = _OOXML + "spreadsheetml.sheet"
PPTX = _OOXML + "presentationml.presentation"
ODT, ODS, ODP = _ODF + "text", _ODF + "spreadsheet", _ODF + "presentation"
EPUB = "application/epub+zip"
DOC, XLS, PPT = "application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"
MSG = "application/vnd.ms-outlook"
TEXT, MARKDOWN, RST = "text/plain", "text/markdown", "text/x-rst"
HTML, XML, JSON = "text/html", "application/xml", "application/json"
CSV, TSV = "text/csv", "text/tab-separated-values"
MAIL = "message/rfc822"

_BINARY = {
    ".pdf": PDF,
    ".docx": DOCX,
    ".xlsx": XLSX,
    ".pptx": PPTX,
    ".odt": ODT,
    ".ods": ODS,
    ".epub": EPUB,
    ".doc": DOC,
    ".xls": XLS,
    ".ppt": PPT,
    ".msg": MSG,
}
_TEXTUAL = {
    ".txt": TEXT,
    ".text": TEXT,
    ".log": TEXT,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".rst": RST,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".xml": XML,
    ".json": JSON,
    ".jsonl": JSON,
    ".yaml": TEXT,
    ".yml": TEXT,
    ".csv": CSV,
    ".tsv": TSV,
    ".rtf": RTF,
    ".eml": MAIL,
}
_BY_EXTENSION = _BINARY | _TEXTUAL

SUPPORTED_EXTENSIONS = frozenset(_BY_EXTENSION)
"""The endings, lower-case and with the dot, of the files that can be read. Other files are read if they hold text."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage"
_OLE_STREAMS = (  # names of streams, as the directory of the container spells them
    ("WordDocument", DOC),
    ("PowerPoint Document", PPT),
    ("__substg1.0", MSG),
    ("Workbook", XLS),
    ("Book", XLS),
)
_ZIP_ENTRIES = (("word/", DOCX), ("xl/", XLSX), ("ppt/", PPTX))
_REFUSED_KINDS = {"image": "an image", "audio": "audio", "video": "a video", "font": "a font"}
_REFUSED_ENDINGS = {
    ".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".jar", ".iso", ".exe", ".dll", ".so", ".class",
    ".pyc", ".bin", ".db", ".sqlite",
}  # fmt: skip
# Looking into a container takes no more than this, whatever its directory says.
_LONGEST_DIRECTORY, _LONGEST_SECONDS = 4 * 1024 * 1024, 10.0
_BLOCK = 1024 * 1024
_UNREADABLE = (
    ArchiveError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, OverflowError, EOFError,
)  # fmt: skip
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def sniff(content: bytes | BinaryIO, name: str) -> str:
    """Return the media type of a file, by its content and then by the ending of its name.

    Args:
        content: the file, or its bytes. Of a file only the beginning is read, of a zip also its directory, and of an
            old office document, block by block, as much as it takes to find what is in it. It stands anywhere after.
        name: its name; folders before it are ignored.

    Raises:
        DocumentRejectedError: ``unsupported_type`` for programs, images, archives and other files without text to
            search.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    ending = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if (found := _by_magic(file, head, name, ending)) is not None:
        return found
    if ending in _BY_EXTENSION:
        found = _BY_EXTENSION[ending]
        # Damaged binary formats keep their type, so that the parser can say what is wrong with them.
        if ending in _TEXTUAL and not _looks_like_text(head):
            raise unsupported(name, "not text, whatever its name says")
        return found
    kind = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    if kind in _REFUSED_KINDS or ending in _REFUSED_ENDINGS:
        raise unsupported(name, _REFUSED_KINDS.get(kind, "of no type that can be read"))
    if not _looks_like_text(head):
        raise unsupported(name, "of no type that can be read")
    return HTML if re.match(rb"\s*<(?:!doctype html|html)\b", head, re.IGNORECASE) else TEXT


def _by_magic(file: BinaryIO, head: bytes, name: str, ending: str) -> str | None:
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith(b"{\\rtf"):
        return RTF
    if head.startswith(b"PK\x03\x04"):
        return _zip_type(file, name, ending)
    if head.startswith(_OLE):
        return _ole_type(file, name, ending)
    if not _looks_like_text(head) and (what := kind_in_words(head)) is not None:
        raise unsupported(name, what)
    return None


def _zip_type(file: BinaryIO, name: str, ending: str) -> str:
    """Tell office documents from archives; a container too damaged to look into is what its name says."""
    bounds = ArchiveBounds(entries=1, entry_bytes=1, total_bytes=1, ratio=1, seconds=_LONGEST_SECONDS)
    try:
        meter = Meter(name, 0, bounds)
        with zipfile.ZipFile(Source(file, name, meter, _LONGEST_DIRECTORY)) as container:
            entries = container.namelist()
            if entries and entries[0] == "mimetype" and container.getinfo("mimetype").file_size < HEAD_BYTES:
                declared = container.read("mimetype").decode("ascii", "replace").strip()
                if declared in {ODT, ODS, EPUB}:
                    return declared
    except _UNREADABLE:
        if ending in _BINARY:
            return _BINARY[ending]
        raise unsupported(name, "an archive") from None
    if "[Content_Types].xml" in entries:
        for folder, media_type in _ZIP_ENTRIES:
            if any(entry.startswith(folder) for entry in entries):
                return media_type
    raise unsupported(name, "an archive")


def _ole_type(file: BinaryIO, name: str, ending: str) -> str:
    """Tell the old office formats apart; an encrypted new one hides in the same container."""
    found = _streams(file)
    if _BINARY.get(ending) in {DOCX, XLSX, PPTX} and _ENCRYPTED in found:
        return _BINARY[ending]
    for stream, media_type in _OLE_STREAMS:
        if stream in found:
            return media_type
    if _BINARY.get(ending) in {DOC, XLS, PPT, MSG}:
        return _BINARY[ending]
    raise unsupported(name, "of no type that can be read")


def _streams(file: BinaryIO) -> set[str]:
    """Return which of the known streams a container names; its directory may be anywhere in it."""
    names = {name: name.encode("utf-16-le") for name in (_ENCRYPTED, *(stream for stream, _ in _OLE_STREAMS))}
    longest = max(map(len, names.values()))
    found, tail = set[str](), b""
    file.seek(0)
    while block := file.read(_BLOCK):
        window = tail + block
        found |= {name for name, encoded in names.items() if encoded in window}
        tail = window[-longest:]
    return found


def is_encrypted_office(content: bytes) -> bool:
    """Say whether the bytes are an office document of the newer kind that is locked with a password."""
    return content.startswith(_OLE) and _ENCRYPTED.encode("utf-16-le") in content


def _looks_like_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return True
    return _CONTROL.search(head) is None or wide_encoding(head) is not None
