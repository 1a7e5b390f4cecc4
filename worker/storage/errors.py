"""What can go wrong with stored bytes, and the one place where errors of the object store become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError
from obstore.exceptions import NotFoundError as KeyNotFoundError

# What obstore raises for a key that is not there: the built-in one in newer versions, its own in older ones.
MISSING = (KeyNotFoundError, FileNotFoundError)


class StoredBytesMissingError(Exception):
    """The bytes of a file are not in storage (any more).

    Attributes:
        sha256: the digest that was asked for.
    """

    def __init__(self, sha256: str) -> None:
        super().__init__(sha256)
        self.sha256 = sha256

    def __str__(self) -> str:
        return f"the bytes {self.sha256[:12]}… are not in storage: does this worker see the STORAGE_URL of the client?"


class StorageUnavailableError(Exception):
    """The store did not do what was asked: away, full, or not ours to write.

    Attributes:
        reason: the kind of failure; never the URL, which may hold a secret.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the storage does not answer ({self.reason}): is STORAGE_URL right, is there room, may it be written?"


class TooLargeError(Exception):
    """A stream held more bytes than it may; nothing of it was kept.

    Attributes:
        max_bytes: how many it might have held.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return f"there are more than {self.max_bytes:,} bytes: split the file, or raise the limit"


@contextmanager
def translated(*, missing: bool = False) -> Iterator[None]:
    """Turn what the store raises into :class:`StorageUnavailableError`.

    Args:
        missing: a key may be missing, and that passes as one of ``MISSING``. Otherwise it is the bucket that is not
            there.

    Raises:
        StorageUnavailableError: the store did not do what was asked within.
    """
    try:
        yield
    except MISSING as error:
        if missing:
            raise
        raise StorageUnavailableError("NotFound") from error
    except (BaseError, OSError) as error:
        raise StorageUnavailableError(type(error).__name__) from error


@contextmanager
def reading(sha256: str) -> Iterator[None]:
    """The same where bytes are read that should be there.

    Args:
        sha256: their digest.

    Raises:
        StoredBytesMissingError: they are not there.
        StorageUnavailableError: the store did not do what was asked within.
    """
    try:
        with translated(missing=True):
            yield
    except MISSING:
        raise StoredBytesMissingError(sha256) from None
