"""The console of every command: what comes from files and other services is shown, and never obeyed.

Names and messages hold what others wrote. Every text is spelled out on its way to the terminal, so no command can
forget it; a :class:`Rows` keeps each of its cells on one line besides.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from worker.visible import block, one_line


class PlainConsole(Console):
    """A console without markup: ``[brackets]`` are only text, and control characters are spelled out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it; control segments are its own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(block(segment.text), segment.style)

    def out(self, *objects: Any, **options: Any) -> None:
        """Print without wrapping or styles, as for JSON, which stays JSON."""
        super().out(*(block(str(one)) for one in objects), **options)


class Rows(Table):
    """A table whose cells have one line each, whatever they hold."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; text and styled text are spelled out, other things drawn as they are."""
        super().add_row(*map(_cell, cells), **options)


def _cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return one_line(cell)
    return Text(one_line(cell.plain), style=cell.style) if isinstance(cell, Text) else cell
