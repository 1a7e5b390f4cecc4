"""Text that comes as lines of a page: plain text files, and what a PDF has left of its paragraphs.

The ends of the lines say most of what there is to know. A line that ends although the next word would have fitted ends
on purpose: it is a heading, a list entry or a table row. All others are joined. Columns lined up with blanks are a
table. Lines at the edge of most pages that differ in their digits only are running headers, and are dropped.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from worker.documents.extract.blocks import Outline
from worker.documents.extract.tables import table_lines

_MARKS = r"[-*\u2022\u2023\u25e6\u00b7\u2013\u2014\u25aa\u25cf\u25a0\u25a1]\s+"
_BULLET = re.compile(rf"(?:{_MARKS}|\(?\d{{1,3}}[.)]\s+|\(?[a-z]\)\s+)(?=\S)")
_MARK = re.compile(_MARKS)  # without a meaning of its own, unlike a number
_ENDED = re.compile(r"[.!?:;\u2026][\"'\u201d\u2019\u00bb)\]]*\Z")
_RULE = re.compile(r"([=\-~_*#^\"])\1{2,}\Z")
_SECTION = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+(?=[^\W\d_]).*[^\W_)?]\Z")
_NUMBERED = re.compile(r"\(?(\d{1,3})[.)]\s")
_FIELD = re.compile(r"\w[\w .()/-]{0,40}:(?:\s|\Z)")  # "Telephone: 0114 496"
_LEADERS = re.compile(r"(?:\.\s?){4,}\s*\d*\Z")  # an entry of a table of contents
_SOFT_HYPHEN_END = re.compile(r"[\u0002\u00ad\ufffe]\Z")
_LONGEST_HEADING = 90
_EDGE = 2  # running headers stand in the first or last two lines of a page
_TABLE_ROWS = 3  # shorter runs of short lines are no table
_WIDEST_TABLE = 400  # characters


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

    def page(self, number: int | None, lines: Sequence[str]) -> None:
        """Read the lines of one page; a sentence that runs on from the page before stays with that page."""
        kept = [line.strip() for line in lines if line.strip() and not _LEADERS.search(line[-_LONGEST_HEADING:])]
        headings = [
            self._is_heading(line) and not _in_list(before, line, after)
            for before, line, after in zip(["", *kept], kept, [*kept[1:], ""], strict=False)
        ]
        for line, is_heading in zip(kept, headings, strict=True):
            if self._open and (is_heading or self._breaks(self._open[-1], line, new_page=self.outline.page != number)):
                self._end_unit()
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
        if _BULLET.match(following) or (_FIELD.match(following) and _FIELD.match(self._open[0])):
            return True
        if _SOFT_HYPHEN_END.search(line):
            return False
        ended = _ENDED.search(line) is not None
        if ended and (new_page or (len(following) < 0.6 * self.width and not _ENDED.search(following))):
            return True  # a caption, a heading or a row below a paragraph whose last line is full
        first = following.split(maxsplit=1)[0]
        would_fit = len(line) + 1 + len(first) <= 0.85 * self.width  # letters differ in width, so give or take
        return would_fit and (ended or not first[0].islower())

    def _is_heading(self, line: str) -> bool:
        if len(line) > _LONGEST_HEADING or _ENDED.search(line):
            return False
        section = _SECTION.match(line)
        return line in self.headings or (
            section is not None and line[section.end(1) :].lstrip(". ")[0].isupper() and len(line) < 0.7 * self.width
        )

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
        if len(lines) == 1 and len(text) < 0.9 * self.width and not _ENDED.search(text) and not _BULLET.match(text):
            self._short.append(text)  # perhaps a row of a table: that shows when the run of such lines is over
        else:
            self._end_run()
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

    def _end_run(self) -> None:
        """Write a run of short lines; where the first names the columns of the others, each of them says so."""
        run, self._short = self._short, []
        header, rows = run[:1], run[1:]
        if (
            len(run) >= _TABLE_ROWS
            and len(header[0].split()) > 1
            and not any(character.isdigit() for character in header[0])
            and sum(any(character.isdigit() for character in row) for row in rows) > 0.7 * len(rows)
        ):
            for row in rows:
                self.outline.text(f"{header[0]}: {row}")
            return
        for line in run:
            self.outline.text(line)


def _in_list(before: str, line: str, after: str) -> bool:
    """Say whether a numbered line is one of several entries rather than the title of a section."""
    numbers = [int(found.group(1)) if (found := _NUMBERED.match(text)) else None for text in (before, line, after)]
    here = numbers[1]
    return here is not None and (numbers[0] == here - 1 or numbers[2] == here + 1)


def read_plain(text: str, outline: Outline) -> None:
    """Write the blocks of a plain text to ``outline``: paragraphs, underlined headings, lists and lined-up columns."""
    lines = text.splitlines()
    width = full_width(lines)
    chunks = _chunks(lines)
    words = frozenset(text.lower().split())
    for index, chunk in enumerate(chunks):
        following = chunks[index + 1] if index + 1 < len(chunks) else []
        if (table := _lined_up(chunk)) is not None:
            for row in table_lines(table):
                outline.text(row)
            continue
        body = _open_section(chunk, following, outline)
        reader = LineReader(outline, width, words=words)
        reader.page(None, body)
        reader.end()


def full_width(lines: Iterable[str]) -> int:
    """Return how many characters a full line of this text has: all but the longest twentieth are no longer."""
    lengths = sorted(len(line.strip()) for line in lines if line.strip())
    return max(lengths[int(0.95 * (len(lengths) - 1))], 40) if lengths else 40


def without_running_lines(pages: Sequence[Sequence[str]]) -> tuple[list[list[str]], str | None]:
    """Drop running headers and footers.

    Returns:
        The pages without them, and the first header that holds words, for a document that names no title.
    """

    def shape(line: str) -> str:
        return re.sub(r"\d+", "#", " ".join(line[:_WIDEST_TABLE].split()))

    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({shape(line) for line in (*page[:_EDGE], *page[-_EDGE:])})
    needed = max(2, 0.6 * len(pages))
    running = {line for line, count in seen.items() if count >= needed and line} if len(pages) > 1 else set()
    kept, first = [], None
    for page in pages:
        body = []
        for index, line in enumerate(page):
            if (index < _EDGE or index >= len(page) - _EDGE) and shape(line) in running:
                words = re.sub(r"\W*\b(?:page\b)?\W*#.*\Z", "", shape(line), flags=re.IGNORECASE)
                first = first or (words if len(words.split()) > 1 else None)
            else:
                body.append(line)
        kept.append(body)
    return kept, first


def _chunks(lines: Sequence[str]) -> list[list[str]]:
    """Part the lines at empty ones, and before an underlined one."""
    chunks: list[list[str]] = [[]]
    for line, under in zip(lines, [*lines[1:], ""], strict=False):
        if chunks[-1] and (not line.strip() or (_RULE.match(under.strip()) and not _RULE.match(line.strip()))):
            chunks.append([])
        if line.strip():
            chunks[-1].append(line.rstrip())
    return chunks if chunks[-1] else chunks[:-1]


def _open_section(chunk: list[str], following: list[str], outline: Outline) -> list[str]:
    """Take the headings off the front of a chunk and return what is left of it."""
    body: list[str] = []
    index = 0
    while index < len(chunk):
        line = chunk[index].strip()
        under = chunk[index + 1].strip() if index + 1 < len(chunk) else ""
        if _RULE.match(line):
            index += 1  # a line drawn with signs
        elif not body and _RULE.match(under) and len(line) <= _LONGEST_HEADING:
            outline.heading(1 if under[0] in "=#*" else 2, line)
            index += 2
        elif not body and _names_section(line, chunk[index + 1 :], following):
            outline.heading(1 if not outline.words else 2, line)
            index += 1
        else:
            body.append(chunk[index])
            index += 1
    return body


def _names_section(line: str, below: list[str], following: list[str]) -> bool:
    """A short line that begins like a title, says no sentence, and has text below it."""
    if not 2 < len(line) <= 70 or _ENDED.search(line) or _BULLET.match(line) or "," in line or ":" in line:  # noqa: PLR2004
        return False
    letters = [character for character in line if character.isalpha()]
    if not letters or not (line[0].isupper() or line[0].isdigit()):
        return False
    if below:
        return len(letters) > 3 and all(letter.isupper() for letter in letters)  # noqa: PLR2004 - not "EU", "K20"
    rest = " ".join(following)
    return len(rest) > len(line) and (_ENDED.search(rest) is not None or len(following) > 1)


def _lined_up(chunk: Sequence[str]) -> list[list[str]] | None:
    """Return the cells of a chunk whose columns are lined up with blanks; ``None`` if they are not."""
    if len(chunk) < 2:  # noqa: PLR2004 - a header and a row
        return None
    if all("\t" in line.strip() for line in chunk):
        return [[cell.strip() for cell in line.split("\t")] for line in chunk]
    lines = [line.expandtabs() for line in chunk if not _RULE.match(re.sub(r"\s", "", line))]
    length = max((len(line) for line in lines), default=0)
    if length > _WIDEST_TABLE:
        return None
    padded = [line.ljust(length) for line in lines]
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    gutter = [all(line[at] == " " for line in padded) for at in range(length)]
    cells: list[list[str]] = [[] for _ in lines]
    start = indent
    for match in re.finditer(r"1{2,}", "".join("1" if blank else "0" for blank in gutter)):
        if match.start() <= indent:
            continue
        for row, line in zip(cells, padded, strict=True):
            row.append(line[start : match.start()].strip())
        start = match.end()
    for row, line in zip(cells, padded, strict=True):
        row.append(line[start:].strip())
    columns = len(cells[0]) if cells else 0
    full = sum(all(row[:2]) for row in cells)
    # Prose with two blanks after a full stop can leave a gap as well, but hardly the same one in most lines.
    return cells if columns > 1 and len(lines) > 1 and full > 0.6 * len(cells) else None
