"""Writing many rows in one statement: the same values to all that match, or to each row values of its own.

Rows are locked in key order, so that two writers of the same rows never wait for each other, and rows that the session
holds are read again. A chunk of thousands is one statement; what fails half-way is undone with the caller's
transaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    bindparam,
    case,
    column,
    delete,
    insert,
    inspect,
    select,
    update,
    values,
)
from sqlalchemy.orm import InstrumentedAttribute

from repositories.edits import Editing
from repositories.errors import InvalidFilterError, InvalidValueError, translated
from repositories.filters import MAX_VALUES, Field, Filters, any_of, conditions, field_of
from repositories.pagination import ModelT

MAX_ROWS = 100_000
"""The most rows that one call of a ``bulk_`` method takes."""

_CHUNK = 5_000  # rows of one statement
_MOST_PARAMETERS = 32_000  # of one statement; the protocol's bound is 32,767

CreateT = TypeVar("CreateT", bound=BaseModel)
UpdateT = TypeVar("UpdateT", bound=BaseModel)
RowT = TypeVar("RowT")


class BulkWriting(Editing[ModelT], Generic[ModelT, CreateT, UpdateT]):
    """The writers of many rows."""

    async def update_many(self, filters: Filters, obj_in: UpdateT | Mapping[str, Any], **kwargs: Any) -> int:
        """Write the same values to every row that matches, in one statement.

        Args:
            filters: see :mod:`repositories.filters`; at least one, so that nobody changes a whole table by accident.
            obj_in: the new values by their public names.
            kwargs: further values.

        Returns:
            How many rows were changed.

        Raises:
            ConflictError: a constraint was violated; nothing was written.
            InvalidValueError: no filter, an unknown column, or a value it cannot take.
        """
        where, new = self._chosen(filters), self._edits(obj_in, kwargs)
        if not new:
            return 0
        found = self._locked(*where)
        with translated():
            rows = await self.session.scalars(
                update(self.model)
                .where(self._key == found.c.key)
                .values(new | self._stamps())
                .returning(self._key)
                .execution_options(synchronize_session=False)
            )
            return await self._freshen(rows.all())

    async def delete_many(self, filters: Filters) -> int:
        """Delete every row that matches, in one statement; return how many.

        Args:
            filters: see :mod:`repositories.filters`; at least one, so that nobody empties a table by accident.

        Raises:
            ConflictError: another row refers to one of them; nothing was deleted.
            InvalidValueError: no filter, or one that cannot be.
        """
        return await self._delete(*self._chosen(filters))

    async def bulk_create(self, objects: Sequence[CreateT | Mapping[str, Any]], **kwargs: Any) -> list[ModelT]:
        """Insert many rows and return them in the order given. One statement for each 5,000 that set the same columns.

        Args:
            objects: each as :meth:`create` takes it; at most ``MAX_ROWS``.
            kwargs: values for all of them.

        Raises:
            ConflictError: a constraint was violated; nothing was written.
            InvalidValueError: too many rows, an unknown column, or a value it cannot take.
        """
        _check_rows(len(objects))
        alike: dict[frozenset[str], list[int]] = {}  # rows that set the same columns share a statement
        rows = [self._attributes(given, kwargs) for given in objects]
        for place, row in enumerate(rows):
            alike.setdefault(frozenset(row), []).append(place)
        made: dict[int, ModelT] = {}
        statement = insert(self.model).returning(self.model, sort_by_parameter_order=True)
        options = {"populate_existing": True, "insertmanyvalues_page_size": _CHUNK}
        with translated():
            for places in alike.values():
                for chunk in chunks(places, _CHUNK):
                    new = await self.session.scalars(
                        statement, [rows[place] for place in chunk], execution_options=options
                    )
                    made |= zip(chunk, new, strict=True)
        return [made[place] for place in range(len(rows))]

    async def bulk_update(self, updates: Sequence[Mapping[str, Any]], id_field: str = "id") -> int:
        """Change many rows, each to values of its own, in one statement a chunk of thousands.

        Args:
            updates: a mapping a row: ``id_field`` names the row, the others are its new values; what a mapping leaves
                out stays as it is. At most ``MAX_ROWS``; rows that do not exist are left out.
            id_field: the column that names a row; unique.

        Returns:
            How many rows were changed.

        Raises:
            ConflictError: a constraint was violated; nothing was written.
            InvalidValueError: a row without ``id_field`` or named twice, too many rows, an unknown column, or a value
                it cannot take.
        """
        _check_rows(len(updates))
        named: dict[Any, dict[str, Any]] = {}
        for given in updates:
            if id_field not in given:
                raise InvalidValueError(id_field, f"row {len(named)} does not say which row it changes")
            name = self._naming(id_field, given[id_field])
            if name in named:
                raise InvalidValueError(id_field, f"{given[id_field]!s:.80} is named twice")
            new = self._edits({key: value for key, value in given.items() if key != id_field}, {})
            if name is not None and new:
                named[name] = new
        # Ascending, so that two calls at once lock their chunks in the same order.
        rows = sorted(named.items(), key=itemgetter(0))
        columns = {key for new in named.values() for key in new}
        changed = 0
        for chunk in chunks(rows, min(_CHUNK, _MOST_PARAMETERS // (1 + 2 * len(columns)))):
            changed += await self._update_each(field_of(self.model, id_field, InvalidValueError), chunk)
        return changed

    async def bulk_delete(self, ids: Sequence[Any]) -> int:
        """Delete the rows with these keys: :meth:`delete_many` for a list, in one statement; return how many.

        Raises:
            ConflictError: another row refers to one of them; nothing was deleted.
            InvalidValueError: more than ``MAX_ROWS``.
        """
        _check_rows(len(ids))
        keys = self._as_keys(ids)
        return await self._delete(any_of(self._key, keys)) if keys else 0

    async def _update_each(self, naming: Field, rows: Sequence[tuple[Any, Mapping[str, Any]]]) -> int:
        """Change each row to values of its own. A column that only some rows give has a flag that says which."""
        keys = sorted({key for _, new in rows for key in new})
        partial = [key for key in keys if any(key not in new for _, new in rows)]
        attributes = {key: getattr(self.model, key) for key in keys}
        given = values(
            column("named", naming.attribute.type),
            *(column(f"new_{key}", attributes[key].type) for key in keys),
            *(column(f"has_{key}", Boolean) for key in partial),
            name="given",
        ).data(
            [
                (name, *(_typed(new.get(key), attributes[key]) for key in keys), *(key in new for key in partial))
                for name, new in rows
            ]
        )
        found = (
            select(self._key.label("key"), given)
            .join(given, naming.attribute == given.c.named)
            .order_by(self._key)
            .with_for_update(of=self.model)
            .cte("found")
        )
        new_values = {
            key: case((found.c[f"has_{key}"], found.c[f"new_{key}"]), else_=attributes[key])
            if key in partial
            else found.c[f"new_{key}"]
            for key in keys
        }
        with translated():
            changed = await self.session.scalars(
                update(self.model)
                .where(self._key == found.c.key)
                .values(self._stamps() | new_values)
                .returning(self._key)
                .execution_options(synchronize_session=False)
            )
            return await self._freshen(changed.all())

    async def _delete(self, *where: ColumnElement[bool]) -> int:
        """Delete the rows of one condition; what a subclass must ask before a row goes, it asks here."""
        found = self._locked(*where)
        with translated():
            gone = await self.session.scalars(
                delete(self.model)
                .where(self._key.in_(select(found.c.key)))
                .returning(self._key)
                .execution_options(synchronize_session="fetch")  # deleted rows leave the session, too
            )
            return len(gone.all())

    async def _freshen(self, keys: Sequence[Any]) -> int:
        """Read again those of the changed rows that the session still holds; return how many were changed."""
        changed = set(keys)
        held = [row for row in self.session.identity_map.values() if isinstance(row, self.model)]
        stale = [key for row in held if (key := (inspect(row).identity or (None,))[0]) in changed]
        for chunk in chunks(stale, MAX_VALUES):
            statement = select(self.model).where(any_of(self._key, chunk))
            (await self.session.scalars(statement.execution_options(populate_existing=True))).all()
        return len(changed)

    def _locked(self, *where: ColumnElement[bool]) -> CTE:
        """The rows of a condition, locked in key order: two writers of the same rows never wait for each other."""
        return select(self._key.label("key")).where(*where).order_by(self._key).with_for_update().cte("found")

    def _chosen(self, filters: Filters) -> list[ColumnElement[bool]]:
        chosen = conditions(self.model, filters)
        if not chosen:
            every = {self._key_field.name: {"is_null": False}}
            raise InvalidFilterError("filters", f"at least one is needed here; {every} means every row")
        return chosen

    def _naming(self, id_field: str, value: Any) -> Any:
        field = field_of(self.model, id_field, InvalidValueError)
        return self._as_key(value) if field == self._key_field else field.value(value)


def chunks(rows: Sequence[RowT], size: int) -> Iterator[Sequence[RowT]]:
    """Cut ``rows`` into pieces of at most ``size``, in order."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _typed(value: Any, attribute: InstrumentedAttribute[Any]) -> Any:
    """A value for VALUES. A bare ``None`` would be a NULL of no type there, where the column may be of JSON's null."""
    return bindparam(None, None, type_=attribute.type, unique=True) if value is None else value


def _check_rows(count: int) -> None:
    if count > MAX_ROWS:
        raise InvalidValueError("rows", f"{count} are too many for one call: at most {MAX_ROWS}")
