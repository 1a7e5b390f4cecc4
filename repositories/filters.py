"""Typed filters: ``{"status": ["queued", "processing"], "priority": {"ge": 3}}`` becomes SQL conditions.

A filter maps a column's public name to a plain value, or to a mapping of operators that must all hold. A plain value
means ``eq``; a list, tuple or set means ``in``; a mapping is always operators, for a JSON column too.

============  =================================================  ==========================
operator      holds where the column                             value
============  =================================================  ==========================
``eq``        is this; ``None``: has no value                    one value
``ne``        is anything else, no value included                one value
``lt le``     is less; less or equal                             one value, never ``None``
``gt ge``     is greater; greater or equal                       one value, never ``None``
``between``   is one of the two or in between                    two values
``in``        is any of these; ``None`` among them: no value     a list
``ilike``     matches, whatever the case; ``%`` and ``_`` stand  text, for text columns
              for any text and any character
``is_null``   has no value, or has one                           ``True`` or ``False``
``contains``  contains this JSON, or all these array elements    for JSON and array columns
============  =================================================  ==========================

Ids, enums, times and decimals may be given as text, since that is how they arrive; text for another number is an error.
Nothing reaches the database before every name, operator, type and size was checked. Orders are of ``pagination``.
"""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic import Field as Bounds
from sqlalchemy import BigInteger, ColumnElement, Integer, SmallInteger, any_, between, inspect, literal, or_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from repositories.errors import InvalidFilterError, InvalidValueError
from repositories.schemas import Storable

MAX_VALUES = 10_000
"""The most values that the filters of one call hold together."""

MAX_TEXT = 10_000
"""The most characters of one text to compare with, or of a JSON value written out."""

Filters = Mapping[str, Any]

_EQUALITY = ("eq", "ne", "is_null")
_ORDERED = (*_EQUALITY, "lt", "le", "gt", "ge", "between", "in")
_INTEGER_BITS = {SmallInteger: 16, Integer: 32, BigInteger: 64}
_COMPARABLE = frozenset({int, float, Decimal, str, bool, UUID, datetime, date, time, timedelta})
_LISTS = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Field:
    """A column as callers see it.

    Attributes:
        table: the table's name, for messages.
        name: the public name: the column's, whatever the mapped attribute is called.
        attribute: the mapped attribute.
        operators: what may be asked of it.
        values: checks and converts one value; ``None`` where PostgreSQL alone knows the type.
    """

    table: str
    name: str
    attribute: InstrumentedAttribute[Any]
    operators: tuple[str, ...]
    values: TypeAdapter[Any] | None

    @property
    def nullable(self) -> bool:
        """Whether the column may have no value."""
        return bool(self.attribute.property.columns[0].nullable)

    @property
    def orderable(self) -> bool:
        """Whether rows can be put in the order of this column."""
        return "lt" in self.operators

    def value(self, given: Any) -> Any:
        """Return ``given`` as the column's type.

        Raises:
            InvalidFilterError: it is of another type, out of range, or longer than ``MAX_TEXT``.
        """
        if self.values is None:
            return given
        try:
            return self.values.validate_python(given)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            raise InvalidFilterError(self.name, f"{problem}, not {reprlib.repr(given)}") from None


def field_of(model: type[DeclarativeBase], name: str, unknown: type[InvalidValueError] = InvalidFilterError) -> Field:
    """Return the column that callers call ``name``.

    Raises:
        InvalidFilterError: there is none; the error, or the one that ``unknown`` names, lists those there are.
    """
    fields = _fields(model)
    found = fields.get(name) or next((field for field in fields.values() if field.attribute.key == name), None)
    if found is None:
        raise unknown(str(name)[:80], f"no such column of {model.__tablename__}; there are {', '.join(sorted(fields))}")
    return found


def conditions(model: type[DeclarativeBase], filters: Filters | None) -> list[ColumnElement[bool]]:
    """Return the conditions of ``filters``, all of which are to hold; none without filters.

    Raises:
        InvalidFilterError: an unknown field or operator, a value of the wrong type, or more than ``MAX_VALUES`` values.
    """
    given = filters or {}
    if (count := sum(map(_count, given.values()))) > MAX_VALUES:
        raise InvalidFilterError("filters", f"{count} values together are too many: at most {MAX_VALUES}")
    return [term for name, wanted in given.items() for term in _terms(field_of(model, name), wanted)]


def any_of(attribute: InstrumentedAttribute[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """The column is one of ``values``. They travel as one array: the statement is prepared once for every length."""
    return attribute == any_(literal(list(values), ARRAY(attribute.type)))


def _count(wanted: Any) -> int:
    asked = wanted.values() if isinstance(wanted, Mapping) else [wanted]
    return sum(len(value) if isinstance(value, _LISTS) else 1 for value in asked)


def _terms(field: Field, wanted: Any) -> list[ColumnElement[bool]]:
    if isinstance(wanted, _LISTS):
        wanted = {"eq" if "in" not in field.operators else "in": wanted}
    elif not isinstance(wanted, Mapping):
        wanted = {"eq": wanted}
    if not wanted:
        raise InvalidFilterError(field.name, f"an empty mapping asks nothing; {_allowed(field)}")
    terms = []
    for operator, value in wanted.items():
        if operator not in field.operators:
            raise InvalidFilterError(field.name, f"no operator {str(operator)[:40]!r} here; {_allowed(field)}")
        terms.append(_OPERATORS[operator](field, value))
    return terms


def _allowed(field: Field) -> str:
    return f"there are {', '.join(field.operators)}"


def _bound(field: Field, value: Any) -> ColumnElement[Any]:
    """A value as a parameter of the column's own type: by itself, text beside a JSON column would be no JSON."""
    return literal(field.value(value), field.attribute.type)


def _equal(field: Field, value: Any) -> ColumnElement[bool]:
    return field.attribute.is_(None) if value is None else field.attribute == _bound(field, value)


def _different(field: Field, value: Any) -> ColumnElement[bool]:
    return field.attribute.is_not(None) if value is None else field.attribute.is_distinct_from(_bound(field, value))


def _between(field: Field, value: Any) -> ColumnElement[bool]:
    low, high = _listed(field, value, "between", 2)
    return between(field.attribute, _bound(field, low), _bound(field, high))


def _in(field: Field, value: Any) -> ColumnElement[bool]:
    values = _listed(field, value, "in")
    found = any_of(field.attribute, [field.value(one) for one in values if one is not None])
    return or_(found, field.attribute.is_(None)) if None in values else found


def _is_null(field: Field, value: Any) -> ColumnElement[bool]:
    if not isinstance(value, bool):
        raise InvalidFilterError(field.name, f"is_null takes True or False, not {reprlib.repr(value)}")
    return field.attribute.is_(None) if value else field.attribute.is_not(None)


def _ilike(field: Field, value: Any) -> ColumnElement[bool]:
    pattern = field.value(value)
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise InvalidFilterError(field.name, "an ilike pattern cannot end with a single backslash: double it")
    return field.attribute.ilike(pattern)


def _contains(field: Field, value: Any) -> ColumnElement[bool]:
    return field.attribute.contains(_bound(field, value))


def _listed(field: Field, value: Any, operator: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, _LISTS) or length not in {None, len(value)}:
        size = f"a list of {length}" if length else "a list"
        raise InvalidFilterError(field.name, f"{operator} takes {size}, not {reprlib.repr(value)}")
    return list(value)


def _compares(name: str) -> Callable[[Field, Any], ColumnElement[bool]]:
    return lambda field, value: getattr(field.attribute, f"__{name}__")(_bound(field, value))


_OPERATORS: dict[str, Callable[[Field, Any], ColumnElement[bool]]] = {
    "eq": _equal,
    "ne": _different,
    "is_null": _is_null,
    **{name: _compares(name) for name in ("lt", "le", "gt", "ge")},
    "between": _between,
    "in": _in,
    "ilike": _ilike,
    "contains": _contains,
}


@cache
def _fields(model: type[DeclarativeBase]) -> dict[str, Field]:
    return {
        column.name: _field(model.__tablename__, column.name, getattr(model, key), column.type)
        for key, column in inspect(model).columns.items()
    }


def _field(table: str, name: str, attribute: InstrumentedAttribute[Any], kind: TypeEngine[Any]) -> Field:
    if isinstance(kind, JSONB):
        return Field(table, name, attribute, (*_EQUALITY, "contains"), _adapter(Annotated[Any, BeforeValidator(_json)]))
    if isinstance(kind, ARRAY):
        lists: Any = list  # a type made at run time
        elements = lists[_python_type(kind.item_type)]
        return Field(
            table, name, attribute, (*_EQUALITY, "contains"), _adapter(Annotated[elements, BeforeValidator(_as_list)])
        )
    if kind.python_type in _COMPARABLE or issubclass(kind.python_type, Enum):
        operators = (*_ORDERED, "ilike") if kind.python_type is str else _ORDERED
        return Field(table, name, attribute, operators, _adapter(_python_type(kind)))
    return Field(table, name, attribute, ("is_null",), None)  # a type of PostgreSQL's own, such as tsvector


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _python_type(kind: TypeEngine[Any]) -> Any:
    """The Python type of a column with the bounds of its database type, as Pydantic reads them."""
    python = kind.python_type
    if python is int:
        bits = next((bits for family, bits in _INTEGER_BITS.items() if isinstance(kind, family)), 32)
        return Annotated[int, Bounds(ge=-(2 ** (bits - 1)), lt=2 ** (bits - 1))]
    if python is str:
        return Annotated[str, Bounds(max_length=MAX_TEXT), Storable]
    if python is Decimal:
        return Annotated[Decimal, Bounds(strict=False, allow_inf_nan=True), BeforeValidator(_as_decimal)]
    if python is datetime:
        zone = _aware if getattr(kind, "timezone", False) else _naive
        return Annotated[datetime, BeforeValidator(_from_text(datetime.fromisoformat)), AfterValidator(zone)]
    if python in {date, time}:
        return Annotated[python, BeforeValidator(_from_text(python.fromisoformat))]
    if python is UUID or issubclass(python, Enum):
        return Annotated[python, Bounds(strict=False)]
    return python


def _from_text(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: read(value) if isinstance(value, str) else value


def _as_decimal(value: Any) -> Any:
    return Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time without a zone is ambiguous: add one (+00:00)")
    return value


def _naive(value: datetime) -> datetime:
    if value.tzinfo is not None:
        raise ValueError("this column's times have no zone: leave it out")
    return value


def _json(value: Any) -> Any:
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, RecursionError):
        raise ValueError("not JSON: expected mappings, lists, text, numbers, true, false and null") from None
    if size > MAX_TEXT:
        raise ValueError(f"{size} characters of JSON are too many: at most {MAX_TEXT}")
    return value
