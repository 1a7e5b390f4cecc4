"""Tables as lines that can be quoted alone: every row names its columns.

A row becomes ``Part number: K-100; Price: 12.50 EUR``. What stands above the real header (a title that fills one cell)
and what separates groups of rows becomes a line of its own.
"""

import re
from collections.abc import Sequence

_MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d) 00:00:00")
_LETTER_OR_YEAR = re.compile(r"[^\W\d_]|\A(?:19|20)\d\d\Z|\A[#%]\Z")
_MAX_LABEL = 80


def table_lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the table as lines, top to bottom; empty rows, columns and cells are left out.

    Args:
        cells: the rows; they may differ in length.
    """
    rows = [[_cell(cell) for cell in row] for row in cells]
    rows = [row for row in rows if any(row)]
    if not rows:
        return []
    width = max(len(row) for row in rows)
    rows = [row + [""] * (width - len(row)) for row in rows]
    kept = [column for column in range(width) if any(row[column] for row in rows)]
    rows = [[row[column] for column in kept] for row in rows]
    lines: list[str] = []
    while rows and len(kept) > 1 and _is_caption(rows[0]):
        lines.append(next(cell for cell in rows.pop(0) if cell))
    header = rows.pop(0) if _is_header(rows) else None
    lines += [_line(row, header) for row in rows]
    return lines


def _cell(cell: str) -> str:
    return _MIDNIGHT.sub(r"\1", " ".join(cell.split()))


def _is_caption(row: Sequence[str]) -> bool:
    """A row that says one thing: one cell is filled, or one merged cell was repeated across the row."""
    return len({cell for cell in row if cell}) == 1


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """The first row names columns if it is all words, all different, and something stands below it."""
    if len(rows) < 2 or len(rows[0]) < 2:  # noqa: PLR2004 - a header has a row below it and a column beside it
        return False
    first = rows[0]
    labels = [cell for cell in first if cell]
    return (
        len(labels) >= max(1, len(first) - 1)
        and len(set(labels)) == len(labels)
        and all(len(label) <= _MAX_LABEL for label in labels)
        and all(_LETTER_OR_YEAR.search(label) for label in labels)
    )


def _line(row: Sequence[str], header: Sequence[str] | None) -> str:
    if header is None or _is_caption(row):
        return "; ".join(dict.fromkeys(cell for cell in row if cell))
    return "; ".join(
        f"{label}: {cell}" if label and label != cell else cell for label, cell in zip(header, row, strict=True) if cell
    )
