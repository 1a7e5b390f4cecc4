"""Text that comes as lines of a page, as a PDF and a plain text have it.

The ends of the lines say most of what there is to know. A line that ends although the next word would have fitted ends
on purpose: it is a title, a list entry or a table row. All others are joined. Lines at the edge of most pages that
differ in their digits only are running headers, and are dropped.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from worker.documents.extract.blocks import Outline

_MARKS = r"[-*\u2022\u2023\u25e6\u00b7\u2013\u2014\u25aa\u25cf\u25a0\u25a1]\s+"
BULLET = re.compile(rf"(?:{_MARKS}|\(?\d{{1,3}}[.)]\s+|\(?[a-z]\)\s+)(?=\S)")
_MARK = re.compile(_MARKS)  # without a meaning of its own, unlike a number
ENDED = re.compile(r"[.!?:;\u2026][\"'\u201d\u2019\u00bb)\]]*\Z")
_SECTION = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+(?=[^\W\d_]).*[^\W_)?]\Z")
_NUMBERED = re.compile(r"\(?(\d{1,3})[.)]\s")
_FIELD = re.compile(r"\w[\w .()/-]{0,40}:(?:\s|\Z)")  # "Telephone: 0114 496"
_LEADERS = re.compile(r"(?<!\.)(?<!\.\s)(?:\.\s?){4,}+\s*+\d*+\Z")  # an entry of a table of contents
_SOFT_HYPHEN_END = re.compile(r"[\u0002\u00ad\ufffe]\Z")
LONGEST_TITLE = 90
_PAGE_NUMBER = re.compile(r"\A(?:.*\bpage\b)?\W*\d+(?:\s*(?:/|of)\s*\d+)?\W*\Z", re.IGNORECASE)
_EDGE = 2  # running headers stand in the first or last two lines of a page
_TABLE_ROWS = 3  # shorter runs of short lines are no table
_ROW_END = re.compile(r"(?<!\w)\d\S*(?:\s\S{1,6})?\Z")  # a number, or a number and its unit
_LONGEST_RUNNING = 400  # characters
_NUMBER_AT_END = re.compile(r"(?<!\W)\W*\b(?:page\b)?\W*#.*\Z", re.IGNORECASE)  # in the shape of a line


@dataclass(slots=True)
class LineReader:
    """Brings lines into blocks.

    Args:
        outline: where the blocks go.
        width: how many characters a full line has; see :func:`full_width`.
        headings: lines known to be headings, with their levels (1 is the outermost).
        words: words of the document, which tell a word broken at the end of a line from one with a hyphen.
    """

    outline: Outline
    width: int
    headings: Mapping[str, int] = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    _open: list[str] = field(default_factory=list)
    _short: list[str] = field(default_factory=list)
    # Numbers of the last section, and of the last entry of a list in it.
    _section: int | None = None
    _entry: int | None = None

    def page(self, number: int | None, lines: Sequence[str]) -> None:
        """Read the lines of one page; a sentence that runs on from the page before stays with that page."""
        kept = [line.strip() for line in lines if line.strip() and not _LEADERS.search(line[-LONGEST_TITLE:])]
        for before, line, after in zip(["", *kept], kept, [*kept[1:], ""], strict=False):
            is_heading = self._is_heading(line) and not self._is_entry(before, line, after)
            if self._open and (is_heading or self._breaks(self._open[-1], line, new_page=self.outline.page != number)):
                self._end_unit()
            self._note_number(line, is_heading=is_heading, begins=not self._open)
            if not self._open and (is_heading or self.outline.page != number):
                self._end_run()
                self.outline.page = number
            if is_heading:
                self.outline.heading(self._level(line), line)
            else:
                self._open.append(line)

    def end(self) -> None:
        """Nothing more follows."""
        self._end_unit()
        self._end_run()

    def _breaks(self, line: str, following: str, *, new_page: bool) -> bool:
        """Say whether a new unit begins with the following line."""
        if _FIELD.match(following) and _FIELD.match(self._open[0]):
            return True
        if _SOFT_HYPHEN_END.search(line):
            return False
        ended = ENDED.search(line) is not None
        first = following.split(maxsplit=1)[0]
        would_fit = len(line) + 1 + len(first) <= 0.85 * self.width  # letters differ in width, so give or take
        if BULLET.match(following):
            # "as told in chapter / 2. People may": a number that continues no list ends a sentence.
            number = _number(following)
            return number is None or ended or would_fit or number in {1, (self._entry or 0) + 1}
        if ended and (new_page or (len(following) < 0.6 * self.width and not ENDED.search(following))):
            return True  # a caption, a heading or a row below a paragraph whose last line is full
        return would_fit and (ended or not first[0].islower())

    def _is_heading(self, line: str) -> bool:
        if len(line) > LONGEST_TITLE or ENDED.search(line):
            return False
        section = _SECTION.match(line)
        return line in self.headings or (
            section is not None and line[section.end(1) :].lstrip(". ")[0].isupper() and len(line) < 0.7 * self.width
        )

    def _is_entry(self, before: str, line: str, after: str) -> bool:
        """Say whether a numbered line is an entry of a list rather than the title of a section."""
        number = _number(line)
        if number is None or line in self.headings:
            return False
        goes_on = self._entry == number - 1 and self._section != number - 1
        return goes_on or _number(before) == number - 1 or _number(after) == number + 1

    def _note_number(self, line: str, *, is_heading: bool, begins: bool) -> None:
        number = _number(line) if begins else None
        if number is not None and is_heading:
            self._section, self._entry = number, None
        elif number is not None:
            self._entry = number

    def _level(self, line: str) -> int:
        if line in self.headings:
            return self.headings[line]
        number = _SECTION.match(line)
        return 2 + (number.group(1).count(".") if number else 0)

    def _end_unit(self) -> None:
        if not self._open:
            return
        lines, self._open = self._open, []
        text = "".join(self._joined(lines))
        if len(lines) == 1 and len(text) < 0.9 * self.width and not ENDED.search(text) and not BULLET.match(text):
            self._short.append(text)  # perhaps a row of a table: that shows when the run of such lines is over
        else:
            self._end_run(before_text=True)
            self.outline.text(_MARK.sub("", text, count=1) if _MARK.match(text) else text)

    def _joined(self, lines: Sequence[str]) -> Iterator[str]:
        """Yield the lines with what belongs between them, hyphens of broken words taken out."""
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if not following or not (_SOFT_HYPHEN_END.search(line) or (line.endswith("-") and following[0].islower())):
                yield f"{line} " if following else line
                continue
            tail, head = line[:-1].split()[-1:], following.split(maxsplit=1)[0]
            whole = f"{''.join(tail)}{head}".strip(".,;:!?()").lower()
            yield line[:-1] if whole in self.words or not line.endswith("-") else line

    def _end_run(self, *, before_text: bool = False) -> None:
        """Write a run of short lines: titles, and the rows of a table, each with what names its columns.

        Args:
            before_text: a paragraph or a list follows, so the last line of the run may be its title.
        """
        run, self._short = self._short, []
        title = None
        if run and before_text and _may_be_title(run[-1]) and (len(run) == 1 or _table_in(run[:-1]) is not None):
            title = run.pop()
        if (table := _table_in(run)) is not None:
            above, header, rows = table
            if above is not None:
                self.outline.heading(2, above)
            run = [f"{header}: {row}" for row in rows]
        for line in run:
            self.outline.text(line)
        if title is not None:
            self.outline.heading(1 if title == self.outline.title else 2, title)


def _table_in(run: Sequence[str]) -> tuple[str | None, str, Sequence[str]] | None:
    """Part a run of short lines into the title of a table, the line that names its columns, and its rows.

    Without a title: ``None`` in its place. ``None`` for a run that is no table: in most rows there must be numbers, and
    the line that names the columns has none.
    """
    for start in (0, 1):
        above, rest = run[:start], run[start:]
        header, rows = rest[:1], rest[1:]
        if (
            len(rest) >= _TABLE_ROWS
            and all(map(_may_be_title, above))
            and len(header[0].split()) > 1
            and not _has_number(header[0])
            and sum(map(_has_number, rows)) > 0.7 * len(rows)
            and (start == 1 or _has_number(rows[0]))  # else the first line is the title, the second names the columns
        ):
            return (above[0] if above else None), header[0], rows
    return None


def _may_be_title(line: str) -> bool:
    return is_title(line) and not _has_number(line)


def is_title(line: str) -> bool:
    """Say whether a line may be a title by its looks: it begins like one, and ends no sentence and no table row."""
    return (
        len(line) <= LONGEST_TITLE
        and (line[0].isupper() or line[0].isdigit())
        and ENDED.search(line) is None
        and (_ROW_END.search(line) is None or _SECTION.match(line) is not None)
    )


def _has_number(line: str) -> bool:
    return any(word.strip("\u00a3$\u20ac()+-,;%")[:1].isdigit() for word in line.split())


def _number(line: str) -> int | None:
    found = _NUMBERED.match(line)
    return int(found.group(1)) if found else None


def full_width(lines: Iterable[str]) -> int:
    """Return how many characters a full line of this text has: all but the longest twentieth are no longer."""
    lengths = sorted(len(line.strip()) for line in lines if line.strip())
    return max(lengths[int(0.95 * (len(lengths) - 1))], 40) if lengths else 40


def without_running_lines(pages: Sequence[Sequence[str]]) -> tuple[list[list[str]], str | None]:
    """Drop running headers and footers, and page numbers at the edge of a page.

    Returns:
        The pages without them, and the first header that holds words, for a document that names no title.
    """

    def shape(line: str) -> str:
        return re.sub(r"\d+", "#", " ".join(line[:_LONGEST_RUNNING].split()))

    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({shape(line) for line in (*page[:_EDGE], *page[-_EDGE:])})
    needed = max(2, 0.6 * len(pages))
    running = {line for line, count in seen.items() if count >= needed and line} if len(pages) > 1 else set()
    kept, first = [], None
    for page in pages:
        body = []
        for index, line in enumerate(page):
            at_edge = index < _EDGE or index >= len(page) - _EDGE
            if at_edge and (shape(line) in running or _PAGE_NUMBER.match(line[:_LONGEST_RUNNING])):
                words = _NUMBER_AT_END.sub("", shape(line))
                first = first or (words if len(words.split()) > 1 else None)
            else:
                body.append(line)
        kept.append(body)
    return kept, first
