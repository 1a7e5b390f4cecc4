"""A file's text, whatever its format: the one call that the local engine makes.

Promise: :func:`extract` is pure, opens no file and no connection, and either returns text or says in one sentence why
there is none. It needs the extra ``local``. It can take long and use much memory; bounds on both are kept by whoever
runs it (:mod:`worker.documents.parsing`).
"""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath

from worker.documents.extract import office, sniffing
from worker.documents.extract.blocks import Extracted, Outline
from worker.documents.extract.decoding import decode
from worker.documents.extract.mail import read_mail
from worker.documents.extract.markdown import read_markdown
from worker.documents.extract.plain import read_plain
from worker.documents.extract.refusals import damaged, locked, too_large, without_text
from worker.documents.extract.structured import NotJsonError, read_json
from worker.engines.base import DocumentRejectedError

MAX_CHARACTERS = 20_000_000
"""How much text a document may hold, unless the caller says otherwise."""


def extract(content: bytes, name: str, media_type: str, *, max_characters: int = MAX_CHARACTERS) -> Extracted:
    """Return the text of a file by paragraphs, list entries and table rows, each with its page and headings.

    Args:
        content: the bytes of the file.
        name: its name, for messages and as a title where the document has none.
        media_type: as :func:`worker.documents.extract.sniff` gives it.
        max_characters: bound on the text (1 or more).

    Raises:
        DocumentRejectedError: ``corrupt``, ``encrypted``, ``no_text``, ``too_large`` or ``unsupported_type``.
    """
    outline = Outline(fallback=_in_words(name))
    pages = _read(content, name, media_type, outline)
    extracted = outline.finish(pages)
    if not extracted.blocks:
        raise without_text(name, has_pages=pages is not None)
    if sum(len(block.text) for block in extracted.blocks) > max_characters:
        raise too_large(name, f"it holds more than {max_characters:,} characters of text")
    return extracted


def _read(content: bytes, name: str, media_type: str, outline: Outline) -> int | None:
    """Write the document to ``outline`` and return its number of pages, where the format has pages."""
    if sniffing.is_encrypted_office(content) or _is_encrypted_package(content):
        raise locked(name)
    if media_type == sniffing.PDF:
        return office.read_pdf(content, name, outline)
    if media_type in {sniffing.PPTX, sniffing.PPT}:
        return office.read_slides(content, name, media_type, outline)
    read = _READERS.get(media_type)
    if read is None:
        office.read_document(content, name, media_type, outline)
    else:
        read(content, name, outline)
    return None


def _read_workbook(media_type: str) -> Callable[[bytes, str, Outline], None]:
    return lambda content, name, outline: office.read_sheets(content, name, media_type, outline)


def _read_separated(media_type: str) -> Callable[[bytes, str, Outline], None]:
    return lambda content, name, outline: office.read_sheets(decode(content).encode(), name, media_type, outline)


def _read_json(content: bytes, name: str, outline: Outline) -> None:
    try:
        read_json(decode(content), outline)
    except NotJsonError as error:
        raise damaged(name, str(error)) from error


def _read_mail(content: bytes, _name: str, outline: Outline) -> None:
    def read_part(part: bytes, name: str, media_type: str | None) -> None:
        title = outline.title
        try:
            _read(part, name, media_type or sniffing.sniff(part, name), outline)
        except DocumentRejectedError:
            if media_type is not None:  # the body; an attachment without text (a logo, a signature) is left out
                raise
        finally:
            outline.title, outline.page = title, None  # a mail has no pages, whatever is attached to it

    read_mail(content, outline, read_part)


_READERS: dict[str, Callable[[bytes, str, Outline], None]] = {
    sniffing.TEXT: lambda content, _, outline: read_plain(decode(content), outline),
    sniffing.MARKDOWN: lambda content, _, outline: read_markdown(decode(content), outline),
    sniffing.RST: lambda content, name, outline: office.read_document(
        decode(content).encode(), name, sniffing.RST, outline
    ),
    sniffing.HTML: lambda content, name, outline: office.read_document(
        _html_as_utf8(content), name, sniffing.HTML, outline
    ),
    sniffing.XML: office.read_elements,
    sniffing.JSON: _read_json,
    sniffing.MAIL: _read_mail,
    sniffing.CSV: _read_separated(sniffing.CSV),
    sniffing.TSV: _read_separated(sniffing.TSV),
    sniffing.XLSX: _read_workbook(sniffing.XLSX),
    sniffing.XLS: _read_workbook(sniffing.XLS),
    sniffing.ODS: _read_workbook(sniffing.ODS),
}


def _html_as_utf8(content: bytes) -> bytes:
    """Web pages say their encoding inside; the parser believes in UTF-8 alone."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        declared = re.search(rb"charset\s*=\s*[\"']?\s*([\w-]+)", content[:4096], re.IGNORECASE)
        try:
            text = content.decode(declared.group(1).decode("ascii"), "replace") if declared else decode(content)
        except LookupError:  # an encoding that nobody knows
            text = decode(content)
        return text.encode()
    return content


def _is_encrypted_package(content: bytes) -> bool:
    """OpenDocument files say in their manifest that their parts are encrypted."""
    if not content.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as package:
            return b"encryption-data" in package.read("META-INF/manifest.xml")
    except (KeyError, ValueError, RuntimeError, NotImplementedError, OSError, zipfile.BadZipFile):
        return False  # some other kind of container, or damaged: the parser will say


def _in_words(name: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", PurePosixPath(name.replace("\\", "/")).stem)).strip()
