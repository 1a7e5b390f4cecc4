"""Plain text files: paragraphs between empty lines, underlined titles, lists, and columns lined up with blanks."""

import re
from collections.abc import Sequence

from worker.documents.extract.blocks import Outline
from worker.documents.extract.lines import BULLET, ENDED, LONGEST_TITLE, LineReader, full_width
from worker.documents.extract.tables import table_lines

_RULE = re.compile(r"\A([=\-~_*#^\"])\1{2,}+\Z")
_WIDEST_TABLE = 400  # characters


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
        elif not body and _RULE.match(under) and len(line) <= LONGEST_TITLE:
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
    if not 2 < len(line) <= 70 or ENDED.search(line) or BULLET.match(line) or "," in line or ":" in line:  # noqa: PLR2004
        return False
    letters = [character for character in line if character.isalpha()]
    if not letters or not (line[0].isupper() or line[0].isdigit()):
        return False
    if below:
        return len(letters) > 3 and all(letter.isupper() for letter in letters)  # noqa: PLR2004 - not "EU", "K20"
    rest = " ".join(following)
    return len(rest) > len(line) and (ENDED.search(rest) is not None or len(following) > 1)


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
