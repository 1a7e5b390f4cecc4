"""Generic data access for one model: read, write, count and page. The caller owns the transaction: nothing commits.

Every write is one set-based statement (a chunk of thousands is one, too), locks its rows in key order, and leaves what
the session holds as fresh as the database. Where the model has a ``version`` each write adds one to it, and
:meth:`BaseRepository.update` can ask for the version its caller had read; ``updated_at`` is stamped likewise.

Names: ``update`` and ``delete`` take one row, ``update_many`` and ``delete_many`` every row that matches a filter,
``bulk_create`` and ``bulk_update`` a list of rows, each with values of its own. ``bulk_delete`` is ``delete_many`` for
a list of keys. Lists and pages come from :mod:`repositories.pagination`, filters from :mod:`repositories.filters`.

Subclasses add what is special about their model; :class:`repositories.jobs.JobRepository` closes the writers that would
walk around its state machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    bindparam,
    case,
    column,
    delete,
    func,
    insert,
    inspect,
    select,
    update,
    values,
)
from sqlalchemy.orm import InstrumentedAttribute

from repositories.errors import (
    ConflictError,
    InvalidFilterError,
    InvalidValueError,
    NotFoundError,
    ProtectedFieldError,
    RepositoryError,
    StaleUpdateError,
    translated,
)
from repositories.filters import MAX_VALUES, Field, Filters, any_of, conditions, field_of
from repositories.pagination import Listing, ModelT, Relationships

__all__ = ["MAX_ROWS", "BaseRepository", "ConflictError", "NotFoundError", "RepositoryError", "as_uuid"]

MAX_ROWS = 100_000
"""The most rows that one call of a ``bulk_`` method takes."""

_CHUNK = 5_000  # rows of one statement
_MOST_PARAMETERS = 32_000  # of one statement; the protocol's bound is 32,767

CreateT = TypeVar("CreateT", bound=BaseModel)
UpdateT = TypeVar("UpdateT", bound=BaseModel)
RowT = TypeVar("RowT")


class BaseRepository(Listing[ModelT], Generic[ModelT, CreateT, UpdateT]):
    """Create, read, update, delete, count and page one model.

    Args:
        model: the mapped class; its primary key is one column.
        session: the caller's; every method runs in its transaction and none commits.
    """

    async def create(self, obj_in: CreateT | Mapping[str, Any], **kwargs: Any) -> ModelT:
        """Insert one row and return it as the database holds it.

        Args:
            obj_in: its values by their public names; what is unset gets the column's default.
            kwargs: further values.

        Raises:
            ConflictError: a constraint was violated.
            InvalidValueError: an unknown column, or a value that the column cannot take.
        """
        row = self.model(**self._attributes(obj_in, kwargs))
        with translated():
            self.session.add(row)
            await self.session.flush()
            await self.session.refresh(row)
        return row

    async def get_by_id(
        self,
        id: Any,  # noqa: A002 - the public name of the parameter
        load_relationships: Relationships = False,  # noqa: FBT002 - the public shape of the parameter
    ) -> ModelT | None:
        """Return the row with this key as it is now; ``None`` if there is none or ``id`` cannot be a key.

        Args:
            id: the key, or its text.
            load_relationships: ``True``, or names of relationships to load with one more statement each.
        """
        key = self._as_key(id)
        if key is None:
            return None
        return await self._first(load_relationships, self._key == key)

    async def get_by_id_or_raise(
        self,
        id: Any,  # noqa: A002 - the public name of the parameter
        load_relationships: Relationships = False,  # noqa: FBT002 - the public shape of the parameter
    ) -> ModelT:
        """Return the row with this key.

        Raises:
            NotFoundError: there is none, or ``id`` cannot be a key.
        """
        row = await self.get_by_id(id, load_relationships)
        if row is None:
            raise NotFoundError(self._kind, id)
        return row

    async def get_by_field(
        self,
        field: str,
        value: Any,
        load_relationships: Relationships = False,  # noqa: FBT002 - the public shape of the parameter
    ) -> ModelT | None:
        """Return the row with this value in this column: the first in key order if there are several.

        Raises:
            InvalidFilterError: there is no such column, or ``value`` is not of its type.
        """
        return await self._first(load_relationships, *conditions(self.model, {field: {"eq": value}}))

    async def get_many(
        self,
        ids: Sequence[Any],
        load_relationships: Relationships = False,  # noqa: FBT002 - the public shape of the parameter
    ) -> list[ModelT]:
        """Return the rows with these keys, in the order asked; unknown ones are left out. One statement each 10,000."""
        keys = self._as_keys(ids)
        found: dict[Any, ModelT] = {}
        with translated():
            for chunk in _chunks(keys, MAX_VALUES):
                statement = self._select(load_relationships).where(any_of(self._key, chunk))
                rows = await self.session.scalars(statement.execution_options(populate_existing=True))
                found |= {getattr(row, self._key.key): row for row in rows}
        return [found[key] for key in keys if key in found]

    async def exists(self, id: Any) -> bool:  # noqa: A002 - the public name of the parameter
        """Whether there is a row with this key."""
        key = self._as_key(id)
        if key is None:
            return False
        with translated():
            return bool(await self.session.scalar(select(select(self.model).where(self._key == key).exists())))

    async def update(
        self,
        id: Any,  # noqa: A002 - the public name of the parameter
        obj_in: UpdateT | Mapping[str, Any],
        *,
        version: int | None = None,
        **kwargs: Any,
    ) -> ModelT:
        """Change one row and return it as it is now. Unset is not ``None``: what is unset stays as it is.

        Args:
            id: the key, or its text.
            obj_in: the new values by their public names; without any, nothing is written.
            version: the version the caller had read; the row is changed only if it still has it.
            kwargs: further values.

        Raises:
            NotFoundError: there is no such row.
            StaleUpdateError: its version is another one.
            ConflictError: a constraint was violated.
            InvalidValueError: an unknown column, a value it cannot take, or ``version`` for a model without one.
        """
        key, new = self._as_key(id), self._edits(obj_in, kwargs)
        if version is not None and self._versioned is None:
            raise InvalidValueError("version", f"{self.model.__tablename__} has no version to compare with")
        if key is None:
            raise NotFoundError(self._kind, id)
        where = [self._key == key] + ([] if version is None else [self._versioned == version])
        with translated():
            if new:
                row: ModelT | None = await self.session.scalar(
                    update(self.model)
                    .where(*where)
                    .values(new | self._stamps())
                    .returning(self.model)
                    .execution_options(synchronize_session=False, populate_existing=True)
                )
            else:
                row = await self._first(False, *where)  # noqa: FBT003 - no relationships
        if row is not None:
            return row
        if version is None or (found := await self._first(False, self._key == key)) is None:  # noqa: FBT003 - likewise
            raise NotFoundError(self._kind, id)
        raise StaleUpdateError(self._kind, id, version, self._version_of(found))

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

    async def delete(self, id: Any) -> bool:  # noqa: A002 - the public name of the parameter
        """Delete the row with this key; say whether there was one.

        Raises:
            ConflictError: another row refers to it.
        """
        key = self._as_key(id)
        return key is not None and await self._delete(self._key == key) > 0

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
                for chunk in _chunks(places, _CHUNK):
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
        for chunk in _chunks(rows, min(_CHUNK, _MOST_PARAMETERS // (1 + 2 * len(columns)))):
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

    def _edits(self, obj_in: BaseModel | Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """What an edit writes, by attribute. Every edit of existing rows asks here, so a subclass refuses in one place.

        Raises:
            InvalidValueError: there is no such column.
            ProtectedFieldError: the key or the version is among them.
        """
        given = obj_in.model_dump(exclude_unset=True) if isinstance(obj_in, BaseModel) else dict(obj_in)
        new = self._by_attribute({**given, **extra})
        if self._key.key in new:
            raise ProtectedFieldError(self._kind, self._key_field.name, "create another row and delete this one")
        if self._versioned is not None and "version" in new:
            raise ProtectedFieldError(
                self._kind, "version", "update(..., version=) compares it, and each edit adds one"
            )
        return new

    def _attributes(self, obj_in: BaseModel | Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """What a new row is made of, by attribute: the schema's own defaults count, an unset ``None`` does not."""
        if isinstance(obj_in, BaseModel):
            unset = obj_in.__class__.model_fields.keys() - obj_in.model_fields_set
            given = {name: v for name, v in obj_in.model_dump().items() if v is not None or name not in unset}
        else:
            given = dict(obj_in)
        return self._by_attribute({**given, **extra})

    def _by_attribute(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attribute names for public names: what a caller calls ``metadata`` is ``job_metadata`` on a mapped class."""
        return {field_of(self.model, name, InvalidValueError).attribute.key: value for name, value in given.items()}

    def _stamps(self) -> dict[str, Any]:
        """What every edit writes besides its values."""
        columns = inspect(self.model).columns
        stamps: dict[str, Any] = {"version": self._versioned + 1} if self._versioned is not None else {}
        return stamps | ({"updated_at": func.clock_timestamp()} if "updated_at" in columns else {})

    @property
    def _versioned(self) -> InstrumentedAttribute[int] | None:
        model: Any = self.model
        version: InstrumentedAttribute[int] | None = model.version if "version" in inspect(model).columns else None
        return version

    @staticmethod
    def _version_of(row: Any) -> int:
        version: int = row.version
        return version

    @property
    def _kind(self) -> str:
        return self.model.__name__.lower()

    async def _first(self, load_relationships: Relationships, *where: ColumnElement[bool]) -> ModelT | None:
        statement = self._select(load_relationships).where(*where).order_by(self._key).limit(1)
        with translated():
            row: ModelT | None = await self.session.scalar(statement.execution_options(populate_existing=True))
        return row

    async def _freshen(self, keys: Sequence[Any]) -> int:
        """Read again those of the changed rows that the session still holds; return how many were changed."""
        changed = set(keys)
        held = [row for row in self.session.identity_map.values() if isinstance(row, self.model)]
        stale = [key for row in held if (key := (inspect(row).identity or (None,))[0]) in changed]
        for chunk in _chunks(stale, MAX_VALUES):
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

    def _as_keys(self, ids: Sequence[Any]) -> list[Any]:
        return [key for key in map(self._as_key, ids) if key is not None]

    def _as_key(self, id: Any) -> Any:  # noqa: A002 - the public name of the parameter
        """Return ``id`` as the key's type, or ``None`` if it cannot be one: such an id is simply not found."""
        kind = self._key.type.python_type
        if kind is UUID:
            return as_uuid(id)
        try:
            return self._key_field.value(int(id) if kind is int and isinstance(id, str) else id)
        except ValueError:
            return None


def as_uuid(value: Any) -> UUID | None:
    """Return ``value`` as a UUID, or ``None`` if it is not one."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        return None


def _chunks(rows: Sequence[RowT], size: int) -> Iterator[Sequence[RowT]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _typed(value: Any, attribute: InstrumentedAttribute[Any]) -> Any:
    """A value for VALUES. A bare ``None`` would be a NULL of no type there, where the column may be of JSON's null."""
    return bindparam(None, None, type_=attribute.type, unique=True) if value is None else value


def _check_rows(count: int) -> None:
    if count > MAX_ROWS:
        raise InvalidValueError("rows", f"{count} are too many for one call: at most {MAX_ROWS}")
