"""What is read of a document here, before and after the server reads it.

The server takes HTML with its tags and scripts, reads no mail and no old office document, dies of a scan, and says of a
document that is locked only that something went wrong. So what it reads badly is turned into Markdown by our own
parsers, where those are installed; and what it could do nothing with is not sent.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import BinaryIO, Final, cast

from worker.documents.extract import refusals, sniffing
from worker.documents.looking import check, is_locked_pdf
from worker.documents.parsing import Parsers
from worker.engine_settings import Convert
from worker.engines.base import Document, DocumentRejectedError, StoredDocument

_IN_MEMORY: Final = 1024 * 1024  # bytes of Markdown; a longer one goes to disk
_MOST_TEXT: Final = 20_000_000  # characters of one document
_PARSERS: Final = ("kreuzberg", "markdown_it")

READ_BADLY: Final = frozenset(
    {
        sniffing.HTML,  # embedded with its tags, scripts and styles
        sniffing.MAIL,
        sniffing.MSG,
        sniffing.RTF,
        sniffing.DOC,
        sniffing.XLS,
        sniffing.PPT,
        sniffing.ODS,
    }
)
"""What the server cannot read, or reads so that answers suffer."""

_TEXT_ALREADY: Final = frozenset({sniffing.TEXT, sniffing.MARKDOWN})


class ParsersMissingError(Exception):
    """Every document is to be converted, and what converts is not installed."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent of a document.

    Attributes:
        document: the same document, in another form if it was converted; its digest is that of the file as it came.
        is_converted: it is Markdown made of another format.
        pages: of the file, where it has pages and was converted.
    """

    document: Document
    is_converted: bool = False
    pages: int | None = None

    def described(self, stored: StoredDocument) -> StoredDocument:
        """Return what is stored, with what only this side knows of it."""
        if not self.is_converted:
            return stored
        return stored.model_copy(update={"converted": True, "pages": self.pages})


class Reading:
    """Looks at documents on their way to the server, and converts some.

    Args:
        convert: which.
        seconds: bound on the time for converting one document.
        max_bytes: bound on the memory that this may take.

    Raises:
        ParsersMissingError: all are to be converted, and the extra ``local`` is not installed.
    """

    def __init__(self, convert: Convert, *, seconds: int, max_bytes: int) -> None:
        missing = [package for package in _PARSERS if find_spec(package) is None]
        if convert is Convert.ALWAYS and missing:
            raise ParsersMissingError(
                "ANYTHINGLLM_CONVERT=always needs parsers that are not installed: install anythingllm-worker[local], "
                "or set it to auto"
            )
        self._convert = convert
        self._parsers = None if missing or convert is Convert.NEVER else Parsers(2, seconds, _MOST_TEXT, max_bytes)

    @asynccontextmanager
    async def sent(self, document: Document) -> AsyncIterator[Sent]:
        """Lend what is to be sent of a document while the block runs, in which it is.

        Raises:
            DocumentRejectedError: it is not worth sending (``no_text``, ``encrypted``), cannot be converted, or the
                server could not read it, and it is seen here why.
            EngineUnavailableError: no parser can be started.
        """
        if self._convert is not Convert.NEVER:  # then the server shall try whatever it is, with OCR perhaps
            await asyncio.to_thread(check, document.file, document.name, document.media_type)
        if self._parsers is not None and self._is_converted(document):
            rendered = await self._parsers.render(document)
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spooled:
                file = cast("BinaryIO", spooled)  # it has all that one has; only its declared type is wider
                size = await asyncio.to_thread(_write, rendered.texts, file)
                markdown = replace(document, file=file, size=size, media_type=sniffing.MARKDOWN)
                yield Sent(markdown, is_converted=True, pages=rendered.pages)
            return
        try:
            yield Sent(document)
        except DocumentRejectedError as error:
            # Not before it was sent: many a PDF is encrypted and opens without a password.
            is_pdf = document.media_type == sniffing.PDF
            if error.code == "corrupt" and is_pdf and await asyncio.to_thread(is_locked_pdf, document.file):
                raise refusals.locked(document.name) from error
            raise

    async def aclose(self) -> None:
        """End the parser processes."""
        if self._parsers is not None:
            await self._parsers.aclose()

    def _is_converted(self, document: Document) -> bool:
        if document.media_type in _TEXT_ALREADY:
            return False
        if self._convert is Convert.ALWAYS or document.media_type in READ_BADLY:
            return True
        # The server died of it; perhaps a parser does not, or says what it is.
        return document.crashes > 0


def _write(texts: Sequence[str], file: BinaryIO) -> int:
    size = 0
    for text in texts:
        size += file.write(text.encode("utf-8", "replace"))
    file.seek(0)
    return size
