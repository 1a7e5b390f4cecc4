"""Who holds a data folder: locks that the kernel frees, and the record of the owner.

A lock is an open file with ``flock`` on it. It belongs to the open file, not to a process: whoever was handed the file
holds the lock, and it is free once the last of them is gone, however they went. A forked child lets go of all locks.
"""

import fcntl
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

_held: set[int] = set()


class OwnerRecord(BaseModel):
    """The process that started the servers of a data folder.

    It keeps the file locked that holds its record, so a record is true exactly as long as its file is locked: a process
    id alone may by now be another process's, or that of one that died and was not yet collected.

    Attributes:
        pid: its process id.
        since: when it took the folder.
        durable: whether the servers keep what they stored through a power cut.
        ready: what it was asked for has come up.
        postgresql_port: ``None`` if it runs no PostgreSQL.
        redis_port: ``None`` if it runs no Redis.
    """

    model_config = ConfigDict(frozen=True)

    pid: int = Field(ge=1)
    since: AwareDatetime
    durable: bool
    ready: bool = False
    postgresql_port: int | None = Field(default=None, ge=1, le=65_535)
    redis_port: int | None = Field(default=None, ge=1, le=65_535)

    def publish(self, path: Path) -> int:
        """Put this record in ``path`` in place of another, and return the lock that keeps it true."""
        partial = path.with_name(f"{path.name}.partial")
        lock = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        _held.add(lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, self.model_dump_json().encode())
        partial.replace(path)
        return lock

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the record in ``path``, true or not, or ``None`` if there is none that can be read."""
        try:
            return cls.model_validate_json(path.read_bytes()[:4_096])
        except (FileNotFoundError, ValidationError):
            return None

    @classmethod
    def of_living_owner(cls, path: Path) -> Self | None:
        """Return the record in ``path`` if it is true."""
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return cls.read(path)
        except FileNotFoundError:
            return None
        return None


def acquire(path: Path, *, seconds: float) -> int | None:
    """Take the lock of the file ``path``, which is made if missing, waiting at most ``seconds``.

    Returns:
        The open file that holds the lock, for :func:`release`. ``None`` if another held it all the time.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    _held.add(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if seconds > 0:
            return _wait(lock, seconds)
        release(lock)
        return None
    return lock


def release(lock: int) -> None:
    """Let go of a lock; it is free unless somebody else was handed it."""
    _held.discard(lock)
    os.close(lock)


def _wait(lock: int, seconds: float) -> int | None:
    # flock wakes at the very moment the lock is free, but knows no time limit: so a thread blocks in it, and gives the
    # lock back if it gets it after all when nobody waits any more.
    taken: Future[int] = Future()

    def block() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if taken.set_running_or_notify_cancel():
            taken.set_result(lock)
        else:
            release(lock)

    threading.Thread(target=block, name="embedded-lock", daemon=True).start()
    try:
        return taken.result(seconds)
    except TimeoutError:
        return None if taken.cancel() else taken.result()
    except BaseException:
        if not taken.cancel():
            release(taken.result())
        raise


def _release_all() -> None:
    for lock in tuple(_held):
        release(lock)


os.register_at_fork(after_in_child=_release_all)
