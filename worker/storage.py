"""Where uploaded bytes live between the client that takes them and the worker that reads them.

A file's key is the digest of its content, so the same content is stored once, and a key in a message says nothing about
a path. The store is a folder or anything obstore opens (S3, GCS, Azure).
"""

import hashlib
from pathlib import Path
from typing import Any

import obstore
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


class Storage:
    """Bytes by digest.

    Args:
        url: a folder (made when missing, with ``~`` and relative paths resolved) or a URL that obstore knows.

    Raises:
        ValueError: the URL cannot be opened; the message does not repeat it, as it may hold a secret.
    """

    def __init__(self, url: str) -> None:
        self._store: Any
        if "://" not in url:
            folder = Path(url).expanduser().resolve()
            self._store = LocalStore(folder, mkdir=True)
            return
        try:
            self._store = from_url(url)
        except Exception as error:
            scheme = url.split("://", 1)[0]
            raise ValueError(f"STORAGE_URL ({scheme}://…) cannot be opened: {type(error).__name__}") from error

    async def put(self, content: bytes) -> str:
        """Store ``content`` and return its digest; content that is there already is not written again."""
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            await obstore.head_async(self._store, _key(sha256))
        except (KeyNotFoundError, FileNotFoundError):
            await obstore.put_async(self._store, _key(sha256), content)
        return sha256

    async def get(self, sha256: str) -> bytes:
        """Return the bytes with this digest.

        Raises:
            StoredBytesMissingError: they are not there.
        """
        try:
            reply = await obstore.get_async(self._store, _key(sha256))
            return bytes(await reply.bytes_async())
        except (KeyNotFoundError, FileNotFoundError):
            raise StoredBytesMissingError(sha256) from None


def _key(sha256: str) -> str:
    # Two levels of folders keep a local directory listing short.
    return f"sha256/{sha256[:2]}/{sha256}"
