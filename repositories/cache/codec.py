r"""How a value becomes bytes and comes back as it was: tagged JSON in a versioned envelope.

====================================================  =========================================================
goes in                                               comes back
====================================================  =========================================================
``None``, ``bool``, ``int``, ``float``, ``str``       the same (``nan`` and infinities too)
``list``, ``dict`` (any hashable keys)                the same
``bytes``, ``bytearray``, ``tuple``, ``set``, ...     the same type (a named tuple as a plain ``tuple``)
``datetime``, ``date``, ``time``, ``timedelta``       the same moment; a time zone as its UTC offset, no ``fold``
``UUID``, ``Decimal``                                 the same
an ``Enum`` member                                    its value
a Pydantic model, a dataclass                         a ``dict`` of its fields: the reader builds the model it expects
a subclass of any of these                            the type in this table
anything else                                         ``TypeError``, naming key and type
====================================================  =========================================================

A whole number of 64 bits stands bare (``42``), so that Redis itself can count on it; everything else is
``{"v":1,"d":...}``. JSON only: whoever can write to Redis must not be able to run code here.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from repositories.cache.limits import LARGEST_INTEGER, MAX_VALUE_BYTES, SMALLEST_INTEGER

VERSION: Final = 1
MAX_DEPTH: Final = 100
_TAG: Final = "$"
_HEADER: Final = re.compile(rb'\{"v":(\d{1,9}),"d":')
_COUNTER: Final = re.compile(rb"0|-?[1-9]\d{0,18}")
_AS_IS: Final = frozenset({str, int, bool, type(None)})


def _write_time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError(f"{value} has a zone but, without a date, no UTC offset: it would come back without either")
    return value.isoformat()


# Tag, type, how it is written, how it is read. A datetime is a date too, so the narrower type stands first.
_TAGGED: Final[tuple[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]], ...]] = (
    ("bytes", bytes, lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
    (
        "bytearray",
        bytearray,
        lambda value: base64.b64encode(value).decode("ascii"),
        lambda text: bytearray(base64.b64decode(text)),
    ),
    ("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    ("date", date, date.isoformat, date.fromisoformat),
    ("time", time, _write_time, time.fromisoformat),
    (
        "timedelta",
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    ("uuid", UUID, str, UUID),
    ("decimal", Decimal, str, Decimal),
    ("float", float, repr, float),
)
_COLLECTIONS: Final[tuple[tuple[str, type[Iterable[Any]]], ...]] = (
    ("tuple", tuple),
    ("set", set),
    ("frozenset", frozenset),
)
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    **{tag: read for tag, _, _, read in _TAGGED},
    **dict(_COLLECTIONS),
    "dict": dict,
}


class ForeignValueError(ValueError):
    """The bytes under a key were not written by this codec, or by a newer one than this; the value counts as missing.

    Attributes:
        reason: ``not_ours`` or ``unknown_version``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Codec:
    """Writes and reads values; holds nothing but its size limit, so one serves any number of tasks."""

    def __init__(self, *, max_value_bytes: int = MAX_VALUE_BYTES) -> None:
        if max_value_bytes < 1:
            raise ValueError(f"max_value_bytes must be at least 1, not {max_value_bytes}")
        self._max_bytes = max_value_bytes

    def encode(self, key: str, value: Any) -> bytes:
        """Return ``value`` as bytes; ``key`` only names it in an error.

        Raises:
            TypeError: the value, or something inside it, has a type that is not in the table above.
            ValueError: it is larger than ``max_value_bytes`` when written, or nested deeper than ``MAX_DEPTH`` (100).
        """
        try:
            plain = _plain(value, 0)
            if type(plain) is int and SMALLEST_INTEGER <= plain <= LARGEST_INTEGER:
                return b"%d" % plain
            text = json.dumps(plain, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
        except _UnknownTypeError as error:
            raise TypeError(
                f"cannot cache {key!r:.80}: it holds a {error}; make it a dict, str, bytes or the like first"
            ) from None
        except ValueError as error:
            raise ValueError(f"cannot cache {key!r:.80}: {error}") from error
        # A lone surrogate is valid in a Python str (file names have them), so it must survive too.
        raw = b'{"v":%d,"d":%b}' % (VERSION, text.encode("utf-8", "surrogatepass"))
        if len(raw) > self._max_bytes:
            raise ValueError(
                f"cannot cache {key!r:.80}: its value takes {len(raw):,} bytes, at most {self._max_bytes:,} may be"
            )
        return raw

    def decode(self, raw: bytes) -> Any:
        """Return what :meth:`encode` was given; a new object each time.

        Raises:
            ForeignValueError: these bytes are not ours, or of a version we do not know.
        """
        if (counter := self.counter(raw)) is not None:
            return counter
        header = _HEADER.match(raw)
        if header is None:
            raise ForeignValueError("not_ours")
        if int(header[1]) != VERSION:
            raise ForeignValueError("unknown_version")
        try:
            return json.loads(raw, object_hook=_untagged)["d"]
        except (ValueError, TypeError, ArithmeticError, KeyError, RecursionError) as error:
            raise ForeignValueError("not_ours") from error

    @staticmethod
    def counter(raw: bytes) -> int | None:
        """Return the bare whole number of 64 bits that ``raw`` is, ``None`` if it is anything else."""
        if _COUNTER.fullmatch(raw) and SMALLEST_INTEGER <= int(raw) <= LARGEST_INTEGER:
            return int(raw)
        return None


class _UnknownTypeError(Exception):
    def __init__(self, value: object) -> None:
        kind = type(value)
        super().__init__(f"{kind.__module__}.{kind.__qualname__}")


def _plain(value: Any, depth: int) -> Any:
    """Return ``value`` in JSON's own types, everything else tagged."""
    kind = type(value)
    if kind in _AS_IS or (kind is float and math.isfinite(value)):
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels, or holds itself")
    if kind is list:
        return [_plain(item, depth + 1) for item in value]
    if kind is dict:
        return _plain_dict(value, depth)
    return (
        _reduced(value, depth) if isinstance(value, Enum | BaseModel) or is_dataclass(value) else _tagged(value, depth)
    )


def _reduced(value: Any, depth: int) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, BaseModel):
        return _plain_dict(value.model_dump(), depth)
    if isinstance(value, type):  # the dataclass itself, not one of its instances
        raise _UnknownTypeError(value)
    return _plain_dict({field.name: getattr(value, field.name) for field in fields(value)}, depth)


def _tagged(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return str.__str__(value)  # str() would ask the subclass how it likes to be shown
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list | dict):
        return _plain(list(value) if isinstance(value, list) else dict(value), depth + 1)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    for tag, collection in _COLLECTIONS:
        if isinstance(value, collection):
            return {_TAG: tag, "v": [_plain(item, depth + 1) for item in value]}
    for tag, base, write, _ in _TAGGED:
        if isinstance(value, base):
            return {_TAG: tag, "v": write(value)}
    raise _UnknownTypeError(value)


def _plain_dict(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    # JSON knows text keys only; a key equal to our own tag would be mistaken for one.
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    pairs: Iterable[tuple[Any, Any]] = value.items()
    return {_TAG: "dict", "v": [[_plain(key, depth + 1), _plain(item, depth + 1)] for key, item in pairs]}


def _untagged(found: dict[str, Any]) -> Any:
    return _READERS[found[_TAG]](found["v"]) if _TAG in found else found
