"""Data access for the worker tier: jobs, items and workspaces in PostgreSQL, and a cache in Redis or memory.

Knows nothing of documents, questions or engines; ``worker`` imports this package, never the other way.
"""

from repositories.base import BaseRepository
from repositories.cache import CacheRepository
from repositories.errors import (
    ConflictError,
    DatabaseUnavailableError,
    InvalidTransitionError,
    NotFoundError,
    RepositoryError,
)
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.workspaces import WorkspaceRepository

__all__ = [
    "BaseRepository",
    "CacheRepository",
    "ConflictError",
    "DatabaseUnavailableError",
    "InvalidTransitionError",
    "ItemRepository",
    "JobRepository",
    "NotFoundError",
    "RepositoryError",
    "WorkspaceRepository",
]
