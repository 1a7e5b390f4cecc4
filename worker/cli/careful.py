"""What typer and Python print by themselves: wrong usage and tracebacks quote what others wrote."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from worker.masking import mask
from worker.visible import block, one_line


class CarefulGroup(TyperGroup):
    """Commands whose wrong usage is told without obeying it: arguments are names of files, or come from scripts."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """As its base."""
        with _spelled_out():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """As its base."""
        with _spelled_out():
            return super().invoke(ctx)


@contextmanager
def _spelled_out() -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        error.message = one_line(error.message)
        raise


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write a traceback to standard error as Python does, without secrets, and nothing in it is obeyed."""
    sys.stderr.write(block(mask("".join(traceback.format_exception(kind, error, trace)))))
