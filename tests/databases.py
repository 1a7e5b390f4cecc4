"""Databases with the newest schema, lent to one test at a time.

Making a database and dropping it costs a hundred times what emptying it costs, so one that comes back as it was lent,
but for rows, is emptied and lent again. That is looked at, not trusted: a database that differs in anything but rows
(tables, functions, settings, planner statistics), that grew, or that somebody is still connected to, is dropped. Who
looks stays connected: a new connection reads all of the catalog first, which takes three times as long as the looking.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple, Self
from uuid import uuid4

import asyncpg
from sqlalchemy import URL

from repositories.models import Base
from tests.waiting import until

MAX_GROWTH_BYTES = 4_000_000
"""Deleted rows stay in the files: beyond this, reading past them would cost the tests that follow."""

_CLOSING_SECONDS = 0.3
_TABLES = tuple(table.name for table in reversed(Base.metadata.sorted_tables))  # those that refer to others come first
_EMPTY = f"""
SET lock_timeout = '2s';
{";".join(f"DELETE FROM {name}" for name in _TABLES)};
SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence
"""  # noqa: S608 - names of the models

# Whatever is made, altered or dropped leaves other row versions in one of these: their number or their sum tells.
_CATALOGS = (
    *("pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_type", "pg_proc", "pg_trigger"),
    *("pg_rewrite", "pg_policy", "pg_namespace", "pg_extension", "pg_event_trigger", "pg_default_acl", "pg_depend"),
    *("pg_statistic", "pg_statistic_ext", "pg_db_role_setting"),
)
_STATE = f"""
SELECT concat_ws(
    ' ',
    {",".join(f"(SELECT count(*) || '/' || coalesce(sum(xmin::text::bigint), 0) FROM {name})" for name in _CATALOGS)},
    (SELECT sum(relpages) || '/' || sum(reltuples) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT string_agg(version_num, ',') FROM alembic_version),
    {",".join(f"EXISTS (SELECT FROM {name})" for name in _TABLES)}
)
"""  # noqa: S608 - likewise, and names from above
# PostgreSQL's own have numbers below; what is too long for a row is in a schema of its own.
_SIZE = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'i', 't')"
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Lent(NamedTuple):
    """A database, and what it was like before anybody had it."""

    name: str
    state: str
    size: int


class Databases:
    """Makes databases from ``template`` on ``server``, and drops at the end what it made.

    Args:
        server: the URL of a database that is always there; its user may make others.
        template: what the databases are copies of.
    """

    def __init__(self, server: URL, template: str) -> None:
        self._server, self._template = server.set(drivername="postgresql"), template
        # Not the thread's own loop: a test has that, and finds it as it was.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._free: list[Lent] = []
        self._watching: dict[str, asyncpg.Connection] = {}
        self._administrator: asyncpg.Connection | None = None

    def __enter__(self) -> Self:
        self._administrator = self._run(self._connect(self._server.database))
        return self

    def __exit__(self, *_: object) -> None:
        for database in self._free:
            self.drop(database.name)
        assert self._administrator is not None
        self._run(self._administrator.close())
        self._runner.close()

    def url(self, name: str) -> str:
        """What SQLAlchemy takes."""
        return self._server.set(drivername="postgresql+asyncpg", database=name).render_as_string(hide_password=False)

    def make(self, template: str | None = None) -> str:
        """Return the name of a new database, a copy of ``template`` or of this object's own."""
        name = f"test_{uuid4().hex[:12]}"
        self._administer(f"CREATE DATABASE {name} TEMPLATE {template or self._template}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        if watching := self._watching.pop(name, None):
            watching.terminate()
        self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    def lend(self) -> Lent:
        """Return a database without rows; whoever takes it gives it back."""
        return self._free.pop() if self._free else self._run(self._look(self.make()))

    def take_back(self, lent: Lent) -> None:
        """Empty a database for the next test, or drop it if rows are not all that changed."""
        if self._run(self._emptied(lent)):
            self._free.append(lent)
        else:
            self.drop(lent.name)

    async def _look(self, name: str) -> Lent:
        connection = self._watching[name] = await self._connect(name)
        return Lent(name, await connection.fetchval(_STATE), int(await connection.fetchval(_SIZE)))

    async def _emptied(self, lent: Lent) -> bool:
        connection = self._watching[lent.name]
        try:
            # A connection that was closed a moment ago is seen until its server process is gone.
            await until(lambda: self._is_alone(connection), _CLOSING_SECONDS)
            await connection.execute(_EMPTY)
            state, size = await connection.fetchval(_STATE), await connection.fetchval(_SIZE)
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False  # somebody holds it, it lacks a table, or ended this connection: that is an answer, too
        return bool(state == lent.state and size <= lent.size + MAX_GROWTH_BYTES)

    @staticmethod
    async def _is_alone(connection: asyncpg.Connection) -> bool:
        return bool(await connection.fetchval(_OTHERS) == 0)

    async def _connect(self, database: str | None) -> asyncpg.Connection:
        return await asyncpg.connect(self._server.set(database=database).render_as_string(hide_password=False))

    def _administer(self, statement: str) -> None:
        assert self._administrator is not None
        self._run(self._administrator.execute(statement))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)
