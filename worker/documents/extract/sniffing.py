"""What a file is, by its first bytes and its name.

Promise: :func:`sniff` looks at what the bytes say before it believes the name, so a PDF named ``.txt`` is a PDF and a
program named ``.pdf`` is refused. It needs no parser and never reads further than it must. Whether the file can be
parsed is :mod:`worker.documents.extract.reading`'s business.
"""

import io
import mimetypes
import re
import zipfile
from pathlib import PurePosixPath

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

# What begins a file of a kind that holds no text to search, and what people call it.
_REFUSED = (
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xfe\xed\xfa", "a program"),
    (b"\0asm", "a program"),
    (b"\x89PNG\r\n\x1a\n", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF87a", "an image"),
    (b"GIF89a", "an image"),
    (b"II*\0", "an image"),
    (b"MM\0*", "an image"),
    (b"8BPS", "an image"),
    (b"\x1f\x8b", "an archive"),
    (b"BZh", "an archive"),
    (b"\xfd7zXZ\0", "an archive"),
    (b"7z\xbc\xaf\x27\x1c", "an archive"),
    (b"Rar!\x1a\x07", "an archive"),
    (b"(\xb5/\xfd", "an archive"),
    (b"SQLite format 3\0", "a database"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
    (b"fLaC", "audio"),
    (b"\x1aE\xdf\xa3", "a video"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
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
_HEAD = 4096
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def sniff(content: bytes, name: str) -> str:
    """Return the media type of a file, by its content and then by the ending of its name.

    Args:
        content: the bytes of the file.
        name: its name; folders before it are ignored.

    Raises:
        DocumentRejectedError: ``unsupported_type`` for programs, images, archives and other files without text to
            search.
    """
    ending = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    head = content[:_HEAD]
    if (found := _by_magic(content, head, name, ending)) is not None:
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


def _by_magic(content: bytes, head: bytes, name: str, ending: str) -> str | None:
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith(b"{\\rtf"):
        return RTF
    if head.startswith(b"PK\x03\x04"):
        return _zip_type(content, name, ending)
    if head.startswith(_OLE):
        return _ole_type(content, name, ending)
    for magic, what in _REFUSED:
        # Two or three letters can begin a text as well: then what follows must not be text.
        if head.startswith(magic) and not (magic.isalnum() and _looks_like_text(head)):
            raise unsupported(name, what)
    if head[:4] == b"RIFF" and head[8:12] in {b"WEBP", b"WAVE", b"AVI "}:
        raise unsupported(name, "an image" if head[8:12] == b"WEBP" else "audio or video")
    if head[4:8] == b"ftyp" and not _looks_like_text(head):
        raise unsupported(name, "a video or an image")
    if head[257:262] == b"ustar":
        raise unsupported(name, "an archive")
    return None


def _zip_type(content: bytes, name: str, ending: str) -> str:
    """Tell office documents from archives; a container too damaged to look into is what its name says."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as container:
            entries = container.namelist()
            if entries and entries[0] == "mimetype" and container.getinfo("mimetype").file_size < _HEAD:
                declared = container.read("mimetype").decode("ascii", "replace").strip()
                if declared in {ODT, ODS, EPUB}:
                    return declared
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        if ending in _BINARY:
            return _BINARY[ending]
        raise unsupported(name, "an archive") from None
    if "[Content_Types].xml" in entries:
        for folder, media_type in _ZIP_ENTRIES:
            if any(entry.startswith(folder) for entry in entries):
                return media_type
    raise unsupported(name, "an archive")


def _ole_type(content: bytes, name: str, ending: str) -> str:
    """Tell the old office formats apart; an encrypted new one hides in the same container."""
    if _BINARY.get(ending) in {DOCX, XLSX, PPTX} and is_encrypted_office(content):
        return _BINARY[ending]
    for stream, media_type in _OLE_STREAMS:
        if stream.encode("utf-16-le") in content:
            return media_type
    if _BINARY.get(ending) in {DOC, XLS, PPT, MSG}:
        return _BINARY[ending]
    raise unsupported(name, "of no type that can be read")


def is_encrypted_office(content: bytes) -> bool:
    """Say whether the bytes are an office document of the newer kind that is locked with a password."""
    return content.startswith(_OLE) and "EncryptedPackage".encode("utf-16-le") in content


def _looks_like_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return True
    if _CONTROL.search(head) is None:
        return True
    # UTF-16 without a byte order mark: every second byte of Latin text is zero, and nothing else is out of order.
    even, odd = head[0::2], head[1::2]
    wide = min(even.count(0), odd.count(0)) == 0 and max(even.count(0), odd.count(0)) > len(head) // 4
    return wide and _CONTROL.search(head.replace(b"\0", b"")) is None
