"""Data access for the worker tier: jobs, items and workspaces in PostgreSQL, and a cache in Redis or memory.

Knows nothing of documents, questions or engines; ``worker`` imports this package, never the other way. Each name is
loaded when it is first asked for: a process that needs one module of the package (a parser needs the errors of a job)
starts without SQLAlchemy's other half and Redis, and the FastAPI dependencies need the extra ``web``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repositories.base import BaseRepository
    from repositories.cache import CacheRepository
    from repositories.dependencies import get_cache_repository, get_job_repository, get_read_repository
    from repositories.errors import (
        ConflictError,
        DatabaseUnavailableError,
        InvalidTransitionError,
        NotFoundError,
        RepositoryError,
        StaleUpdateError,
    )
    from repositories.items import ItemRepository
    from repositories.jobs import JobRepository
    from repositories.schemas import JobCreate, JobFilters, JobUpdate, PaginationParams
    from repositories.states import JobStatus, JobType
    from repositories.workspaces import WorkspaceRepository

__all__ = [
    "BaseRepository",
    "CacheRepository",
    "ConflictError",
    "DatabaseUnavailableError",
    "InvalidTransitionError",
    "ItemRepository",
    "JobCreate",
    "JobFilters",
    "JobRepository",
    "JobStatus",
    "JobType",
    "JobUpdate",
    "NotFoundError",
    "PaginationParams",
    "RepositoryError",
    "StaleUpdateError",
    "WorkspaceRepository",
    "get_cache_repository",
    "get_job_repository",
    "get_read_repository",
]

_HOMES = {
    "base": ("BaseRepository",),
    "cache": ("CacheRepository",),
    "dependencies": ("get_cache_repository", "get_job_repository", "get_read_repository"),
    "errors": (
        *("ConflictError", "DatabaseUnavailableError", "InvalidTransitionError", "NotFoundError", "RepositoryError"),
        "StaleUpdateError",
    ),
    "items": ("ItemRepository",),
    "jobs": ("JobRepository",),
    "schemas": ("JobCreate", "JobFilters", "JobUpdate", "PaginationParams"),
    "states": ("JobStatus", "JobType"),
    "workspaces": ("WorkspaceRepository",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module.

    Raises:
        AttributeError: there is no such name.
        ImportError: it is a FastAPI dependency, and FastAPI is not installed.
    """
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"repositories.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if _HOME_OF[name] != "dependencies":
            raise
        raise ImportError(f"{name} needs FastAPI: pip install 'anythingllm-worker[web]'") from error
    globals()[name] = value
    return value
