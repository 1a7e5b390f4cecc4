"""What can go wrong in data access, as a small tree of errors that carry their fields.

::

    RepositoryError
    ├── NotFoundError              there is no such row
    ├── ConflictError              a constraint says no
    ├── StaleUpdateError           the row changed since the caller read it
    ├── InvalidTransitionError     the job is not where the caller thinks it is
    ├── ProtectedFieldError        this field has a method of its own
    ├── InUseError                 the row cannot be deleted now
    ├── InvalidValueError          a value that its column cannot take (also a ValueError)
    │   ├── InvalidFilterError     an unknown field or operator, or a value of the wrong type
    │   └── InvalidCursorError     this text is no cursor of this list
    ├── TransactionAbortedError    a deadlock or a serialization failure: run the transaction again
    ├── TransactionFailedError     an earlier statement failed: roll back first
    ├── SchemaOutdatedError        the database was not migrated
    └── DatabaseUnavailableError   try again later

No message holds SQL, a password or a connection string. :func:`translated` turns what SQLAlchemy and asyncpg raise into
this tree; everything else passes through, because it is a fault of ours.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from repositories.states import JobStatus


class RepositoryError(Exception):
    """The base of every error of this package."""


class NotFoundError(RepositoryError):
    """There is no such row; text that is no valid id is simply not found.

    Attributes:
        kind: what was looked for (``job``).
        id: the id as the caller gave it.
    """

    def __init__(self, kind: str, id: Any) -> None:  # noqa: A002 - the field's public name
        super().__init__(kind, id)
        self.kind, self.id = kind, id

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.id!s}"


class ConflictError(RepositoryError):
    """A constraint of the database refused the write; nothing was written.

    Attributes:
        constraint: the constraint's name (``uq_jobs_idempotency_key``), empty where the database gave none.
        detail: what clashed, in words.
        columns: the columns that clashed (``engine, name``), empty where the database does not tell.
        value: what was to be written there, as text cut to 200 characters; empty likewise.
    """

    def __init__(self, constraint: str, detail: str, columns: str = "", value: str = "") -> None:
        super().__init__(constraint, detail, columns, value)
        self.constraint, self.detail, self.columns, self.value = constraint, detail, columns, value

    def __str__(self) -> str:
        where = f": {self.columns} = {self.value}" if self.value else f": {self.columns}" if self.columns else ""
        return f"{self.detail}{where} ({self.constraint})" if self.constraint else f"{self.detail}{where}"


class StaleUpdateError(RepositoryError):
    """The row changed since the caller read it; nothing was written.

    Attributes:
        kind: what was to be changed (``job``).
        id: its id as the caller gave it.
        expected, found: the version the caller had read, and the version on the record.
    """

    def __init__(self, kind: str, id: Any, expected: int, found: int) -> None:  # noqa: A002 - the field's public name
        super().__init__(kind, id, expected, found)
        self.kind, self.id, self.expected, self.found = kind, id, expected, found

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.id!s} changed meanwhile: version {self.expected} was expected and {self.found} found; "
            "read it again, then decide"
        )


class InvalidTransitionError(RepositoryError):
    """A job could not move because of where it stands; nothing was written for it.

    Attributes:
        job_id: the job that was left as it was.
        found, wanted: the state it is in, and the state it was asked to move to.
        found_attempt, held_attempt: the attempt on the record; the caller's, ``None`` for a person's request.
    """

    def __init__(
        self, job_id: UUID, found: JobStatus, wanted: JobStatus, found_attempt: int, held_attempt: int | None = None
    ) -> None:
        super().__init__(job_id, found, wanted, found_attempt, held_attempt)
        self.job_id, self.found, self.wanted = job_id, found, wanted
        self.found_attempt, self.held_attempt = found_attempt, held_attempt

    def __str__(self) -> str:
        if self.held_attempt is None:
            return f"job {self.job_id} is {self.found} and cannot become {self.wanted}"
        return (
            f"job {self.job_id}: attempt {self.held_attempt} no longer owns it (now {self.found}, attempt "
            f"{self.found_attempt}), so {self.wanted} was not recorded; stop this task"
        )


class ProtectedFieldError(RepositoryError):
    """A field that is not edited, because something else decides it; nothing was written.

    Attributes:
        kind: what was to be edited (``job``).
        field: the field's public name.
        instead: what to do, in words that follow "instead:".
    """

    def __init__(self, kind: str, field: str, instead: str) -> None:
        super().__init__(kind, field, instead)
        self.kind, self.field, self.instead = kind, field, instead

    def __str__(self) -> str:
        return f"{self.field} of a {self.kind} is not edited; instead: {self.instead}"


class InUseError(RepositoryError):
    """A row that cannot be deleted as it stands; nothing was deleted, of a batch neither.

    Attributes:
        kind: what was to be deleted (``job``).
        id: the row in the way.
        reason: why it is needed, in words.
        instead: what to do, in words.
    """

    def __init__(self, kind: str, id: Any, reason: str, instead: str) -> None:  # noqa: A002 - the field's public name
        super().__init__(kind, id, reason, instead)
        self.kind, self.id, self.reason, self.instead = kind, id, reason, instead

    def __str__(self) -> str:
        return f"{self.kind} {self.id!s} cannot be deleted: {self.reason}; {self.instead}"


class InvalidValueError(RepositoryError, ValueError):
    """A value that cannot be stored or compared as asked; nothing was sent or written.

    Attributes:
        field: the column's public name, empty where only the driver noticed and does not tell.
        detail: what is wrong, and what would be right.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(field, detail)
        self.field, self.detail = field, detail

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}" if self.field else self.detail


class InvalidFilterError(InvalidValueError):
    """A filter or an order that cannot be: unknown field, unknown operator, or a value of the wrong type."""


class InvalidCursorError(InvalidValueError):
    """A text that is no cursor of this list in this order; begin again without one."""


class TransactionAbortedError(RepositoryError):
    """PostgreSQL gave up this transaction so that another could go on; the same transaction may work now.

    Attributes:
        sqlstate: ``40P01`` (a deadlock) or ``40001`` (a serialization failure).
    """

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        what = "a deadlock" if self.sqlstate == "40P01" else "a concurrent change"
        return f"PostgreSQL ended the transaction because of {what} ({self.sqlstate}): run the whole of it again"


class TransactionFailedError(RepositoryError):
    """An earlier statement of this transaction failed, so PostgreSQL takes no other one until it is rolled back."""

    def __str__(self) -> str:
        return (
            "an earlier statement of this transaction failed: roll it back, "
            "and put what may fail into repositories.transactions.savepoint"
        )


class SchemaOutdatedError(RepositoryError):
    """A table or column is not there: the database was not migrated to the version that this code knows."""

    def __str__(self) -> str:
        return "the database lacks a table or column that this version needs: run `worker db upgrade`"


class DatabaseUnavailableError(RepositoryError):
    """PostgreSQL did not answer; the same call may work later.

    Attributes:
        reason: the kind of failure (``ConnectionRefusedError``), never the connection string.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"PostgreSQL does not answer ({self.reason}): is it running, and is DATABASE_URL right?"


# What a constraint means, for people. A constraint that is not here is told by its name alone.
_MEANING = {
    "uq_jobs_idempotency_key": "another job already has this idempotency key",
    "pk_jobs": "a job with this id exists already",
    "uq_workspaces_name": "a workspace with this name exists already",
}

# SQLSTATE classes of a server that is away, full or shutting down (PostgreSQL manual, appendix A): connection
# exception, insufficient resources, operator intervention.
_UNAVAILABLE_CLASSES = ("08", "53", "57")
_UNDEFINED = frozenset({"42P01", "42703"})  # table, column
_REPEATABLE = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_FAILED = "25P02"  # in failed transaction
_BAD_VALUE_CLASS = "22"  # data exception

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
        DatabaseUnavailableError: the server is away or was lost in the middle of a statement.
        SchemaOutdatedError: a table or column is not there.
    """
    try:
        yield
    except IntegrityError as error:
        raise _conflict(error) from error
    except PendingRollbackError as error:
        raise TransactionFailedError from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("every connection of the pool is in use") from error
    except DBAPIError as error:
        state = str(_driver_attribute(error, "sqlstate") or "")
        if state in _REPEATABLE:
            raise TransactionAbortedError(state) from error
        if state == _FAILED:
            raise TransactionFailedError from error
        if _is_bad_value(error):
            raise InvalidValueError("", _driver_message(error)) from error
        if is_unavailable(error):
            raise DatabaseUnavailableError(type(error.orig).__name__) from error
        if state in _UNDEFINED:
            raise SchemaOutdatedError from error
        raise


@contextmanager
def connecting() -> Iterator[None]:
    """Raise DatabaseUnavailableError for the socket's own errors, which asyncpg lets through while it connects.

    Only around connecting: later an ``OSError`` is the caller's (a file that is not there).
    """
    try:
        yield
    except OSError as error:
        raise DatabaseUnavailableError(type(error).__name__) from error


def is_unavailable(error: DBAPIError) -> bool:
    """Say whether ``error`` means that the server is away, so that the same statement may work later."""
    if error.connection_invalidated:
        return True
    if isinstance(error, InterfaceError | OperationalError) and not _is_bad_value(error):
        return True
    state = str(_driver_attribute(error, "sqlstate") or "")
    return state[:2] in _UNAVAILABLE_CLASSES


def _conflict(error: IntegrityError) -> ConflictError:
    constraint = str(_driver_attribute(error, "constraint_name") or "")
    columns, value = str(_driver_attribute(error, "column_name") or ""), ""
    # Only a key is quoted: the detail of a CHECK or NOT NULL violation is the whole row, which is nobody's business.
    if _driver_attribute(error, "sqlstate") in _TELLS_KEY:
        key = _KEY_DETAIL.search(str(_driver_attribute(error, "detail") or ""))
        columns, value = (key["columns"], key["value"][:_LONGEST_VALUE]) if key else (columns, value)
    return ConflictError(
        constraint, _MEANING.get(constraint, "the write breaks a rule of the database"), columns, value
    )


def _is_bad_value(error: DBAPIError) -> bool:
    """Asyncpg refuses what it cannot encode before it sends it; the server refuses the rest as a data exception."""
    cause = getattr(error.orig, "__cause__", None)
    # The client's own DataError is no public name of asyncpg; it is the one InterfaceError that is a ValueError.
    refused_by_client = isinstance(cause, asyncpg.InterfaceError) and isinstance(cause, ValueError)
    return refused_by_client or str(_driver_attribute(error, "sqlstate") or "").startswith(_BAD_VALUE_CLASS)


def _driver_message(error: DBAPIError) -> str:
    """The driver's sentence without the statement that SQLAlchemy adds to it."""
    cause = getattr(error.orig, "__cause__", None) or error.orig
    first = cause.args[0] if cause is not None and cause.args else type(cause).__name__
    return f"the database cannot take this value: {str(first)[:_LONGEST_VALUE]}"


def _driver_attribute(error: DBAPIError, name: str) -> Any:
    """Asyncpg's own exception is the cause of the one that SQLAlchemy wraps."""
    for candidate in (error.orig, getattr(error.orig, "__cause__", None)):
        value = getattr(candidate, name, None)
        if value is not None:
            return value
    return None
