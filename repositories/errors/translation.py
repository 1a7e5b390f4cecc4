"""What SQLAlchemy and asyncpg raise, told as errors of :mod:`repositories.errors`.

Codes (:mod:`repositories.errors.sqlstates`) and constraint names decide, never the server's message, which comes in its
own language. Nothing of the driver passes through: its text would hold the statement.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, UnsupportedClientFeatureError
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from repositories.errors.sqlstates import READ_ONLY, Standing, standing
from repositories.errors.tree import (
    ConflictError,
    DatabaseRefusedError,
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

# Codes whose meaning is narrower than their standing.
_BY_STATE: dict[str, Callable[[], RepositoryError]] = {
    "25P02": TransactionFailedError,  # in failed transaction
    READ_ONLY: ReadOnlyError,
    "42P01": SchemaOutdatedError,  # undefined table
    "42703": SchemaOutdatedError,  # undefined column
}

# Of what stands in the URL: neither a value of the caller's nor an outage.
_OF_THE_CONFIGURATION = (ClientConfigurationError, UnsupportedClientFeatureError)

# A lane has no SQLAlchemy between itself and the driver.
_OF_THE_DRIVER = (StatementError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# "Key (engine, name)=(local, handbook) already exists.": the shape is the same in every language of the server.
_KEY_DETAIL = re.compile(r"\((?P<columns>[^()]++)\)=\((?P<value>.*)\)", re.DOTALL)
_CONFLICT_CLASS = "23"  # integrity constraint violation
_TELLS_KEY = frozenset({"23503", "23505"})  # foreign key, unique
_LONGEST_VALUE = 200


@contextmanager
def translated() -> Iterator[None]:
    """Raise this module's errors in place of the driver's.

    Raises:
        ConflictError: a constraint was violated.
        InvalidValueError: a value does not fit its column.
        TransactionAbortedError: a deadlock, a serialization failure, a lock or statement timeout.
        TransactionFailedError: an earlier statement of the transaction failed.
        ReadOnlyError: a write where the server only lets read.
        DatabaseUnavailableError: the server is away or was lost in the middle of a statement.
        SchemaOutdatedError: a table or column is not there.
        DatabaseRefusedError: the server refused for another reason: rights, a password, a setting.
    """
    try:
        yield
    except PendingRollbackError as error:
        raise TransactionFailedError from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("every connection of the pool is in use") from error
    except _OF_THE_DRIVER as error:
        if isinstance(_driver_error(error), _OF_THE_CONFIGURATION):
            raise
        raise _told(error) from error


def _told(error: Exception) -> RepositoryError:
    """What an error of the driver means, wrapped by SQLAlchemy or not."""
    state = str(_driver_attribute(error, "sqlstate") or "")
    if state in _BY_STATE:
        return _BY_STATE[state]()
    if isinstance(error, IntegrityError) or state.startswith(_CONFLICT_CLASS):
        return _conflict(error)
    if _is_refused_by_client(error):
        return InvalidValueError("", _driver_message(error))
    if _is_lost(error):
        return DatabaseUnavailableError(type(_driver_error(error)).__name__, state)
    match standing(state):
        case Standing.NEVER:
            return InvalidValueError("", _driver_message(error))
        case Standing.BUSY:
            return TransactionAbortedError(state)
        case Standing.AWAY:
            return DatabaseUnavailableError(type(_driver_error(error)).__name__, state)
        case Standing.OURS:
            return DatabaseRefusedError(state, _driver_sentence(error))


@contextmanager
def connecting() -> Iterator[None]:
    """Raise our errors for what asyncpg raises while it connects: SQLAlchemy does not wrap that.

    Only around connecting: later an ``OSError`` is the caller's (a file that is not there).

    Raises:
        DatabaseUnavailableError: nothing listens there, or the server takes no connections now (it starts or stops, is
            full, or is a PgBouncer that has lost its server).
        DatabaseRefusedError: the server refused: a wrong password, no such database.
    """
    try:
        with translated():
            yield
    except OSError as error:
        raise DatabaseUnavailableError(type(error).__name__) from error


def _is_lost(error: Exception) -> bool:
    """Whether the driver says that the connection is gone, which has no code of the server's."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if str(_driver_attribute(error, "sqlstate") or ""):
        return False
    return isinstance(error, InterfaceError | OperationalError | asyncpg.InterfaceError | asyncpg.InternalClientError)


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


def _is_refused_by_client(error: Exception) -> bool:
    """Whether SQLAlchemy or asyncpg could not encode a value, so that nothing was sent."""
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return True
    # The client's own DataError is no public name of asyncpg; it is the one InterfaceError that is a ValueError.
    raised = _raised(error)
    return any(
        isinstance(each, asyncpg.InterfaceError) and isinstance(each, ValueError) for each in (raised, raised.__cause__)
    )


def _driver_message(error: Exception) -> str:
    return f"the database cannot take this value: {_driver_sentence(error)}"


def _driver_sentence(error: Exception) -> str:
    """The driver's sentence without the statement that SQLAlchemy adds to it."""
    cause = _driver_error(error)
    return str(cause.args[0] if cause.args else type(cause).__name__)[:_LONGEST_VALUE]


def _driver_error(error: Exception) -> BaseException:
    raised = _raised(error)
    return raised.__cause__ or raised


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
    return error.orig or error if isinstance(error, StatementError) else error
