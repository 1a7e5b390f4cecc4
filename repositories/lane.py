"""A connection of one's own, for loops that send the same few statements all day.

A session does much for its caller (check-out, isolation level, a transaction, the ORM's books), which costs about as
much as claiming a job. A :class:`Lane` keeps one connection and hands prepared statements to the driver; each of them
is a whole piece of work and commits by itself.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from repositories.engine import CONNECT_TIMEOUT_SECONDS, SET_BOUNDS, is_pooled
from repositories.errors import connecting, translated
from repositories.prepared import Prepared

TRUST_SECONDS = 3.0
"""How long the connection may lie idle and be trusted."""

# PostgreSQL would plan each statement anew for its first five values, and find that it need not have. But a plan that
# is made while the table of jobs is small reads all of it, and would still do so when it is large: every statement of
# a lane knows its jobs by their keys.
_PLANNED_ONCE = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off"

_READY_SECONDS = 0.5
_CLOSE_SECONDS = 1.0
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class Lane:
    """Sends one statement at a time while the block lasts; what the server drops meanwhile is connected anew.

    The connection is not one of the pool's: however many lanes there are, they take none from others.

    Args:
        engine: of :func:`repositories.engine.make_engine`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._pooled = is_pooled(engine)
        self._connection: asyncpg.Connection[Any] | None = None
        self._statements: dict[Prepared, asyncpg.prepared_stmt.PreparedStatement[Any]] = {}
        self._used_at = 0.0

    async def rows(self, statement: Prepared, parameters: dict[str, Any]) -> "list[asyncpg.Record]":
        """Send a statement and commit; return all rows as the driver has them.

        Args:
            statement: a whole piece of work.
            parameters: what its ``bindparam`` are; values as the driver takes them.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer, or was lost in the middle: then it is not known
                whether the statement was carried out.
            ConflictError: a constraint was violated.
            InvalidValueError: a value does not fit its column.
            TransactionAbortedError: a deadlock.
            KeyError: a parameter is missing.
        """
        values = statement.values(parameters)
        with translated(), connecting():
            connection = await self._trusted(TRUST_SECONDS)
            try:
                rows = await self._fetch(connection, statement, values)
            except asyncpg.PostgresError:
                raise  # the server refused it, and the connection is as good as before, or closed
            except BaseException:
                self._drop()  # who knows what its answer would have been
                raise
        self._used_at = time.monotonic()
        return rows

    async def stay_ready(self) -> None:
        """Have the connection stand when it is needed next; to be called about each second while there is no work.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
        """
        with translated(), connecting():
            await self._trusted(_READY_SECONDS)

    async def close(self) -> None:
        """Close the connection; the next statement would open another."""
        connection, self._connection = self._connection, None
        self._statements.clear()
        if connection is not None:
            with suppress(*_LOST):  # closed it is, in any case
                await connection.close(timeout=_CLOSE_SECONDS)

    async def _trusted(self, seconds: float) -> "asyncpg.Connection[Any]":
        """The connection; asked whether it still stands if it lay idle for so long, and replaced if it does not."""
        if self._connection is not None and time.monotonic() - self._used_at >= seconds:
            try:
                await self._connection.execute("SELECT 1", timeout=CONNECT_TIMEOUT_SECONDS)
                self._used_at = time.monotonic()
            except _LOST:
                self._drop()
            except BaseException:
                self._drop()
                raise
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connected()
            self._used_at = time.monotonic()
        return self._connection

    async def _connected(self) -> "asyncpg.Connection[Any]":
        self._drop()
        lent = await (await self._engine.connect()).get_raw_connection()
        connection = lent.driver_connection
        lent.detach()  # the pool opens another one in its place
        assert isinstance(connection, asyncpg.Connection)
        if not self._pooled:
            try:
                await connection.execute(_PLANNED_ONCE)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _fetch(
        self, connection: "asyncpg.Connection[Any]", statement: Prepared, values: Sequence[Any]
    ) -> "list[asyncpg.Record]":
        rows: list[asyncpg.Record]
        if self._pooled:  # what is prepared or set outside a transaction would be left to whoever has the server next
            async with connection.transaction():
                await connection.execute(SET_BOUNDS)
                rows = await connection.fetch(statement.text, *values)
            return rows
        try:
            rows = await (await self._prepared(connection, statement)).fetch(*values)
        except asyncpg.InvalidCachedStatementError:  # the schema was changed; nothing has been carried out
            self._statements.clear()
            rows = await (await self._prepared(connection, statement)).fetch(*values)
        return rows

    async def _prepared(
        self, connection: "asyncpg.Connection[Any]", statement: Prepared
    ) -> "asyncpg.prepared_stmt.PreparedStatement[Any]":
        prepared = self._statements.get(statement)
        if prepared is None:
            prepared = self._statements[statement] = await connection.prepare(statement.text)
        return prepared

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None
        self._statements.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
