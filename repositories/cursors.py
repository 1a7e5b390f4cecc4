"""Where a page ends, as a text: the values of its last row by the columns of the order, readable and bound to it.

A cursor names its table and order, so that one of another list is refused and not misread. It is no secret and needs
no signature: its values are read as the columns' types, and go to the database as parameters.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, false, or_, tuple_
from sqlalchemy.orm import DeclarativeBase

from repositories.errors import InvalidCursorError
from repositories.filters import Field

MAX_CURSOR = 8_192
"""The most characters of a cursor."""


class Sorted(NamedTuple):
    """One column of an order.

    Attributes:
        field: the column.
        descending: whether the greatest value comes first.
    """

    field: Field
    descending: bool

    def clause(self) -> ColumnElement[Any]:
        """The column as ORDER BY takes it."""
        attribute = self.field.attribute
        ordered = attribute.desc() if self.descending else attribute.asc()
        # Only where it matters: an index serves NULLS LAST of a descending column only if it was made for it.
        return ordered.nulls_last() if self.field.nullable else ordered

    def after(self, value: Any) -> ColumnElement[bool]:
        """The rows that stand after ``value`` by this column alone."""
        if value is None:
            return false()  # nothing comes after the rows without a value
        attribute = self.field.attribute
        later = attribute < value if self.descending else attribute > value
        return or_(later, attribute.is_(None)) if self.field.nullable else later

    def level(self, value: Any) -> ColumnElement[bool]:
        """The rows that stand where ``value`` stands by this column."""
        return self.field.attribute.is_(None) if value is None else self.field.attribute == value


def stand_after(order: Sequence[Sorted], values: Sequence[Any]) -> ColumnElement[bool]:
    """The rows after these values: after by the first column, or level by it and after by the second, and so on."""
    if not any(column.field.nullable for column in order) and len({column.descending for column in order}) == 1:
        # One comparison of rows, which an index over these columns answers with a single range.
        columns = tuple_(*(column.field.attribute for column in order))
        here = tuple_(*values, types=[column.field.attribute.type for column in order])
        return columns < here if order[0].descending else columns > here
    steps = []
    for place, (column, value) in enumerate(zip(order, values, strict=True)):
        level = [before.level(known) for before, known in zip(order[:place], values, strict=False)]
        steps.append(and_(*level, column.after(value)))
    return or_(*steps)


def _signature(model: type[DeclarativeBase], order: Sequence[Sorted]) -> str:
    names = ",".join(f"{'-' * column.descending}{column.field.name}" for column in order)
    return f"{model.__tablename__}:{names}"


def write_cursor(model: type[DeclarativeBase], order: Sequence[Sorted], row: Any) -> str:
    """Return the cursor that goes on after ``row``.

    Raises:
        InvalidCursorError: its values are too long.
    """
    values = []
    for column in order:
        value, adapter = getattr(row, column.field.attribute.key), column.field.values
        values.append(value if value is None or adapter is None else adapter.dump_python(value, mode="json"))
    text = json.dumps([_signature(model, order), *values], separators=(",", ":"))
    cursor = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    if len(cursor) > MAX_CURSOR:
        raise InvalidCursorError("order_by", "values this long cannot be paged by cursor: order by a shorter column")
    return cursor


def read_cursor(model: type[DeclarativeBase], order: Sequence[Sorted], cursor: str) -> Sequence[Any]:
    """Return the values of the row after which the page begins, one a column of ``order``.

    Raises:
        InvalidCursorError: it is no cursor, or one of another list or order.
    """
    if len(cursor) > MAX_CURSOR:
        raise InvalidCursorError("cursor", "this is no cursor: it is too long; begin again without one")
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidCursorError("cursor", "this is no cursor; begin again without one") from None
    if not isinstance(content, list) or len(content) != len(order) + 1 or content[0] != _signature(model, order):
        raise InvalidCursorError("cursor", "this cursor is of another list or order; begin again without one")
    return [_read_value(column.field, value) for column, value in zip(order, content[1:], strict=True)]


def _read_value(field: Field, value: Any) -> Any:
    if value is None and field.nullable:
        return None
    try:
        return field.values.validate_json(json.dumps(value)) if field.values is not None else value
    except ValidationError:
        raise InvalidCursorError("cursor", f"this is no cursor: no value of {field.name} is in it") from None
