"""What can go wrong in data access, as a small tree of errors that carry their fields.

::

    RepositoryError
    ├── NotFoundError              there is no such row
    ├── ConflictError              a constraint says no
    ├── InvalidTransitionError     the job is not where the caller thinks it is
    ├── SchemaOutdatedError        the database was not migrated
    └── DatabaseUnavailableError   try again later

No message holds SQL, a password or a connection string. :func:`translated` turns what SQLAlchemy and asyncpg raise into
this tree; everything else passes through, because it is a fault of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
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
    """

    def __init__(self, constraint: str, detail: str) -> None:
        super().__init__(constraint, detail)
        self.constraint, self.detail = constraint, detail

    def __str__(self) -> str:
        return f"{self.detail} ({self.constraint})" if self.constraint else self.detail


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


@contextmanager
def translated() -> Iterator[None]:
    """Raise this module's errors in place of the driver's.

    Raises:
        ConflictError: a constraint was violated.
        DatabaseUnavailableError: the server is away or was lost in the middle of a statement.
        SchemaOutdatedError: a table or column is not there.
    """
    try:
        yield
    except IntegrityError as error:
        constraint = str(_driver_attribute(error, "constraint_name") or "")
        raise ConflictError(constraint, _MEANING.get(constraint, "the write breaks a rule of the database")) from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("every connection of the pool is in use") from error
    except DBAPIError as error:
        if is_unavailable(error):
            raise DatabaseUnavailableError(type(error.orig).__name__) from error
        if _driver_attribute(error, "sqlstate") in _UNDEFINED:
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
    if error.connection_invalidated or isinstance(error, InterfaceError | OperationalError):
        return True
    state = str(_driver_attribute(error, "sqlstate") or "")
    return state[:2] in _UNAVAILABLE_CLASSES


def _driver_attribute(error: DBAPIError, name: str) -> Any:
    """Asyncpg's own exception is the cause of the one that SQLAlchemy wraps."""
    for candidate in (error.orig, getattr(error.orig, "__cause__", None)):
        value = getattr(candidate, name, None)
        if value is not None:
            return value
    return None
