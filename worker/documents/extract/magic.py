"""What a binary file is, in words, by the numbers that such files begin with.

The numbers are puremagic's. It is asked only about bytes that do not look like text: its two and three letters begin
texts as well (``MZ``, ``BM``, ``ID3``, ``RIFF``), and it calls a page about ``moov`` a video. Of its answers only those
count that name a kind of file without text to search. Office documents are told apart in :mod:`.sniffing`: it gives
every zip, a workbook as well as a bundle of texts, as DOCX, PPTX and XLSX alike, and every OLE container as DOC first.
"""

import puremagic

HEAD_BYTES = 4096
"""How much of a file's beginning is looked at."""

_KINDS = {"image": "an image", "audio": "audio", "video": "a video", "font": "a font"}
_ARCHIVE, _PROGRAM, _DATABASE = "an archive", "a program", "a database"
_APPLICATIONS = {
    "application/gzip": _ARCHIVE,
    "application/vnd.debian.binary-package": _ARCHIVE,
    "application/vnd.ms-cab-compressed": _ARCHIVE,
    "application/vnd.rar": _ARCHIVE,
    "application/x-7z-compressed": _ARCHIVE,
    "application/x-archive": _ARCHIVE,
    "application/x-bzip2": _ARCHIVE,
    "application/x-compress": _ARCHIVE,
    "application/x-cpio": _ARCHIVE,
    "application/x-gzip": _ARCHIVE,
    "application/x-lha": _ARCHIVE,
    "application/x-lz4": _ARCHIVE,
    "application/x-lzip": _ARCHIVE,
    "application/x-rar-compressed": _ARCHIVE,
    "application/x-rpm": _ARCHIVE,
    "application/x-tar": _ARCHIVE,
    "application/x-xz": _ARCHIVE,
    "application/zstd": _ARCHIVE,
    "application/java": _PROGRAM,
    "application/vnd.microsoft.portable-executable": _PROGRAM,
    "application/x-msaccess": _DATABASE,
    "application/x-sqlite3": _DATABASE,
    "application/dicom": "an image",
    "application/vnd.ms-asf": "audio or video",
    "application/x-matroska": "a video",
}
# What it knows under no media type, or not at all.
_MORE = (
    (b"\x7fELF", _PROGRAM),
    (b"MZ", _PROGRAM),
    (b"\xcf\xfa\xed\xfe", _PROGRAM),
    (b"\xce\xfa\xed\xfe", _PROGRAM),
    (b"\xfe\xed\xfa", _PROGRAM),
    (b"\0asm", _PROGRAM),
    (b"PAR1", "a table of columns (Parquet)"),
)
_SHORTEST = 3  # bytes that must agree; two do by chance in one file of some thousands


def kind_in_words(head: bytes) -> str | None:
    """Return what a file without text to search is (``an image``); ``None`` if that is not known.

    Args:
        head: its first :data:`HEAD_BYTES`, which do not look like text.
    """
    if (known := next((what for magic, what in _MORE if head.startswith(magic)), None)) is not None:
        return known
    try:
        matches = puremagic.magic_string(head) if head else []
    except puremagic.PureError:
        return None
    for match in matches:
        # An offset below 0 counts from the file's end, and this is not it.
        if match.offset >= 0 and len(match.byte_match) >= _SHORTEST:
            kind, _, _ = match.mime_type.partition("/")
            if (what := _KINDS.get(kind) or _APPLICATIONS.get(match.mime_type)) is not None:
                return what
    return None
