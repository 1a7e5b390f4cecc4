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
    ├── TransactionFailedError     an earlier statement failed: roll back first
    └── DatabaseStateError         not the value's fault: the same call may work later
        ├── TransactionAbortedError    a deadlock, a lock or statement timeout: run the transaction again
        ├── SchemaOutdatedError        the database was not migrated
        ├── DatabaseRefusedError       a right, a password or a setting is wrong
        └── DatabaseUnavailableError   the server is away
            └── ReadOnlyError              a write where the server only lets read

No message holds SQL, a password or a connection string. :func:`translated` turns what SQLAlchemy and asyncpg raise into
this tree, by one table of codes (:mod:`repositories.errors.sqlstates`).
"""

from repositories.errors.sqlstates import STANDINGS, Standing, standing
from repositories.errors.translation import connecting, translated
from repositories.errors.tree import (
    ConflictError,
    DatabaseRefusedError,
    DatabaseStateError,
    DatabaseUnavailableError,
    InUseError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidTransitionError,
    InvalidValueError,
    NotFoundError,
    ProtectedFieldError,
    ReadOnlyError,
    RepositoryError,
    SchemaOutdatedError,
    StaleUpdateError,
    TransactionAbortedError,
    TransactionFailedError,
)

__all__ = [
    "STANDINGS",
    "ConflictError",
    "DatabaseRefusedError",
    "DatabaseStateError",
    "DatabaseUnavailableError",
    "InUseError",
    "InvalidCursorError",
    "InvalidFilterError",
    "InvalidTransitionError",
    "InvalidValueError",
    "NotFoundError",
    "ProtectedFieldError",
    "ReadOnlyError",
    "RepositoryError",
    "SchemaOutdatedError",
    "StaleUpdateError",
    "Standing",
    "TransactionAbortedError",
    "TransactionFailedError",
    "connecting",
    "standing",
    "translated",
]
