"""Text from outside as a terminal and a table for spreadsheets may hold it.

A file's name or a server's message may hold what a terminal obeys (clear the screen, write the clipboard) or what turns
the direction of writing, and what a spreadsheet runs as a formula. Both are made visible here, and nowhere else.
"""

import json
import re
from typing import Any

# C0, DEL and C1; separators of lines and paragraphs; what turns the direction of writing; halves of a character, which
# no stream can encode. Joiners stay: scripts and emoji are written with them.
_UNSEEN = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_NOT_ON_A_LINE = re.compile(f"[{_UNSEEN}]")
_NOT_IN_A_BLOCK = re.compile(rf"(?![\n\t])(?!\r\n)[{_UNSEEN}]")

# What a spreadsheet skips before it looks for a formula, or drops as it reads: blanks, controls, marks without a width.
_SKIPPED = re.compile(
    "[\\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]*+"
)
_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b\u2212\u207a\u207b\u207c")
_FIRST = frozenset("\t\r\n")


def one_line(text: str) -> str:
    """Return ``text`` with all that a terminal would obey spelled out as JSON does, line breaks as well."""
    return text if text.isprintable() else _NOT_ON_A_LINE.sub(_spelled, text)


def block(text: str) -> str:
    """Return text of several lines with all that a terminal would obey spelled out, but its line breaks and tabs."""
    return text if text.isprintable() else _NOT_IN_A_BLOCK.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]  # the spelling of JSON: where JSON is printed, it stays JSON


def cell(value: Any) -> Any:
    """Return a cell of a table for a spreadsheet: text that would be taken for a formula gets a ``'`` in front.

    A number that is given as a number stays one; text never becomes one, so ``-5`` as text is guarded: ``-5+cmd`` is
    told from it by no rule that every spreadsheet keeps.
    """
    if not isinstance(value, str) or not value:
        return value
    skipped = _SKIPPED.match(value)
    before = skipped[0] if skipped else ""
    first = value[len(before) : len(before) + 1]
    return f"'{value}" if first in _FORMULA or not _FIRST.isdisjoint(before) else value
