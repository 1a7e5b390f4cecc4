"""Statements of the hot path: compiled once, and sent to the driver as they are.

A worker starts and ends thousands of jobs a second with the same few statements. Each time, SQLAlchemy's ORM would look
up how to compile one, and wrap every value of every row it returns: 1.5 ms a statement and 5 µs a row, about
what PostgreSQL itself takes for a job. What comes back here are the driver's own values: a state is text.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement


class Prepared:
    """A statement whose text is made once.

    Attributes:
        text: as the driver takes it.

    Args:
        statement: its parameters are ``bindparam`` of fixed number (no ``IN`` over a list); constants are its own.

    Raises:
        ValueError: a parameter's value would change the text.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=PGDialect_asyncpg())  # type: ignore[no-untyped-call]
        assert isinstance(compiled, SQLCompiler)
        if compiled.post_compile_params or compiled.literal_execute_params:
            raise ValueError("a prepared statement cannot have parameters that are written into its text")
        self.text = str(compiled)
        self._order = tuple(compiled.positiontup or ())
        self._constants = {name: value for name, value in compiled.params.items() if not compiled.binds[name].required}

    def values(self, parameters: dict[str, Any]) -> tuple[Any, ...]:
        """Return what goes with the text, in its order.

        Args:
            parameters: what its ``bindparam`` are; values as the driver takes them.

        Raises:
            KeyError: a parameter is missing.
        """
        given = self._constants | parameters
        return tuple([given[name] for name in self._order])

    async def rows(self, session: AsyncSession, parameters: dict[str, Any]) -> Sequence[Any]:
        """Send it, and return all rows as the driver has them.

        Args:
            session: in whose transaction.
            parameters: as for :meth:`values`.

        Raises:
            KeyError: a parameter is missing.
        """
        values = self.values(parameters)
        connection = await session.connection()
        return (await connection.exec_driver_sql(self.text, values)).all()
