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
    ├── ReadOnlyError              a write in a session that only reads
    ├── SchemaOutdatedError        the database was not migrated
    └── DatabaseUnavailableError   try again later

No message holds SQL, a password or a connection string. :func:`translated` turns what SQLAlchemy and asyncpg raise into
this tree; everything else passes through, because it is a fault of ours.
"""

from repositories.errors.translation import connecting, is_unavailable, translated
from repositories.errors.tree import (
    ConflictError,
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
    "ConflictError",
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
    "TransactionAbortedError",
    "TransactionFailedError",
    "connecting",
    "is_unavailable",
    "translated",
]
