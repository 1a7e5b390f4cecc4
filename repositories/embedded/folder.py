"""The data folder: what is in it, and where it is unless somebody says otherwise.

::

    postgresql/  redis/            what the servers store (mode 0700)
    *.password  redis.conf         secrets (mode 0600), the same at every start
    *.log                          what the servers said; moved to *.log.1 at a start once past 10 MB
    owner.json  *.lock             who runs the servers

As root, the servers' own two folders belong to the user they run as, and the rest to root.
"""

import hashlib
import importlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from repositories.embedded.errors import EmbeddedNotInstalledError, EmbeddedStartError
from repositories.embedded.programs import ROOT_PLACE, ServiceUser

_MAX_LOG_BYTES = 10_000_000
_PASSWORD = re.compile(r"[0-9a-f]{48}")


def default_data_dir(project: Path) -> Path:
    """Return where the servers of ``project`` keep their data; nothing is made.

    Each folder that a project is cloned to has its own: ``<user's data folder>/anythingllm-worker/<name>-<hash>``, or
    ``/var/lib/anythingllm-worker/data/<name>-<hash>`` for root.

    Args:
        project: the project's folder.

    Raises:
        EmbeddedNotInstalledError: the extra ``embedded`` is missing.
    """
    project = project.resolve()
    digest = hashlib.sha256(os.fsencode(project)).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", project.name)[:40]
    if os.geteuid() == 0:
        return ROOT_PLACE / "data" / f"{name}-{digest}"
    try:
        platformdirs = importlib.import_module("platformdirs")
    except ModuleNotFoundError:
        raise EmbeddedNotInstalledError("platformdirs") from None
    place: Path = platformdirs.user_data_path("anythingllm-worker", appauthor=False)
    return place / f"{name}-{digest}"


@dataclass(frozen=True)
class DataFolder:
    """The paths of one data folder, and how its files are made."""

    path: Path

    @property
    def cluster(self) -> Path:
        """What PostgreSQL stores."""
        return self.path / "postgresql"

    @property
    def redis(self) -> Path:
        """What Redis stores."""
        return self.path / "redis"

    @property
    def owner(self) -> Path:
        """The record of the process that started the servers; locked as long as that process lives."""
        return self.path / "owner.json"

    @property
    def start_lock(self) -> Path:
        """Held while servers are started or joined."""
        return self.path / "start.lock"

    @property
    def servers_lock(self) -> Path:
        """Held as long as anything of the servers runs."""
        return self.path / "servers.lock"

    def create(self) -> None:
        """Make the folder, for its owner only, unless it is there."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def make_private(self, folder: Path, user: ServiceUser | None) -> None:
        """Make ``folder`` for ``user`` only, unless it is there."""
        if folder.exists():
            return
        folder.mkdir(mode=0o700)
        if user is not None:
            os.chown(folder, user.uid, user.gid, follow_symlinks=False)

    def log(self, name: str) -> Path:
        """Return the log called ``name``, moved aside first if it has grown past 10 MB."""
        log = self.path / f"{name}.log"
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(self.path / f"{name}.log.1")
        return log

    def write_private(self, name: str, text: str, user: ServiceUser | None = None) -> Path:
        """Write a file that only its owner (``user``, or this process's user) may read; never half a file."""
        path, partial = self.path / name, self.path / f"{name}.partial"
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:  # noqa: PTH123 - pathlib cannot set the mode before the first byte
            file.write(text)
            file.flush()
            if user is not None:
                os.fchown(file.fileno(), user.uid, user.gid)
            os.fsync(file.fileno())
        return partial.replace(path)

    def password_file(self, server: str) -> Path:
        """The file with the password of ``server`` (``postgresql``, ``redis``)."""
        return self.path / f"{server}.password"

    def password(self, server: str) -> str:
        """Return the password of ``server``.

        Raises:
            EmbeddedStartError: the file is gone, or holds no password of ours.
        """
        path = self.password_file(server)
        text = path.read_text().strip() if path.exists() else ""
        if not _PASSWORD.fullmatch(text):
            raise EmbeddedStartError(
                str(path),
                f"holds no password, so the data next to it cannot be opened; put the file back, or move {self.path} "
                "away to begin with an empty one",
            )
        return text

    def make_password(self, server: str, user: ServiceUser | None) -> None:
        """Make a random password for ``server``."""
        self.write_private(self.password_file(server).name, secrets.token_hex(24) + "\n", user)
