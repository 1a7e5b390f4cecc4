"""What a look at a file's bytes says against it, before a reader that answers no reason, or dies of it, is given it.

Promise: :func:`check` reads a file in blocks, unpacks a bounded part of it, and refuses only what is certain: an office
document that is locked, a workbook without a cell, a PDF of pictures in which no text can be set. What cannot be
decided is let through. It needs no parser.
"""

import io
import re
import zipfile
import zlib
from typing import BinaryIO, Final

from worker.documents.archives.bounds import ArchiveBounds, Meter
from worker.documents.archives.errors import ArchiveError
from worker.documents.archives.source import Source
from worker.documents.extract import refusals, sniffing

_BLOCK: Final = 1024 * 1024
_OVERLAP: Final = 64  # longer than anything that is looked for
_OLE: Final = b"\xd0\xcf\x11\xe0"
_OOXML: Final = frozenset({sniffing.DOCX, sniffing.XLSX, sniffing.PPTX})
_ODF: Final = frozenset({sniffing.ODT, sniffing.ODS})

_LONGEST_DIRECTORY: Final = 4 * 1024 * 1024
_LONGEST_SECONDS: Final = 10.0
_SHEET: Final = re.compile(r"xl/worksheets/[^/]+\.xml")
_CELL: Final = re.compile(rb"<(?:\w{1,20}:)?(?:v|is|f)\b")
_MOST_OF_A_SHEET: Final = 256 * 1024  # bytes in which a cell comes, if there is one
_MOST_SHEETS: Final = 100
_MANIFEST: Final = "META-INF/manifest.xml"
_UNREADABLE: Final = (
    ArchiveError, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, ValueError, OverflowError, EOFError,
)  # fmt: skip

# Text is set in a font, and a page names its fonts; only in a packed object (ObjStm) the word may not be seen.
_FONT: Final = b"/Font"
_IMAGE: Final = re.compile(rb"/Subtype\s{0,9}/Image\b")
_PACKED: Final = b"/ObjStm"
_LOCK: Final = re.compile(rb"/Encrypt\s{0,9}(?:\d{1,9}\s{1,9}\d{1,9}\s{1,9}R\b|<<)")
_STREAM: Final = re.compile(rb"stream\r?\n")
_AROUND: Final = 1024  # bytes beside /ObjStm in which its dictionary lies
_PLAIN_FILTER: Final = b"/FlateDecode"
_NOT_PLAIN: Final = (b"/Predictor", b"/Crypt", b"/ASCII85Decode", b"/LZWDecode", b"/ASCIIHexDecode")
_MOST_PACKED: Final = 2_000
_MOST_UNPACKED: Final = 32 * 1024 * 1024


def check(file: BinaryIO, name: str, media_type: str) -> None:
    """Return if nothing speaks against a document.

    Args:
        file: any seekable file; it stands anywhere after.
        name: the document's, for the message.
        media_type: as :func:`worker.documents.extract.sniff` gives it.

    Raises:
        DocumentRejectedError: ``encrypted`` or ``no_text``.
    """
    file.seek(0)
    if media_type in _OOXML and file.read(len(_OLE)) == _OLE:
        raise refusals.locked(name)
    if media_type in _ODF and _is_locked_package(file, name):
        raise refusals.locked(name)
    if media_type == sniffing.XLSX and _is_empty_workbook(file, name):
        raise refusals.without_text(name, has_pages=False)
    if media_type == sniffing.PDF and _is_scan(file):
        raise refusals.without_text(name, has_pages=True)


def is_locked_pdf(file: BinaryIO) -> bool:
    """Say whether a PDF is encrypted. It may be readable nevertheless: not every one asks for a password."""
    tail = b""
    file.seek(0)
    while block := file.read(_BLOCK):
        if _LOCK.search(window := tail + block):
            return True
        tail = window[-_OVERLAP:]
    return False


def _is_locked_package(file: BinaryIO, name: str) -> bool:
    try:
        with _opened(file, name) as package, package.open(_MANIFEST) as manifest:
            return b"encryption-data" in manifest.read(_BLOCK)
    except _UNREADABLE:
        return False  # damaged: its reader says so


def _is_empty_workbook(file: BinaryIO, name: str) -> bool:
    try:
        with _opened(file, name) as book:
            sheets = [entry for entry in book.infolist() if _SHEET.fullmatch(entry.filename)]
            if not sheets or len(sheets) > _MOST_SHEETS:
                return False
            for entry in sheets:
                if entry.file_size > _MOST_OF_A_SHEET:
                    return False
                with book.open(entry) as sheet:
                    if _CELL.search(sheet.read(_MOST_OF_A_SHEET)):
                        return False
            return True
    except _UNREADABLE:
        return False


def _opened(file: BinaryIO, name: str) -> zipfile.ZipFile:
    """A container whose directory is read within bounds."""
    bounds = ArchiveBounds(entries=1, entry_bytes=1, total_bytes=1, ratio=1, seconds=_LONGEST_SECONDS)
    return zipfile.ZipFile(Source(file, name, Meter(name, 0, bounds), _LONGEST_DIRECTORY))


def _is_scan(file: BinaryIO) -> bool:
    """Whether a whole PDF shows pictures and nothing that could be set in letters."""
    packed, has_image = list[int](), False
    tail, at = b"", 0
    file.seek(0)
    while block := file.read(_BLOCK):
        window = tail + block
        if _FONT in window:
            return False
        has_image = has_image or _IMAGE.search(window) is not None
        start = at - len(tail)
        packed += [start + found.start() for found in re.finditer(re.escape(_PACKED), window)]
        at += len(block)
        tail = window[-_OVERLAP:]
    is_whole = b"%%EOF" in tail  # of one that is cut short, the fonts may be what is missing
    places = sorted(set(packed))
    if not has_image or not is_whole or len(places) > _MOST_PACKED:
        return False
    budget = _MOST_UNPACKED
    for place in places:
        unpacked = _unpacked(file, place, budget)
        if unpacked is None or _FONT in unpacked:
            return False
        budget -= len(unpacked)
    return True


def _unpacked(file: BinaryIO, place: int, most: int) -> bytes | None:
    """The objects that are packed together at a place; ``None`` where they cannot be read, or are too many."""
    file.seek(max(place - _AROUND, 0))
    around = file.read(_AROUND + min(place, _AROUND))
    begins = _STREAM.search(around, min(place, _AROUND))
    if begins is None or _PLAIN_FILTER not in around or any(word in around for word in _NOT_PLAIN):
        return None
    file.seek(max(place - _AROUND, 0) + begins.end())
    unpacker, made = zlib.decompressobj(), io.BytesIO()
    try:
        while not unpacker.eof:
            if not (block := file.read(64 * 1024)):
                return None
            while block and not unpacker.eof:
                made.write(unpacker.decompress(block, 64 * 1024))
                if made.tell() > most:
                    return None
                block = unpacker.unconsumed_tail
    except zlib.error:
        return None
    return made.getvalue()
