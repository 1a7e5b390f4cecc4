"""From the bytes of a CSV file to its rows, each with the line it begins on.

Promise: text is never guessed at. UTF-8 is read, with or without its mark, and UTF-16 by its mark; anything else is
refused with the place and the cure. Comma, semicolon or tab: the one that makes the header's columns known. What the
columns mean is left to :mod:`worker.questions.question_set`.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.questions.errors import Problem, QuestionSetError

DELIMITERS = (",", ";", "\t")
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0"  # what Excel wrote before .xlsx
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Attributes:
        line: the line it begins on, from 1; a quoted cell may run over several.
        cells: its cells, stripped of white space around them.
    """

    line: int
    cells: tuple[str, ...]

    @property
    def blank(self) -> bool:
        """Whether nothing stands in it."""
        return not any(self.cells)


def decode(content: bytes, file: str) -> str:
    """Return the text of a file.

    Raises:
        QuestionSetError: it is neither UTF-8 nor marked UTF-16, or no text at all.
    """
    if content.startswith((_ZIP, _OLE)):
        raise _refused(file, None, "this is a workbook or an archive, not CSV; save the sheet as 'CSV UTF-8'")
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the mark it skipped.
        marked = 0 if utf_16 or not content.startswith(codecs.BOM_UTF8) else len(codecs.BOM_UTF8)
        at = error.start + marked
        line = None if utf_16 else _line_at(content[:at].decode("latin-1"))
        raise _refused(
            file,
            line,
            f"byte {at + 1:,} (0x{content[at]:02X}) is not {'UTF-16' if utf_16 else 'UTF-8'}; "
            "the file is in another encoding or damaged: save it as UTF-8",
        ) from error
    if (nul := text.find("\0")) >= 0:
        raise _refused(file, _line_at(text[:nul]), "a NUL byte, which no text file holds: save it as UTF-8 text")
    return text


def delimiter_of(text: str, known: Callable[[str], bool]) -> str:
    """Return the delimiter under which most cells of the header are ``known``; the comma, if none makes any known.

    Counting characters, as ``csv.Sniffer`` does, fails on text: questions hold commas, fragments semicolons.
    """

    def fit(delimiter: str) -> tuple[int, int]:
        header = next((row.cells for row in rows(text, delimiter) if isinstance(row, Row) and not row.blank), ())
        return sum(map(known, header[:100])), len(header)  # a hundred cells tell; a broken file may hold millions

    return max(DELIMITERS, key=fit)  # the first of equals


def rows(text: str, delimiter: str) -> Iterator[Row | Problem]:
    """Yield the rows of ``text``; a :class:`Problem` is the last thing yielded, as nothing below it can be trusted."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(line, f"not CSV ({error}): check its quotes; the lines from here on were not read")
            return
        yield Row(line, tuple(cell.strip() for cell in cells))


def _line_at(before: str) -> int:
    return len(_LINE_END.findall(before)) + 1


def _refused(file: str, line: int | None, message: str) -> QuestionSetError:
    return QuestionSetError(file, (Problem(line, message),))
