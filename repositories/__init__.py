"""Data access for the worker tier: jobs, items and workspaces in PostgreSQL, and a cache in Redis or memory.

Knows nothing of documents, questions or engines; ``worker`` imports this package, never the other way. The FastAPI
dependencies are loaded when they are first asked for, because they need the extra ``web``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from repositories.base import BaseRepository
from repositories.cache import CacheRepository
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

if TYPE_CHECKING:
    from repositories.dependencies import get_cache_repository, get_job_repository, get_read_repository

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

_NEED_WEB = {"get_cache_repository", "get_job_repository", "get_read_repository"}


def __getattr__(name: str) -> Any:
    """Load a FastAPI dependency.

    Raises:
        AttributeError: there is no such name.
        ImportError: FastAPI is not installed.
    """
    if name not in _NEED_WEB:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module("repositories.dependencies"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs FastAPI: pip install 'anythingllm-worker[web]'") from error
