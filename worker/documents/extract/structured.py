"""JSON as blocks: an object is a line of its fields, a list of objects is a table, what is nested is a section."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker.documents.extract.blocks import Outline


class NotJsonError(ValueError):
    """The text is no JSON; the message says where it breaks."""


def read_json(text: str, outline: Outline) -> None:
    """Write the blocks of a JSON text, or of one JSON value a line, to ``outline``.

    Raises:
        NotJsonError: the text is neither, or nested too deeply.
    """
    try:
        _write(_parsed(text), outline, 1)
    except RecursionError as error:
        raise NotJsonError("it is nested too deeply") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as whole:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            if len(lines) > 1:
                return [json.loads(line) for line in lines]
        except ValueError:
            pass
        raise NotJsonError(str(whole)) from whole


def _write(value: Any, outline: Outline, depth: int) -> None:
    if isinstance(value, Mapping):
        plain = {key: item for key, item in value.items() if _is_plain(item)}
        outline.text("; ".join(f"{key}: {_shown(item)}" for key, item in plain.items() if item not in (None, "", [])))
        for key, item in value.items():
            if key not in plain:
                outline.heading(depth + 1, str(key))
                _write(item, outline, depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _write(item, outline, depth + 1)
    else:
        outline.text(_shown(value))


def _is_plain(value: Any) -> bool:
    """A scalar, or a list of scalars."""
    if isinstance(value, list):
        return all(not isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
