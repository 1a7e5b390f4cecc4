"""The one error of the cache that is no fault of the calling code, and how redis-py's many become it."""

from enum import StrEnum
from typing import Final

from redis import exceptions

from repositories.errors import RepositoryError


class OutageReason(StrEnum):
    """Why Redis cannot serve us; a closed set, for logs and metrics."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CREDENTIALS = "credentials"
    LOADING = "loading"
    READ_ONLY = "read_only"
    OUT_OF_MEMORY = "out_of_memory"
    REFUSED = "refused"


class CacheUnavailableError(RepositoryError):
    """Redis did not do what was asked; whether it was done all the same is not known.

    ``RedisBackend`` alone raises it. ``FallbackBackend``, and so ``CacheRepository(client)``, never does.

    Attributes:
        reason: one of :class:`OutageReason`.
        detail: one line for a person; never holds keys, values or passwords.
    """

    def __init__(self, reason: OutageReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"Redis cannot serve the cache ({self.reason}): {self.detail}"


# Narrowest first: all of these are RedisErrors, and credentials and loading are ConnectionErrors too.
_REASONS: Final[tuple[tuple[type[Exception], OutageReason], ...]] = (
    (exceptions.AuthenticationError, OutageReason.CREDENTIALS),
    (exceptions.AuthorizationError, OutageReason.CREDENTIALS),
    (exceptions.NoPermissionError, OutageReason.CREDENTIALS),
    (exceptions.BusyLoadingError, OutageReason.LOADING),
    (exceptions.ReadOnlyError, OutageReason.READ_ONLY),
    (exceptions.OutOfMemoryError, OutageReason.OUT_OF_MEMORY),
    (exceptions.TimeoutError, OutageReason.TIMEOUT),
    (exceptions.ConnectionError, OutageReason.UNREACHABLE),
    (OSError, OutageReason.UNREACHABLE),
    (exceptions.RedisError, OutageReason.REFUSED),
)


def translated(error: Exception) -> Exception:
    """Return what the layer above is told; a pipeline's message may quote values, so only the kind goes on."""
    if isinstance(error, exceptions.ResponseError) and str(error).startswith("WRONGTYPE"):
        return TypeError("the cache key holds another Redis type than this command works on")
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    if reason is OutageReason.UNREACHABLE:
        return CacheUnavailableError(reason, str(error))
    if reason is OutageReason.CREDENTIALS:
        detail = f"it refuses our credentials ({type(error).__name__}); check user, password and ACL of REDIS_URL"
        return CacheUnavailableError(reason, detail)
    return CacheUnavailableError(reason, type(error).__name__)
