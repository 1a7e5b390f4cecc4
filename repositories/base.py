"""Generic data access for one model: read, write, count and page. The caller owns the transaction: nothing commits.

Subclasses add what is special about their model; :class:`repositories.jobs.JobRepository` closes the writers that would
walk around its state machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, Uuid, delete, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from repositories.errors import ConflictError, NotFoundError, RepositoryError, translated
from repositories.models import Base
from repositories.schemas import PaginationParams

__all__ = ["BaseRepository", "ConflictError", "NotFoundError", "RepositoryError"]

ModelT = TypeVar("ModelT", bound=Base)
CreateT = TypeVar("CreateT", bound=BaseModel)
UpdateT = TypeVar("UpdateT", bound=BaseModel)


class BaseRepository(Generic[ModelT, CreateT, UpdateT]):
    """Create, read, update, delete, count and page one model.

    Args:
        model: the mapped class; its primary key is one column.
        session: the caller's; every method runs in its transaction and none commits.
    """

    def __init__(self, model: type[ModelT], session: AsyncSession) -> None:
        self.model = model
        self.session = session

    @property
    def _key(self) -> InstrumentedAttribute[Any]:
        (column,) = inspect(self.model).primary_key
        attribute: InstrumentedAttribute[Any] = getattr(
            self.model, inspect(self.model).get_property_by_column(column).key
        )
        return attribute

    def _as_key(self, id: Any) -> Any:  # noqa: A002 - the public name of the parameter
        """Return ``id`` as the key's type, or ``None`` if it cannot be one: such an id is simply not found."""
        if isinstance(self._key.type, Uuid):
            return as_uuid(id)
        try:
            return int(id)
        except (TypeError, ValueError):
            return None

    async def create(self, obj_in: CreateT | Mapping[str, Any], **kwargs: Any) -> ModelT:
        """Insert one row and return it as the database holds it.

        Raises:
            ConflictError: a constraint was violated.
        """
        row = self.model(**self._columns(obj_in), **kwargs)
        with translated():
            self.session.add(row)
            await self.session.flush()
            await self.session.refresh(row)
        return row

    async def get_by_id(self, id: Any) -> ModelT | None:  # noqa: A002 - the public name of the parameter
        """Return the row with this key as it is now; ``None`` if there is none or ``id`` cannot be a key."""
        key = self._as_key(id)
        if key is None:
            return None
        with translated():
            return await self.session.get(self.model, key, populate_existing=True)

    async def get_by_id_or_raise(self, id: Any) -> ModelT:  # noqa: A002 - the public name of the parameter
        """Return the row with this key.

        Raises:
            NotFoundError: there is none, or ``id`` cannot be a key.
        """
        row = await self.get_by_id(id)
        if row is None:
            raise NotFoundError(self.model.__name__.lower(), id)
        return row

    async def get_many(self, ids: Sequence[Any]) -> list[ModelT]:
        """Return the rows with these keys, in the order asked; unknown ones are left out."""
        keys = [key for key in map(self._as_key, ids) if key is not None]
        with translated():
            rows = await self.session.scalars(
                select(self.model).where(self._key.in_(keys)).execution_options(populate_existing=True)
            )
            found = {getattr(row, self._key.key): row for row in rows}
        return [found[key] for key in keys if key in found]

    async def exists(self, id: Any) -> bool:  # noqa: A002 - the public name of the parameter
        """Whether there is a row with this key."""
        key = self._as_key(id)
        if key is None:
            return False
        with translated():
            return bool(await self.session.scalar(select(select(self.model).where(self._key == key).exists())))

    async def count(self, filters: Mapping[str, Any] | None = None) -> int:
        """Return how many rows have these values in these columns (all of them; all rows without ``filters``).

        Raises:
            ValueError: a filter names no column.
        """
        with translated():
            statement = select(func.count()).select_from(self.model).where(*self._conditions(filters))
            return int(await self.session.scalar(statement) or 0)

    async def list_with_pagination(
        self, pagination: PaginationParams, filters: Mapping[str, Any] | None = None, order_by: str | None = None
    ) -> tuple[list[ModelT], int]:
        """Return a page of the rows that match, and how many match in all.

        Args:
            pagination: which page.
            filters: column name to value; a list means any of it.
            order_by: a column name, with ``-`` in front for descending; by default the key.

        Raises:
            ValueError: a filter or the order names no column.
        """
        name = (order_by or self._key.key).removeprefix("-")
        column = self._column(name)
        order = column.desc() if (order_by or "").startswith("-") else column.asc()
        return await self._page(select(self.model).where(*self._conditions(filters)), pagination, order, self._key)

    async def delete(self, id: Any) -> bool:  # noqa: A002 - the public name of the parameter
        """Delete the row with this key; say whether there was one."""
        key = self._as_key(id)
        if key is None:
            return False
        with translated():
            gone = await self.session.scalar(delete(self.model).where(self._key == key).returning(self._key))
        return gone is not None

    async def _page(
        self, statement: Select[Any], pagination: PaginationParams, *order: Any
    ) -> tuple[list[ModelT], int]:
        with translated():
            total = await self.session.scalar(select(func.count()).select_from(statement.subquery()))
            rows = await self.session.scalars(
                statement.order_by(*order)
                .offset(pagination.offset)
                .limit(pagination.size)
                .execution_options(populate_existing=True)
            )
            return list(rows), int(total or 0)

    def _columns(self, values: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
        """Attribute names for public names: what a caller calls ``metadata`` is ``job_metadata`` on a mapped class."""
        given = values.model_dump(exclude_unset=True) if isinstance(values, BaseModel) else dict(values)
        return {self._column(name).key: value for name, value in given.items()}

    def _conditions(self, filters: Mapping[str, Any] | None) -> list[ColumnElement[bool]]:
        return [
            column.in_(value) if isinstance(value, list | tuple | set) else column == value
            for column, value in ((self._column(name), value) for name, value in (filters or {}).items())
        ]

    def _column(self, name: str) -> InstrumentedAttribute[Any]:
        columns = {column.name: attribute for attribute, column in inspect(self.model).columns.items()}
        if name not in columns:
            raise ValueError(f"{self.model.__tablename__} has no column {name!r}; it has {', '.join(sorted(columns))}")
        attribute: InstrumentedAttribute[Any] = getattr(self.model, columns[name])
        return attribute


def as_uuid(value: Any) -> UUID | None:
    """Return ``value`` as a UUID, or ``None`` if it is not one."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        return None
