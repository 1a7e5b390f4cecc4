"""The errors themselves: each carries its fields, and its text is made from them.

No text holds SQL, a password or a connection string. Which failure of the driver means which of them is
:mod:`repositories.errors.translation`'s business.
"""

from typing import Any, ClassVar
from uuid import UUID

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


class DatabaseStateError(RepositoryError):
    """PostgreSQL refused for a reason of its own state, not of the value: the same call may work later.

    Whatever must not be lost (the end of an attempt, a finished item) waits and is written again.
    """


class TransactionAbortedError(DatabaseStateError):
    """Another session was in the way, or time ran out; the same transaction may work now.

    Attributes:
        sqlstate: ``40P01`` (a deadlock), ``40001`` (a serialization failure), ``55P03`` (``lock_timeout``), ``57014``
            (``statement_timeout``) or another code whose standing is ``BUSY``.
    """

    _BECAUSE: ClassVar = {
        "40P01": "a deadlock",
        "55P03": "a lock that was not free within lock_timeout",
        "55006": "an object in use",
        "57014": "statement_timeout, or a person who cancelled it",
    }

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        what = self._BECAUSE.get(self.sqlstate, "a concurrent change")
        return f"PostgreSQL ended the transaction because of {what} ({self.sqlstate}): run the whole of it again"


class TransactionFailedError(RepositoryError):
    """An earlier statement of this transaction failed, so PostgreSQL takes no other one until it is rolled back."""

    def __str__(self) -> str:
        return (
            "an earlier statement of this transaction failed: roll it back, "
            "and put what may fail into repositories.transactions.savepoint"
        )


class SchemaOutdatedError(DatabaseStateError):
    """A table or column is not there: the database was not migrated to the version that this code knows."""

    def __str__(self) -> str:
        return "the database lacks a table or column that this version needs: run `worker db upgrade`"


class DatabaseRefusedError(DatabaseStateError):
    """PostgreSQL answered and refused: a right, a password, a setting or a statement is wrong.

    Attributes:
        sqlstate: the code (``42501``).
        detail: the server's sentence, cut to 200 characters, without the statement; in the server's language.
    """

    def __init__(self, sqlstate: str, detail: str) -> None:
        super().__init__(sqlstate, detail)
        self.sqlstate, self.detail = sqlstate, detail

    def __str__(self) -> str:
        code = f" ({self.sqlstate})" if self.sqlstate else ""
        return f"PostgreSQL refused: {self.detail}{code}"


class DatabaseUnavailableError(DatabaseStateError):
    """PostgreSQL did not answer, or takes nothing now; the same call may work later.

    Attributes:
        reason: the kind of failure (``ConnectionRefusedError``), never the connection string.
        sqlstate: the code of a server that answered (``57P03``, it is starting); empty where none did.
    """

    def __init__(self, reason: str, sqlstate: str = "") -> None:
        super().__init__(reason, sqlstate)
        self.reason, self.sqlstate = reason, sqlstate

    def __str__(self) -> str:
        if self.sqlstate:
            return (
                f"PostgreSQL takes nothing now ({self.reason}, {self.sqlstate}): it starts, stops, is full or recovers"
            )
        return f"PostgreSQL does not answer ({self.reason}): is it running, and is DATABASE_URL right?"


class ReadOnlyError(DatabaseUnavailableError):
    """A write where PostgreSQL only lets read: in a session that only reads, or while a failover is under way."""

    def __init__(self) -> None:
        super().__init__("read-only", "25006")
        self.args = ()

    def __str__(self) -> str:
        return (
            "PostgreSQL takes no writes here: this session only reads (write in one of get_session or "
            "get_transaction), or the server is read-only, as during a failover"
        )
