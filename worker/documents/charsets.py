"""Text files of any encoding as UTF-8, and what web pages and XML say of their encoding kept true.

Promise: a file is read in blocks, never as a whole. What cannot be decoded becomes U+FFFD, never an error. How an
encoding is found without a declaration is :mod:`worker.documents.extract.decoding`'s subject.
"""

import codecs
import re
from typing import BinaryIO

from worker.documents.extract.decoding import SAMPLE_BYTES, guessed_encoding, marked_encoding
from worker.documents.extract.sniffing import HTML, XML

UTF8 = "utf-8"
_BLOCK = 64 * 1024
_DECLARED_WITHIN = 4096  # bytes or characters
_META = re.compile(r"""(<meta\b[^>]{0,500}?charset\s*=\s*["']?\s*)([\w.:-]+)""", re.IGNORECASE)
_PROLOGUE = re.compile(r"""(\A\s*<\?xml\b[^>]{0,500}?\bencoding\s*=\s*["'])([\w.:-]+)""", re.IGNORECASE)
_DECLARING = {HTML: (_META, _PROLOGUE), XML: (_PROLOGUE,)}
# Bytes that declare one of these inside ASCII are in none of them.
_NOT_BY_BYTES = re.compile(r"utf[-_]?(?:7|16|32)|idna|punycode|escape|undefined", re.IGNORECASE)
_SEVEN_BIT = re.compile(r"iso2022|hz", re.IGNORECASE)  # all ASCII to the eye, and yet not
_WESTERN = {"ascii", "iso8859-1"}  # what says so is read as Windows-1252, as browsers do


class Utf8Check:
    """Says of bytes that come in blocks whether they are UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder(UTF8)()
        self.is_utf8 = True

    def feed(self, block: bytes, *, final: bool = False) -> None:
        """Take the next block; after the last one ``final`` is said, with an empty block if need be."""
        if self.is_utf8:
            try:
                self._decoder.decode(block, final)
            except UnicodeDecodeError:
                self.is_utf8 = False


def charset_of(head: bytes, check: Utf8Check, media_type: str) -> str:
    """Return the encoding of a text file, by its mark, as UTF-8, as it declares, or as it fits best.

    Args:
        head: its first 64 KiB.
        check: of all of it.
        media_type: web pages and XML may declare their encoding.
    """
    if (marked := marked_encoding(head)) is not None:
        return marked
    declared = _declared(head, media_type)
    if check.is_utf8:
        stateful = declared is not None and _SEVEN_BIT.match(declared) and b"\x1b" in head
        return declared if declared is not None and stateful else UTF8
    return declared or guessed_encoding(head[:SAMPLE_BYTES])


def needs_conversion(head: bytes, check: Utf8Check, charset: str, media_type: str) -> bool:
    """Say whether a text file must be changed to be UTF-8 and to say so where it says anything."""
    if charset != UTF8 or not check.is_utf8:
        return True
    written = head[:_DECLARED_WITHIN].decode("latin-1")
    return any(
        match.group(2).lower() not in {"utf-8", "utf8"}
        for pattern in _DECLARING.get(media_type, ())
        for match in pattern.finditer(written)
    )


def convert(file: BinaryIO, charset: str, media_type: str, into: BinaryIO) -> None:
    """Write a text file as UTF-8 without a mark, with declarations that say so.

    Args:
        file: read from its start.
        charset: what it is in.
        media_type: of web pages and XML the declarations are changed.
        into: written at its position.
    """
    decoder = codecs.getincrementaldecoder(charset)("replace")
    patterns = _DECLARING.get(media_type, ())
    file.seek(0)
    first = True
    while True:
        block = file.read(_BLOCK)
        text = decoder.decode(block, not block)
        if first and patterns:
            head, rest = text[:_DECLARED_WITHIN], text[_DECLARED_WITHIN:]
            for pattern in patterns:
                head = pattern.sub(rf"\g<1>{UTF8}", head)
            text = head + rest
        first = False
        # Half of a surrogate pair cannot be written; some encodings let it through.
        into.write(text.encode(UTF8, "replace"))
        if not block:
            return


def _declared(head: bytes, media_type: str) -> str | None:
    """Return the encoding that a page names and Python knows."""
    written = head[:_DECLARED_WITHIN].decode("latin-1")
    for pattern in _DECLARING.get(media_type, ()):
        match = pattern.search(written)
        if match is None or _NOT_BY_BYTES.search(match.group(2)):
            continue
        try:
            b"a".decode(match.group(2))  # what is no encoding of text is refused here, not by lookup
            name = codecs.lookup(match.group(2)).name
        except (LookupError, ValueError):
            continue
        return "cp1252" if name in _WESTERN else name
    return None
