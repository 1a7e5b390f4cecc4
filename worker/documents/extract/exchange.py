"""What passes between a worker and the process that parses a document for it: this module needs no parser."""

import struct
from typing import Self

from pydantic import BaseModel, Field

LENGTH = struct.Struct(">Q")
"""Stands before each request, each file and each reply: how many bytes it has."""


class Request(BaseModel):
    """What stands before the bytes of a document.

    Attributes:
        name, media_type: as the engine protocol has them.
        seconds: after so many seconds the kernel ends this process, even in the middle of native code.
        max_characters: bound on the text.
        as_markdown: the text is wanted as Markdown, not as passages.
    """

    name: str
    media_type: str
    seconds: int = Field(ge=1)
    max_characters: int = Field(ge=1)
    as_markdown: bool = False


class Parsed(BaseModel):
    """A document's passages, column by column, as they go to the database.

    Attributes:
        pages: number of pages where the format has them.
        words: number of words.
        texts, on_pages, headings: of each passage, in reading order.
    """

    pages: int | None
    words: int
    texts: list[str]
    on_pages: list[int | None]
    headings: list[str | None]

    def extend(self, further: Self) -> None:
        """Take in the passages that come next."""
        self.texts += further.texts
        self.on_pages += further.on_pages
        self.headings += further.headings


class Rendered(BaseModel):
    """A document's text as Markdown.

    Attributes:
        pages: number of pages where the format has them.
        texts: pieces of the text, one after another.
    """

    pages: int | None
    texts: list[str]

    def extend(self, further: Self) -> None:
        """Take in the pieces that come next."""
        self.texts += further.texts


class Refused(BaseModel):
    """Why the document has no text; see :class:`DocumentRejectedError`."""

    code: str
    message: str


class Reply(BaseModel):
    """One of the three, or the first part of what a document holds: then ``more`` is to come in further replies."""

    parsed: Parsed | None = None
    rendered: Rendered | None = None
    refused: Refused | None = None
    more: bool = False
