"""Every way to use this package, as code that runs: read the modules in this order, or run them all.

* :mod:`~repositories.examples.service`: a service between an API and the repositories.
* :mod:`~repositories.examples.app`: the same behind FastAPI, with the dependencies injected.
* :mod:`~repositories.examples.records`: transactions, errors, bulk writes, pages, idempotency keys, parents.
* :mod:`~repositories.examples.caching`: cache-aside, write-through, invalidation, health, clean-up.

``python -m repositories.examples`` starts a PostgreSQL and a Redis of its own, runs every pattern and prints what each
did. ``create_app`` is loaded when it is first asked for, because it needs the extra ``web``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from repositories.examples.service import RepositoryService

if TYPE_CHECKING:
    from repositories.examples.app import create_app

__all__ = ["RepositoryService", "create_app"]


def __getattr__(name: str) -> Any:
    """Load ``create_app``.

    Raises:
        AttributeError: there is no such name.
        ImportError: FastAPI is not installed.
    """
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module("repositories.examples.app").create_app
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs FastAPI: pip install 'anythingllm-worker[web]'") from error
