"""Where uploaded bytes live between the client that takes them and the worker that reads them.

A file's key is the digest of its content, so the same content is stored once, and a key in a message says nothing about
a path. The store is a folder or anything obstore opens (S3, GCS, Azure).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.exceptions import NotFoundError as KeyNotFoundError
from obstore.store import LocalStore, from_url


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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KeyNotFoundError, FileNotFoundError):
        raise
    except (BaseError, OSError) as error:
        raise StorageUnavailableError(type(error).__name__) from error


class Storage:
    """Bytes by digest.

    Args:
        url: a folder (made when missing, with ``~`` and relative paths resolved) or a URL that obstore knows.

    Raises:
        StorageUnavailableError: the folder or URL cannot be opened; the message does not repeat it.
    """

    def __init__(self, url: str) -> None:
        self._store: Any
        try:
            if "://" in url:
                self._store = from_url(url)
            else:
                self._store = LocalStore(Path(url).expanduser().resolve(), mkdir=True)
        except (BaseError, OSError, ValueError) as error:
            raise StorageUnavailableError(type(error).__name__) from error

    async def put(self, content: bytes) -> str:
        """Store ``content`` and return its digest; content that is there already is not written again.

        Raises:
            StorageUnavailableError: it could not be stored.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        with _translated():
            try:
                await obstore.head_async(self._store, _key(sha256))
            except (KeyNotFoundError, FileNotFoundError):
                await obstore.put_async(self._store, _key(sha256), content)
        return sha256

    async def get(self, sha256: str) -> bytes:
        """Return the bytes with this digest.

        Raises:
            StoredBytesMissingError: they are not there.
            StorageUnavailableError: the store does not answer.
        """
        try:
            with _translated():
                reply = await obstore.get_async(self._store, _key(sha256))
                return bytes(await reply.bytes_async())
        except (KeyNotFoundError, FileNotFoundError):
            raise StoredBytesMissingError(sha256) from None


def _key(sha256: str) -> str:
    # Two levels of folders keep a local directory listing short.
    return f"sha256/{sha256[:2]}/{sha256}"
