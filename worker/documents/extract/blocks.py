"""The text of a document as blocks that know where they stand: the form every format is brought into.

:class:`Outline` is what the format readers write to. It keeps the headings, so that a block of text carries those above
it, and promises that nothing written to it is lost: a heading with no text below it becomes a block itself.
"""

import re
from dataclasses import dataclass, field

SEPARATOR = " > "
MAX_HEADING = 300
_MAX_LEVELS = 9
# What PostgreSQL and JSON cannot hold, or nobody can see: control characters, halves of surrogate pairs, soft hyphens
# and marks of no width. U+FFFE and U+0002 are what PDF readers leave of a hyphen at the end of a line.
_INVISIBLE = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060\ud800-\udfff\ufeff\ufffe\uffff]")
_BLANKS = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r"\r\n?|[\f\v\x1c-\x1e\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, a list entry or a table row.

    Attributes:
        text: without blanks at its ends; a line break in it was meant by the author.
        page: the page it begins on, from 1, where the format has pages.
        heading: the title of the document and the headings above the block, outermost first.
    """

    text: str
    page: int | None = None
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document's text.

    Attributes:
        title: what the document calls itself, else its file name in words.
        blocks: in reading order; at least one.
        pages: number of pages, where the format has pages.
        words: number of words, headings included.
    """

    title: str
    blocks: tuple[Block, ...]
    pages: int | None
    words: int


@dataclass(slots=True)
class Outline:
    """Collects blocks under headings.

    Args:
        fallback: the title of a document that names none.
        title: the document's title if the format tells it; else a heading of level 1 at its top becomes the title.
        page: what blocks written from now on carry; the reader sets it as it goes.
    """

    fallback: str = ""
    title: str | None = None
    page: int | None = None
    blocks: list[Block] = field(default_factory=list)
    words: int = 0
    _stack: list[tuple[int, str]] = field(default_factory=list)
    # Headings that no block has carried yet, by their level.
    _bare: dict[int, tuple[str, int | None]] = field(default_factory=dict)

    def heading(self, level: int, text: str) -> None:
        """Open a section: ``level`` 1 is the outermost, deeper ones stay inside it."""
        text = " ".join(clean(text).split())
        if not text:
            return
        level = min(max(level, 1), _MAX_LEVELS)
        self.words += len(text.split())
        self.leave(level)
        if self.title is None and level == 1 and not self.blocks:
            self.title = text[:MAX_HEADING]
        self._stack.append((level, text))
        self._bare[level] = (text, self.page)

    def text(self, text: str) -> None:
        """Add a block; blanks and empty lines in it are folded."""
        text = clean(text)
        if not text:
            return
        self.words += len(text.split())
        self._bare.clear()  # every heading that is still open is carried by this block
        self.blocks.append(Block(text, self.page, self._breadcrumb()))

    def leave(self, level: int) -> None:
        """Close every section of this level or deeper: what follows does not belong to it."""
        for bare in sorted(key for key in self._bare if key >= level):
            text, page = self._bare.pop(bare)
            if text != self.title:  # which stands on every block's heading already
                above = [(at, heading) for at, heading in self._stack if at < bare]
                self.blocks.append(Block(text, page, self._breadcrumb(above)))
        self._stack = [entry for entry in self._stack if entry[0] < level]

    def finish(self, pages: int | None = None) -> Extracted:
        """Return what was collected, in a document of so many pages."""
        self.leave(0)
        if self.words and self.title and not self.blocks:
            self.blocks.append(Block(self.title, self.page, self.title))
        return Extracted(self.title or self.fallback, tuple(self.blocks), pages, self.words)

    def _breadcrumb(self, stack: list[tuple[int, str]] | None = None) -> str | None:
        title = self.title or self.fallback
        parts = [title, *(text for _, text in (self._stack if stack is None else stack) if text != title)]
        return SEPARATOR.join(part for part in parts if part)[:MAX_HEADING] or None


def clean(text: str) -> str:
    """Return ``text`` without characters that no store can hold, blanks folded, empty lines dropped."""
    # Line ends first: some of them are control characters.
    lines = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)).split("\n")
    folded = (_BLANKS.sub(" ", line).strip() for line in lines)
    return "\n".join(line for line in folded if line)
