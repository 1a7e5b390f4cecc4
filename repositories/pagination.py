"""Lists of rows: in order, page by page or as a stream.

Two ways to page. *By number* (:meth:`Listing.list`) tells the total and can jump, but a row inserted before the page
moves every later one. *By cursor* (:meth:`Listing.list_after`) goes on from the last row that was shown: no row is
shown twice or left out because others were inserted or deleted, and the thousandth page costs what the first did.

An order is one text, ``"-priority,created_at"``: columns by their public names, ``-`` for descending. Rows without a
value come last either way, and the key always has the last word, so that an order is never ambiguous.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Select, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, raiseload, selectinload
from sqlalchemy.orm.strategy_options import _AbstractLoad

from repositories.cursors import MAX_CURSOR, Sorted, read_cursor, stand_after, write_cursor
from repositories.errors import InvalidFilterError, InvalidValueError, translated
from repositories.filters import Field, Filters, conditions, field_of
from repositories.schemas import PaginationParams

__all__ = [
    "MAX_CURSOR",
    "MAX_ORDER",
    "MAX_PAGE",
    "NO_RELATIONSHIPS",
    "CursorPage",
    "Listing",
    "ModelT",
    "Relationships",
    "Rows",
    "Sorted",
]

MAX_ORDER = 5
"""The most columns that one order names."""

MAX_PAGE = 1_000
"""The most rows of one page that is read by cursor, and of one batch of a stream."""

ModelT = TypeVar("ModelT", bound=DeclarativeBase)
Relationships = bool | Sequence[str]
NO_RELATIONSHIPS: Relationships = False
"""Load none: touching one raises instead of querying."""


class CursorPage(NamedTuple, Generic[ModelT]):
    """A page read by cursor.

    Attributes:
        items: the rows, in order.
        next_cursor: what to ask with for the rows after them; ``None`` if there are none now.
    """

    items: list[ModelT]
    next_cursor: str | None


class Listing(Generic[ModelT]):
    """The reading of many rows of one model; the base of every repository.

    Args:
        model: the mapped class; its primary key is one column.
        session: the caller's; every method runs in its transaction and none commits.
    """

    def __init__(self, model: type[ModelT], session: AsyncSession) -> None:
        self.model = model
        self.session = session

    async def list(
        self,
        filters: Filters | None = None,
        order_by: str | None = None,
        pagination: PaginationParams | None = None,
        *,
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> "tuple[Rows[ModelT], int]":
        """Return a page of the rows that match, and how many match in all.

        Args:
            filters: see :mod:`repositories.filters`; all must hold, and without any every row matches.
            order_by: ``"-priority,created_at"``; by default the key.
            pagination: which page; by default the first twenty rows.
            load_relationships: ``True``, or names of relationships to load with one more statement each.

        Raises:
            InvalidFilterError: a filter, the order or a relationship names what is not there, or a value is of the
                wrong type.
        """
        statement = self._select(load_relationships).where(*conditions(self.model, filters))
        order = [column.clause() for column in self._order(order_by)]
        return await self._page(statement, pagination or PaginationParams(), *order)

    async def list_with_pagination(
        self,
        pagination: PaginationParams,
        filters: Filters | None = None,
        order_by: str | None = None,
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> "tuple[Rows[ModelT], int]":
        """:meth:`list` under the name and with the parameters that callers of the older service use."""
        return await self.list(filters, order_by, pagination, load_relationships=load_relationships)

    async def list_after(
        self,
        cursor: str | None = None,
        size: int = 20,
        filters: Filters | None = None,
        order_by: str | None = None,
        *,
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> CursorPage[ModelT]:
        """Return the rows that match and stand after ``cursor``, in one statement.

        Args:
            cursor: ``next_cursor`` of the page before, asked with the same filters and order; ``None`` to begin.
            size: 1 to ``MAX_PAGE`` rows.
            filters: as in :meth:`list`.
            order_by: as in :meth:`list`.
            load_relationships: as in :meth:`list`.

        Raises:
            InvalidCursorError: ``cursor`` is none of this order's.
            InvalidFilterError: as in :meth:`list`.
            ValueError: ``size`` is out of range.
        """
        statement = self._select(load_relationships).where(*conditions(self.model, filters))
        return await self._after(statement, self._order(order_by), cursor, size)

    async def count(self, filters: Filters | None = None) -> int:
        """Return how many rows match; all rows without ``filters``.

        Raises:
            InvalidFilterError: as in :meth:`list`.
        """
        statement = select(func.count()).select_from(self.model).where(*conditions(self.model, filters))
        with translated():
            return int(await self.session.scalar(statement) or 0)

    async def stream(
        self,
        filters: Filters | None = None,
        order_by: str | None = None,
        batch: int = 500,
        *,
        load_relationships: Relationships = NO_RELATIONSHIPS,
    ) -> AsyncGenerator[ModelT, None]:
        """Yield every row that matches, from a cursor of the server: memory holds one batch, however many there are.

        The session may be used between rows but not committed. Leave early through ``contextlib.aclosing``.

        Args:
            filters: as in :meth:`list`.
            order_by: as in :meth:`list`.
            batch: rows fetched at a time, 1 to ``MAX_PAGE``.
            load_relationships: as in :meth:`list`; one more statement a batch and relationship.

        Raises:
            InvalidFilterError: as in :meth:`list`.
            ValueError: ``batch`` is out of range.
        """
        _check_size("batch", batch)
        statement = self._select(load_relationships).where(*conditions(self.model, filters))
        statement = statement.order_by(*(column.clause() for column in self._order(order_by)))
        with translated():
            rows = await self.session.stream_scalars(statement.execution_options(yield_per=batch))
            try:
                async for row in rows:
                    yield row
            finally:
                await rows.close()

    async def _page(
        self, statement: Select[Any], pagination: PaginationParams, *order: Any
    ) -> "tuple[Rows[ModelT], int]":
        with translated():
            total = await self.session.scalar(select(func.count()).select_from(statement.subquery()))
            rows = await self.session.scalars(
                statement.order_by(*order)
                .offset(pagination.offset)
                .limit(pagination.size)
                .execution_options(populate_existing=True)
            )
            return [*rows], int(total or 0)

    async def _after(
        self, statement: Select[Any], order: Sequence[Sorted], cursor: str | None, size: int
    ) -> CursorPage[ModelT]:
        _check_size("size", size)
        if cursor is not None:
            statement = statement.where(stand_after(order, read_cursor(self.model, order, cursor)))
        statement = statement.order_by(*(column.clause() for column in order)).limit(size + 1)
        with translated():
            rows = [*await self.session.scalars(statement.execution_options(populate_existing=True))]
        more = len(rows) > size
        return CursorPage(rows[:size], write_cursor(self.model, order, rows[size - 1]) if more else None)

    @property
    def _key(self) -> InstrumentedAttribute[Any]:
        return self._key_field.attribute

    @property
    def _key_field(self) -> Field:
        mapper = inspect(self.model)
        if len(mapper.primary_key) != 1:
            raise TypeError(
                f"a repository needs a key of one column; {self.model.__name__} has {len(mapper.primary_key)}"
            )
        return field_of(self.model, mapper.primary_key[0].name)

    def _order(self, order_by: str | None) -> Sequence[Sorted]:
        """Read an order and end it with the key, in the direction of the column before it: one index serves both."""
        names = [name.strip() for name in order_by.split(",")] if order_by else []
        if len(names) > MAX_ORDER:
            raise InvalidFilterError("order_by", f"{len(names)} columns are too many: at most {MAX_ORDER}")
        order = [Sorted(field_of(self.model, name.removeprefix("-")), name.startswith("-")) for name in names]
        for column in order:
            if not column.field.orderable:
                raise InvalidFilterError(column.field.name, "rows have no order by a column of this type")
        if self._key_field not in [column.field for column in order]:
            order.append(Sorted(self._key_field, order[-1].descending if order else False))
        return order

    def _select(self, load_relationships: Relationships) -> Select[Any]:
        return select(self.model).options(*self._loading(load_relationships))

    def _loading(self, load_relationships: Relationships) -> Sequence[_AbstractLoad]:
        """Load what is asked with one statement a relationship; touching another one raises instead of querying.

        A relationship that its mapping loads by itself keeps doing so.
        """
        relationships = {relationship.key: relationship for relationship in inspect(self.model).relationships}
        if isinstance(load_relationships, bool):
            wanted = set(relationships) if load_relationships else set()
        elif unknown := set(load_relationships) - set(relationships):
            there = ", ".join(sorted(relationships)) or "none"
            raise InvalidFilterError("load_relationships", f"no relationship {min(unknown)!r:.80}; there are {there}")
        else:
            wanted = set(load_relationships)
        return [
            selectinload(getattr(self.model, name)) if name in wanted else raiseload(getattr(self.model, name))
            for name, relationship in relationships.items()
            if name in wanted or relationship.lazy == "select"
        ]


Rows = list[ModelT]  # inside Listing, ``list`` is the method


def _check_size(name: str, size: int) -> None:
    if not 1 <= size <= MAX_PAGE:
        raise InvalidValueError(name, f"must be 1 to {MAX_PAGE}, not {size}")
