"""Real PostgreSQL and Redis from PyPI wheels, for the first run, the examples and the tests.

:func:`embedded_servers` starts both on loopback in a data folder, keeps what they store between runs, and stops them
with the process that started them, however that process ends. :func:`running_servers` finds those of another process.
Importing this package needs no wheel; starting a server needs the extra ``embedded``.
"""

from repositories.embedded.errors import (
    EmbeddedInUseError,
    EmbeddedNotInstalledError,
    EmbeddedServersError,
    EmbeddedStartError,
)
from repositories.embedded.folder import default_data_dir
from repositories.embedded.servers import Servers, embedded_servers, running_servers

__all__ = [
    "EmbeddedInUseError",
    "EmbeddedNotInstalledError",
    "EmbeddedServersError",
    "EmbeddedStartError",
    "Servers",
    "default_data_dir",
    "embedded_servers",
    "running_servers",
]
