"""What SQLAlchemy and asyncpg raise, told as errors of :mod:`repositories.errors`.

Codes and constraint names decide, never the server's message, which comes in its own language. What has no counterpart
passes through as it is: it is a fault of ours.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, UnsupportedClientFeatureError
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from repositories.errors.tree import (
    ConflictError,
    DatabaseUnavailableError,
    InvalidValueError,
    ReadOnlyError,
    RepositoryError,
    SchemaOutdatedError,
    TransactionAbortedError,
    TransactionFailedError,
)

# What a constraint means, for people. A constraint that is not here is told by its name alone.
_MEANING = {
    "uq_jobs_idempotency_key": "another job already has this idempotency key",
    "pk_jobs": "a job with this id exists already",
    "uq_workspaces_name": "a workspace with this name exists already",
}

# SQLSTATE classes of a server that is away, full or shutting down (PostgreSQL manual, appendix A): connection
# exception, insufficient resources, operator intervention.
_UNAVAILABLE_CLASSES = ("08", "53", "57")
_REPEATABLE = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_BY_STATE = {
    "25P02": TransactionFailedError,  # in failed transaction
    "25006": ReadOnlyError,  # read-only transaction
    "42P01": SchemaOutdatedError,  # undefined table
    "42703": SchemaOutdatedError,  # undefined column
}
_BAD_VALUE_CLASS = "22"  # data exception
_CONFLICT_CLASS = "23"  # integrity constraint violation

# Of what stands in the URL: neither a value of the caller's nor an outage.
_OF_THE_CONFIGURATION = (ClientConfigurationError, UnsupportedClientFeatureError)

# A lane has no SQLAlchemy between itself and the driver.
_OF_THE_DRIVER = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)

# "Key (engine, name)=(local, handbook) already exists.": the shape is the same in every language of the server.
_KEY_DETAIL = re.compile(r"\((?P<columns>.+?)\)=\((?P<value>.*)\)", re.DOTALL)
_TELLS_KEY = frozenset({"23503", "23505"})  # foreign key, unique
_LONGEST_VALUE = 200


@contextmanager
def translated() -> Iterator[None]:
    """Raise this module's errors in place of the driver's.

    Raises:
        ConflictError: a constraint was violated.
        InvalidValueError: a value does not fit its column.
        TransactionAbortedError: a deadlock, or a serialization failure.
        TransactionFailedError: an earlier statement of the transaction failed.
        ReadOnlyError: a write in a read-only session.
        DatabaseUnavailableError: the server is away or was lost in the middle of a statement.
        SchemaOutdatedError: a table or column is not there.
    """
    try:
        yield
    except PendingRollbackError as error:
        raise TransactionFailedError from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("every connection of the pool is in use") from error
    except _OF_THE_DRIVER as error:
        told = _told(error)
        if told is None:
            raise
        raise told from error


def _told(error: Exception) -> RepositoryError | None:
    """What an error of the driver means, wrapped by SQLAlchemy or not; ``None`` if it is a fault of ours."""
    if isinstance(_raised(error).__cause__ or _raised(error), _OF_THE_CONFIGURATION):
        return None
    state = str(_driver_attribute(error, "sqlstate") or "")
    if isinstance(error, IntegrityError) or state.startswith(_CONFLICT_CLASS):
        return _conflict(error)
    if state in _REPEATABLE:
        return TransactionAbortedError(state)
    if state in _BY_STATE:
        return _BY_STATE[state]()
    if _is_bad_value(error):
        return InvalidValueError("", _driver_message(error))
    if is_unavailable(error):
        return DatabaseUnavailableError(type(_raised(error)).__name__)
    return None


@contextmanager
def connecting() -> Iterator[None]:
    """Raise DatabaseUnavailableError for what asyncpg lets through while it connects: SQLAlchemy does not wrap that.

    Only around connecting: later an ``OSError`` is the caller's (a file that is not there).

    Raises:
        DatabaseUnavailableError: nobody listens there, or the server takes no connections now (it starts or stops, is
            full, or is a PgBouncer that has lost its server).
    """
    try:
        yield
    except OSError as error:
        raise DatabaseUnavailableError(type(error).__name__) from error
    except asyncpg.PostgresError as error:
        if str(error.sqlstate or "")[:2] not in _UNAVAILABLE_CLASSES:
            raise
        raise DatabaseUnavailableError(type(error).__name__) from error


def is_unavailable(error: Exception) -> bool:
    """Say whether an error of the driver means that the server is away, so that the same statement may work later."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, InterfaceError | OperationalError | asyncpg.InterfaceError) and not _is_bad_value(error):
        return True
    state = str(_driver_attribute(error, "sqlstate") or "")
    return state[:2] in _UNAVAILABLE_CLASSES


def _conflict(error: Exception) -> ConflictError:
    constraint = str(_driver_attribute(error, "constraint_name") or "")
    columns, value = str(_driver_attribute(error, "column_name") or ""), ""
    # Only a key is quoted: the detail of a CHECK or NOT NULL violation is the whole row, which is nobody's business.
    if _driver_attribute(error, "sqlstate") in _TELLS_KEY:
        key = _KEY_DETAIL.search(str(_driver_attribute(error, "detail") or ""))
        columns, value = (key["columns"], key["value"][:_LONGEST_VALUE]) if key else (columns, value)
    return ConflictError(
        constraint, _MEANING.get(constraint, "the write breaks a rule of the database"), columns, value
    )


def _is_bad_value(error: Exception) -> bool:
    """Asyncpg refuses what it cannot encode before it sends it; the server refuses the rest as a data exception."""
    raised = _raised(error)
    # The client's own DataError is no public name of asyncpg; it is the one InterfaceError that is a ValueError.
    refused_by_client = any(
        isinstance(each, asyncpg.InterfaceError) and isinstance(each, ValueError) for each in (raised, raised.__cause__)
    )
    return refused_by_client or str(_driver_attribute(error, "sqlstate") or "").startswith(_BAD_VALUE_CLASS)


def _driver_message(error: Exception) -> str:
    """The driver's sentence without the statement that SQLAlchemy adds to it."""
    cause = _raised(error).__cause__ or _raised(error)
    first = cause.args[0] if cause.args else type(cause).__name__
    return f"the database cannot take this value: {str(first)[:_LONGEST_VALUE]}"


def _driver_attribute(error: Exception, name: str) -> Any:
    """Asyncpg's own exception is the cause of the one that SQLAlchemy wraps."""
    raised = _raised(error)
    for candidate in (raised, raised.__cause__):
        value = getattr(candidate, name, None)
        if value is not None:
            return value
    return None


def _raised(error: Exception) -> BaseException:
    """What the driver raised, out of SQLAlchemy's wrapping."""
    return error.orig or error if isinstance(error, DBAPIError) else error
