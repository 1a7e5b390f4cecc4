"""What is read of a document here, before and after the server reads it.

A scan would kill its collector, and of a document that is locked it says only that something went wrong.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.documents.extract import refusals, sniffing
from worker.documents.looking import check, is_locked_pdf
from worker.engines.base import Document, DocumentRejectedError


class Reading:
    """Looks at documents on their way to the server."""

    @asynccontextmanager
    async def sent(self, document: Document) -> AsyncIterator[Document]:
        """Lend what is to be sent of a document while the block runs, in which it is.

        Raises:
            DocumentRejectedError: it is not worth sending (``no_text``, ``encrypted``); or the server could not read
                it, and it is seen here why.
        """
        await asyncio.to_thread(check, document.file, document.name, document.media_type)
        try:
            yield document
        except DocumentRejectedError as error:
            # Not before it was sent: many a PDF is encrypted and opens without a password.
            is_pdf = document.media_type == sniffing.PDF
            if error.code == "corrupt" and is_pdf and await asyncio.to_thread(is_locked_pdf, document.file):
                raise refusals.locked(document.name) from error
            raise
