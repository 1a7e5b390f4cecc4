"""A document as passages: pieces that are searched and quoted on their own.

Promise: :func:`passages` is pure and loses nothing: the texts of the passages, one after another, are the text of the
document but for blanks. A passage stays within one page and one section, has at most ``LONGEST`` characters, and ends
where a block, a sentence, a field of a table row or at least a word ends. How passages are found again is
:mod:`worker.engines.local`'s business.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from worker.documents.extract import Block, Extracted

AIM = 900
"""A passage takes in further blocks up to this many characters."""
LONGEST = 1_200
"""No passage has more characters."""

_ROW = re.compile(r"[^:;\n]{1,80}: .*; [^:;\n]{1,80}: ")
# A full stop ends no sentence behind the first of these, nor between the second and a number.
_TITLES = frozenset({"approx", "ca", "cf", "dr", "e.g", "eg", "i.e", "ie", "incl", "mr", "mrs", "ms", "prof", "vs"})
_BEFORE_NUMBERS = frozenset({"art", "fig", "figs", "max", "min", "no", "nos", "nr", "p", "pp", "sec", "tel", "vol"})
_LOOK_BACK = 100  # characters before a full stop that tell whether it ends a sentence
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019\u00bb)\]]*\s+(?=[\"'\u201c\u2018\u00ab(\[]*[^\W_])")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document.

    Attributes:
        text: at most ``LONGEST`` characters; its lines are paragraphs, list entries or table rows.
        page: its page, from 1, where the format has pages.
        heading: the title of the document and the headings above the passage, outermost first.
    """

    text: str
    page: int | None
    heading: str | None


def passages(extracted: Extracted) -> list[Passage]:
    """Return the passages of a document, in reading order."""
    made: list[Passage] = []
    lines: list[str] = []
    length = 0
    place: tuple[int | None, str | None] = (None, None)

    def end() -> None:
        nonlocal length
        if lines:
            made.append(Passage("\n".join(lines), *place))
            lines.clear()
            length = 0

    for block in extracted.blocks:
        if (block.page, block.heading) != place:
            end()
            place = (block.page, block.heading)
        for piece in _pieces(block):
            if lines and length + len(piece) > AIM:
                end()
            lines.append(piece)
            length += len(piece) + 1
    end()
    return made


def sentences(text: str) -> list[str]:
    """Return what can be quoted alone from a passage: sentences, and lines that are table rows or list entries."""
    return [sentence for line in text.split("\n") if line for sentence in _sentences_of_line(line)]


def is_row(line: str) -> bool:
    """Say whether a line is a table row whose fields are named (``Part: K-100; Price: 12.50 EUR``)."""
    return _ROW.match(line) is not None


def _sentences_of_line(line: str) -> Iterator[str]:
    if is_row(line):
        yield line
        return
    start = 0
    for end in _SENTENCE_END.finditer(line):
        if not line[end.end()].islower() and not (
            line[end.start()] == "."
            and _goes_on(line[max(start, end.start() - _LOOK_BACK) : end.start()], line[end.end()])
        ):
            yield line[start : end.end()].strip()
            start = end.end()
    if rest := line[start:].strip():
        yield rest


def _goes_on(before: str, following: str) -> bool:
    """Say whether a full stop between these belongs to a word or a number rather than to the sentence."""
    *others, word = before.split() or [""]
    word = word.strip("([\"'").lower()
    if not others and (word.isdigit() or len(word) == 1):
        return True  # "1. Open the valve": the number of a list entry
    if len(word) == 1 and word.isalpha():
        return not others[-1][-1].isdigit()  # "J. Smith", but not "3 m. The"
    return word in _TITLES or (word in _BEFORE_NUMBERS and following.isdigit())


def _pieces(block: Block) -> Iterator[str]:
    """Yield the lines of a block, the long ones in parts."""
    for line in block.text.split("\n"):
        if len(line) <= AIM:
            yield line
        else:
            yield from _parts(line)


def _parts(line: str) -> Iterator[str]:
    """Fill parts of at most ``AIM`` characters with sentences or fields; what is longer alone is cut between words."""
    units = re.split(r"(?<=;) ", line) if is_row(line) else _sentences_of_line(line)
    part = ""
    for unit in units:
        if part and len(part) + 1 + len(unit) > AIM:
            yield part
            part = ""
        *whole, rest = _cut(unit)
        yield from whole
        part = f"{part} {rest}" if part else rest
    if part:
        yield part


def _cut(text: str) -> Iterator[str]:
    """Cut what has no end between words, or else anywhere; all but the last piece are full."""
    start = 0
    while len(text) - start > LONGEST:
        blank = text.rfind(" ", start + AIM // 2, start + LONGEST)
        end = blank if blank > 0 else start + LONGEST
        yield text[start:end]
        start = end + (blank > 0)
    yield text[start:]
