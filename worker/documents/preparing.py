"""What a file is before an engine gets it: measured, known by type, and as UTF-8 if it is text.

Promise: :func:`prepare` either returns a document that an engine can be given, or says in one sentence why there is
none. It reads the file in blocks, however large; what it writes is a temporary file. Whether the document can be parsed
is the engine's business.
"""

import codecs
import hashlib
import io
import re
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, Self, cast

from worker.documents.anythingllm_types import extension_for
from worker.documents.charsets import UTF8, Utf8Check, charset_of, convert, needs_conversion
from worker.documents.extract import refusals, sniffing
from worker.documents.extract.decoding import SAMPLE_BYTES
from worker.engines.base import DocumentRejectedError

_BLOCK = 64 * 1024
_IN_MEMORY = 1024 * 1024  # bytes of converted text; a longer one goes to disk
# RTF and mail say in themselves, part by part, what they are written in: their bytes are left alone.
_TEXT_TYPES = frozenset(
    {
        sniffing.TEXT,
        sniffing.MARKDOWN,
        sniffing.RST,
        sniffing.HTML,
        sniffing.XML,
        sniffing.JSON,
        sniffing.CSV,
        sniffing.TSV,
    }
)
_VISIBLE = re.compile(r"[^\s\0\u200b-\u200f\u2060\ufeff]")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file as an engine is given it. As a context manager it closes what it made, never the file it was made from.

    Attributes:
        file: its bytes, at their start; text is UTF-8 without a byte order mark.
        size: of ``file``, in bytes.
        sha256: lower-case hex digest of the file as it came.
        media_type: by content and ending.
        extension: what its name must end in for AnythingLLM, which looks at nothing else (``.txt``).
        charset: what its text was in (``cp1252``); ``None`` if it is not text.
    """

    file: BinaryIO = field(repr=False)
    size: int
    sha256: str
    media_type: str
    extension: str
    charset: str | None
    converted: bool = field(default=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the temporary file, if one was made."""
        if self.converted:
            self.file.close()


def prepare(file: BinaryIO, name: str, *, max_bytes: int) -> Prepared:
    """Measure a file, find out what it is, and turn its text into UTF-8.

    Args:
        file: any seekable file; read from its start, and not closed. Without conversion it is what is returned.
        name: its name; folders before it are ignored, the ending counts where the content does not say what it is.
        max_bytes: the most it may have (1 or more).

    Raises:
        DocumentRejectedError: ``empty`` (no bytes), ``too_large`` (more than ``max_bytes``), ``unsupported_type`` (a
            program, an image, an archive, ...: the message says what), ``no_text`` (a text of nothing but blanks).
        OSError: the file or the temporary one cannot be read or written.
    """
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise DocumentRejectedError("empty", f"{name} is empty: there is nothing to store in it")
    if size > max_bytes:
        raise refusals.too_large(name, f"it has {size:,} bytes, at most {max_bytes:,}")
    media_type = sniffing.sniff(file, name)
    extension = extension_for(media_type, name)
    digest, check = hashlib.sha256(), Utf8Check()
    is_text = media_type in _TEXT_TYPES
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
        if is_text:
            check.feed(block)
    file.seek(0)
    if not is_text:
        return Prepared(file, size, digest.hexdigest(), media_type, extension, None)
    check.feed(b"", final=True)
    head = file.read(SAMPLE_BYTES)
    charset = charset_of(head, check, media_type)
    if not _holds_text(file, charset):
        raise refusals.without_text(name, has_pages=False)
    if not needs_conversion(head, check, charset, media_type):
        file.seek(0)
        return Prepared(file, size, digest.hexdigest(), media_type, extension, charset)
    converted = _converted(file, charset, media_type)
    size = converted.seek(0, io.SEEK_END)
    converted.seek(0)
    shown = UTF8 if charset == "utf-8-sig" else charset
    return Prepared(converted, size, digest.hexdigest(), media_type, extension, shown, converted=True)


def check_type(name: str, prepared: Prepared, allowed: Collection[str]) -> None:
    """Refuse what ``ALLOWED_FILE_TYPES`` leaves out: a file of which neither the name's ending nor the type is in it.

    Args:
        name: the document's.
        prepared: what it is.
        allowed: endings, lower-case, with their dot (``.pdf``); none: all types are taken.

    Raises:
        DocumentRejectedError: ``type_not_allowed``.
    """
    if allowed and PurePosixPath(name).suffix.lower() not in allowed and prepared.extension not in allowed:
        raise DocumentRejectedError(
            "type_not_allowed", f"{name} is {prepared.media_type}; ALLOWED_FILE_TYPES allows {', '.join(allowed)}"
        )


def _holds_text(file: BinaryIO, charset: str) -> bool:
    decoder = codecs.getincrementaldecoder(charset)("replace")
    file.seek(0)
    while block := file.read(_BLOCK):
        if _VISIBLE.search(decoder.decode(block)):
            return True
    return _VISIBLE.search(decoder.decode(b"", final=True)) is not None


def _converted(file: BinaryIO, charset: str, media_type: str) -> BinaryIO:
    spooled = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - it is returned open
    into = cast("BinaryIO", spooled)  # it has all that one has; only its declared type is wider
    try:
        convert(file, charset, media_type, into)
    except BaseException:
        into.close()
        raise
    return into
