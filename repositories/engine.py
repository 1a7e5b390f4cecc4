"""How an engine is made: its pool, its bounds, and what changes where PgBouncer stands between us and the server.

A URL says how its server is reached, so that no caller can forget it: ``?pgbouncer=true`` means PgBouncer in
transaction mode (``DATABASE_PGBOUNCER`` sets it). There one statement's connection may not be the next one's:

- Statements are prepared without a name. A name would stay behind on a server connection that others use next.
  Inside a transaction the connection is one's own, and every statement of ours is inside one there.
- PgBouncer refuses ``statement_timeout`` and ``jit`` when a connection begins, and would let them leak later: each
  transaction sets them for itself, which costs it one more statement.
- The pool stays. Without names nothing is left on a connection, and a kept one saves the log-in of each transaction.

A connection that has lain idle for :data:`PING_AFTER_SECONDS` is asked whether it still stands before it is lent. One
that was in use a moment ago is not: the question costs up to three round trips, as many as the work of a transaction.
The one that was returned last is lent first, so a busy process asks hardly ever.
"""

import json
import time
from typing import Any

import orjson
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from repositories.recordable import encoded

CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 60
PING_AFTER_SECONDS = 1.0
"""How long a connection may lie idle and be trusted."""

_MARK = "pgbouncer"
_BOUNDS = {
    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    "jit": "off",  # it costs more than it saves on statements of milliseconds
}
SET_BOUNDS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _BOUNDS.items())


def through_pgbouncer(url: URL) -> URL:
    """Mark a URL as leading to PgBouncer."""
    return url.update_query_dict({_MARK: "true"})


def leads_to_pgbouncer(url: URL) -> bool:
    """Whether a URL is marked so.

    Raises:
        ValueError: the mark is neither ``true`` nor ``false``.
    """
    mark = url.query.get(_MARK, "false")
    if mark not in {"true", "false"}:
        raise ValueError(f"{_MARK} in a database's URL must be true or false")
    return mark == "true"


def _login_in_front(url: URL) -> URL:
    """The same URL with a user and password of its query where they are not shown: the query is, in every ``repr``."""
    login = {"username": url.query.get("user"), "password": url.query.get("password")}
    given = {name: value for name, value in login.items() if isinstance(value, str)}
    return url.set(**given).difference_update_query(["user", "password"])  # type: ignore[arg-type]


def make_engine(
    url: str,
    *,
    pool_size: int,
    max_overflow: int,
    name: str,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ping_after_seconds: float = PING_AFTER_SECONDS,
) -> AsyncEngine:
    """Make an engine; it connects when it is first used.

    Args:
        url: ``postgresql+asyncpg://...``, with ``pgbouncer=true`` in its query if it leads to PgBouncer.
        pool_size: connections kept open (1 or more).
        max_overflow: connections opened beyond that under load (0 or more).
        name: shown in ``pg_stat_activity``.
        connect_timeout_seconds: how long a server may take to answer a new connection.
        ping_after_seconds: how long a connection may lie idle and be trusted; 0 asks each time it is lent.

    Raises:
        ValueError: ``pgbouncer`` is neither ``true`` nor ``false``.
    """
    given = _login_in_front(make_url(url))
    pooled = leads_to_pgbouncer(given)
    session: dict[str, str] = {"application_name": name, "timezone": "UTC"}
    connect: dict[str, Any] = {"timeout": connect_timeout_seconds, "server_settings": session}
    if pooled:
        # Two caches, SQLAlchemy's and the driver's: without both, statements are prepared without a name.
        connect |= {"prepared_statement_cache_size": 0, "statement_cache_size": 0}
    else:
        session |= _BOUNDS
    engine = create_async_engine(
        given.difference_update_query([_MARK]),
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_use_lifo=True,
        pool_timeout=30,
        json_serializer=encoded,
        json_deserializer=_read_json,
        hide_parameters=True,  # what people wrote into jobs does not belong into an error's text
        connect_args=connect,
        execution_options={_MARK: pooled},
    )
    if pooled:
        event.listen(engine.sync_engine, "begin", _set_bounds)
    _ping_the_idle(engine, ping_after_seconds)
    return engine


def _read_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:  # a whole number of more than 64 bits
        return json.loads(text)


def is_pooled(engine: AsyncEngine) -> bool:
    """Whether an engine of :func:`make_engine` goes through PgBouncer, so that nothing of a session's lasts."""
    return bool(engine.get_execution_options().get(_MARK, False))


def _set_bounds(connection: Connection) -> None:
    connection.exec_driver_sql(SET_BOUNDS)


def _ping_the_idle(engine: AsyncEngine, after_seconds: float) -> None:
    """Have the pool ask connections that lay idle; if one is broken, it and all that are as old are replaced."""
    dialect = engine.sync_engine.dialect

    def returned(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["returned_at"] = time.monotonic()

    def lent(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        returned_at = entry.info.get("returned_at")
        if returned_at is None or time.monotonic() - returned_at < after_seconds:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError("the connection was lost while it lay idle") from error

    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "checkout", lent)
