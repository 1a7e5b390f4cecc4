"""Generic data access for one model: read, write, count and page. The caller owns the transaction: nothing commits.

Every write is one set-based statement (a chunk of thousands is one, too), locks its rows in key order, and leaves what
the session holds as fresh as the database. Where the model has a ``version`` each write adds one to it, and
:meth:`BaseRepository.update` can ask for the version its caller had read; ``updated_at`` is stamped likewise.

Names: ``update`` and ``delete`` take one row, ``update_many`` and ``delete_many`` every row that matches a filter,
``bulk_create`` and ``bulk_update`` a list of rows, each with values of its own. ``bulk_delete`` is ``delete_many`` for
a list of keys. The writers of many rows are in :mod:`repositories.bulk`, lists and pages in
:mod:`repositories.pagination`, filters in :mod:`repositories.filters`.

Subclasses add what is special about their model; :class:`repositories.jobs.JobRepository` closes the writers that would
walk around its state machine.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Generic

from sqlalchemy import ColumnElement, select, update

from repositories.bulk import MAX_ROWS, BulkWriting, CreateT, UpdateT, chunks
from repositories.edits import as_uuid
from repositories.errors import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    RepositoryError,
    StaleUpdateError,
    translated,
)
from repositories.filters import MAX_VALUES, any_of, conditions
from repositories.pagination import NO_RELATIONSHIPS, ModelT, Relationships

__all__ = ["MAX_ROWS", "BaseRepository", "ConflictError", "NotFoundError", "RepositoryError", "as_uuid"]


class BaseRepository(BulkWriting[ModelT, CreateT, UpdateT], ABC, Generic[ModelT, CreateT, UpdateT]):
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
        load_relationships: Relationships = NO_RELATIONSHIPS,
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
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> ModelT:
        """Return the row with this key as it is now.

        Args:
            id: the key, or its text.
            load_relationships: as in :meth:`get_by_id`.

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
        *,
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> ModelT | None:
        """Return the row with this value in this column: the first in key order if there are several.

        Args:
            field: the column's public name.
            value: of the column's type, or text that can be read as it.
            load_relationships: as in :meth:`get_by_id`.

        Raises:
            InvalidFilterError: there is no such column, or ``value`` is not of its type.
        """
        return await self._first(load_relationships, *conditions(self.model, {field: {"eq": value}}))

    async def get_many(
        self,
        ids: Sequence[Any],
        *,
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> list[ModelT]:
        """Return the rows with these keys, in the order asked; unknown ones are left out. One statement each 10,000.

        Args:
            ids: keys, or their text; what cannot be a key is unknown.
            load_relationships: as in :meth:`get_by_id`.
        """
        keys = self._as_keys(ids)
        found: dict[Any, ModelT] = {}
        with translated():
            for chunk in chunks(keys, MAX_VALUES):
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
                row = await self._first(NO_RELATIONSHIPS, *where)
        if row is not None:
            return row
        if version is None or (found := await self._first(NO_RELATIONSHIPS, self._key == key)) is None:
            raise NotFoundError(self._kind, id)
        raise StaleUpdateError(self._kind, id, version, self._version_of(found))

    async def delete(self, id: Any) -> bool:  # noqa: A002 - the public name of the parameter
        """Delete the row with this key; say whether there was one.

        Raises:
            ConflictError: another row refers to it.
        """
        key = self._as_key(id)
        return key is not None and await self._delete(self._key == key) > 0

    async def _first(self, load_relationships: Relationships, *where: ColumnElement[bool]) -> ModelT | None:
        statement = self._select(load_relationships).where(*where).order_by(self._key).limit(1)
        with translated():
            row: ModelT | None = await self.session.scalar(statement.execution_options(populate_existing=True))
        return row
