"""Who holds a data folder: locks that the kernel frees, and a record for people.

A lock is an open file with ``flock`` on it. It belongs to the open file, not to a process: whoever inherits the file
holds the lock, and it is free once the last of them is gone, however they went. The record says who it is; it is only
true while the lock is held.
"""

import fcntl
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError


class OwnerRecord(BaseModel):
    """The process that started the servers of a data folder.

    Attributes:
        pid: its process id.
        since: when it took the folder.
        durable: whether the servers keep what they stored through a power cut.
        postgresql_port: ``None`` until PostgreSQL is ready, or if it was not asked for.
        redis_port: ``None`` until Redis is ready, or if it was not asked for.
    """

    model_config = ConfigDict(frozen=True)

    pid: int = Field(ge=1)
    since: AwareDatetime
    durable: bool
    postgresql_port: int | None = Field(default=None, ge=1, le=65_535)
    redis_port: int | None = Field(default=None, ge=1, le=65_535)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the record in ``path``, or ``None`` if there is none that can be read."""
        try:
            return cls.model_validate_json(path.read_bytes()[:4_096])
        except (FileNotFoundError, ValidationError):
            return None


def acquire(path: Path, *, seconds: float) -> int | None:
    """Take the lock of the file ``path``, which is made if missing, waiting at most ``seconds``.

    Returns:
        The open file that holds the lock: close it to give the lock back. ``None`` if another held it all the time.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if seconds > 0:
            return _wait(lock, seconds)
        os.close(lock)
        return None
    return lock


def _wait(lock: int, seconds: float) -> int | None:
    # flock wakes at the very moment the lock is free, but knows no time limit: so a thread blocks in it, and gives the
    # lock back if it gets it after all when nobody waits any more.
    taken: Future[int] = Future()

    def block() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if taken.set_running_or_notify_cancel():
            taken.set_result(lock)
        else:
            os.close(lock)

    threading.Thread(target=block, name="embedded-lock", daemon=True).start()
    try:
        return taken.result(seconds)
    except TimeoutError:
        return None if taken.cancel() else taken.result()
    except BaseException:
        if not taken.cancel():
            os.close(taken.result())
        raise
