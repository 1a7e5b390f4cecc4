"""Where uploaded bytes live between the client that takes them and the worker that reads them."""

from worker.storage.errors import StorageUnavailableError, StoredBytesMissingError, TooLargeError
from worker.storage.store import Storage, Stored
from worker.storage.sweeping import Swept

__all__ = [
    "Storage",
    "StorageUnavailableError",
    "Stored",
    "StoredBytesMissingError",
    "Swept",
    "TooLargeError",
]
