"""Text and JSON from outside, as PostgreSQL can store them: one rule for every way in.

What a caller, a model or a document says must never be why it cannot be recorded. Values that JSON does not know are
written as text that loses nothing; characters that PostgreSQL does not know become U+FFFD. Only what has no reading is
refused, and the error names the place.

==============================  =======================================================
value                           recorded as
==============================  =======================================================
text                            itself; NUL and halves of surrogate pairs as U+FFFD
whole numbers, booleans, None   themselves, up to 4,096 bits
float                           itself; ``NaN``, ``Infinity`` and ``-Infinity`` as text
Decimal, UUID, Path             text
datetime, date, time            ISO 8601 text; a datetime without a zone is UTC
timedelta                       seconds
Enum                            its value
tuple, set, frozenset           a list; a set in the order of its texts
Pydantic model, dataclass       an object
keys of a mapping               text; numbers, booleans, None, UUID and Enum as their text
bytes, anything else            refused
==============================  =======================================================
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from repositories.errors import InvalidValueError

DEEPEST = 200
"""How deep lists and objects may stand one in another."""

LONGEST_INT_BITS = 4_096
"""The largest whole number that is recorded; Python writes none of more than 4,300 digits."""

LONGEST_MESSAGE = 4_000
"""The most characters that are kept of what an error or a reason says."""

# What it does not know raises, so that this module decides; sub-classes of text and numbers may do anything.
_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# Where one of these is written, the value may hold a NUL, or a float that is no number.
_SUSPICIOUS = (b"\\u0000", b"null")


def cleaned(text: str, most: int | None = None) -> str:
    """Return text that PostgreSQL can store.

    Args:
        text: any.
        most: how many characters are kept; ``None``: all.
    """
    text = str(text) if most is None else str(text)[:most]
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encoded(value: Any) -> str:
    """Return a value as the JSON text that is recorded for it.

    Raises:
        InvalidValueError: a part of it has no reading, or it is deeper than :data:`DEEPEST`.
    """
    text = _fast(value)
    return json.dumps(_plain(value, "", 0), ensure_ascii=False) if text is None else text.decode()


def recordable(value: Any) -> Any:
    """Return a value as it is read back from the record; what is recordable already stays as it is.

    Raises:
        InvalidValueError: as for :func:`encoded`.
    """
    text = _fast(value)
    return _plain(value, "", 0) if text is None else orjson.loads(text)


def _fast(value: Any) -> bytes | None:
    """The JSON text of what needs no change, as nearly everything; ``None`` if it has to be looked through."""
    try:
        text = orjson.dumps(value, option=_STRICT)
    except TypeError:  # what it does not know, half of a surrogate pair, more than 64 bits, or too deep
        return None
    return None if any(mark in text for mark in _SUSPICIOUS) else text


def _plain(value: Any, place: str, depth: int) -> Any:
    _check_bounds(value, place, depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return _object(value, place, depth)
    if isinstance(value, list | tuple):
        return [_plain(part, f"{place}[{at}]", depth + 1) for at, part in enumerate(value)]
    for kind, read in _READINGS:
        if isinstance(value, kind):
            return read(value)
    if isinstance(value, set | frozenset):
        parts = [_plain(part, f"{place}[]", depth + 1) for part in value]
        return sorted(parts, key=lambda part: json.dumps(part, sort_keys=True))
    if isinstance(value, Enum):
        return _plain(value.value, place, depth + 1)
    if (names := _fields(value)) is not None:
        return _object({name: getattr(value, name) for name in names}, place, depth)
    raise InvalidValueError(_short(place), f"a value of type {type(value).__name__} is no JSON: give it as text")


def _check_bounds(value: Any, place: str, depth: int) -> None:
    if depth > DEEPEST:
        raise InvalidValueError(_short(place), f"more than {DEEPEST} lists or objects stand one in another")
    if isinstance(value, int) and value.bit_length() > LONGEST_INT_BITS:
        raise InvalidValueError(_short(place), f"a whole number of more than {LONGEST_INT_BITS:,} bits")


def _fields(value: Any) -> list[str] | None:
    """The names of what a Pydantic model or a dataclass holds; ``None`` of anything else."""
    if isinstance(value, BaseModel):
        return list(type(value).model_fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [part.name for part in dataclasses.fields(value)]
    return None


def _object(value: Mapping[Any, Any], place: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for given, part in value.items():
        key = _key(given, place)
        if key in found:
            raise InvalidValueError(_short(place), f"two keys are recorded as {key[:80]!r}")
        found[key] = _plain(part, f"{place}.{key}" if place else key, depth + 1)
    return found


def _key(given: Any, place: str) -> str:
    key = given.value if isinstance(given, Enum) else given
    if isinstance(key, str):
        return cleaned(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)  # as Python's own encoder writes them
    if isinstance(key, UUID):
        return str(key)
    raise InvalidValueError(_short(place), f"a key of type {type(key).__name__} is no JSON: give it as text")


def _float(value: float) -> Any:
    value = float(value)
    return value if math.isfinite(value) else json.dumps(value)


def _datetime(value: datetime) -> str:
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()


# In this order: a datetime is a date, and an Enum may be text or a number.
_READINGS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, lambda value: cleaned(value.value if isinstance(value, Enum) else value)),
    (int, int),
    (float, _float),
    (Decimal, str),
    (UUID, str),
    (datetime, _datetime),
    (date, date.isoformat),
    (time, time.isoformat),
    (timedelta, timedelta.total_seconds),
    (PurePath, lambda value: cleaned(str(value))),
)


def _short(place: str) -> str:
    return cleaned(place, 200)
