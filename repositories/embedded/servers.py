"""Both servers for as long as a ``with`` block lasts: started here, joined, or named by the environment.

The first process to ask for a data folder owns its servers; they stop when it leaves the block or dies. Later ones join
them, and leave them running. A process that joined is not asked when the owner goes: its servers then stop under it, as
any server may, and the next process to ask becomes the owner.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from repositories.embedded import postgresql, redis_server
from repositories.embedded.errors import EmbeddedInUseError, EmbeddedStartError
from repositories.embedded.folder import DataFolder
from repositories.embedded.guarded import Guard
from repositories.embedded.ownership import OwnerRecord, acquire, release
from repositories.embedded.programs import find_programs

_DATABASE = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Hides too much rather than too little: an URL from the environment may be malformed.
_PASSWORD = re.compile(r"(password=)[^&]*")


@dataclass(frozen=True)
class Servers:
    """Where PostgreSQL and Redis are. Both URLs hold passwords; ``repr`` hides them.

    Attributes:
        database_url: ``postgresql+asyncpg://...``, or the URL that was given.
        redis_url: ``redis://...``, or the URL that was given.
        owned: this process started a server, and leaving the ``with`` block stops it.
    """

    database_url: str
    redis_url: str
    owned: bool

    def __repr__(self) -> str:
        database_url, redis_url = _masked(self.database_url), _masked(self.redis_url)
        return f"Servers(database_url={database_url!r}, redis_url={redis_url!r}, owned={self.owned})"


def _masked(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = f"{scheme}{separator}{user}:***{at}{place}" if colon else url
    return _PASSWORD.sub(r"\1***", shown)


@dataclass(frozen=True)
class _Wanted:
    database_url: str | None
    redis_url: str | None
    database: str
    durable: bool
    seconds: float

    @classmethod
    def checked(
        cls, database_url: str | None, redis_url: str | None, database: str, *, durable: bool, seconds: float
    ) -> Self:
        if not _DATABASE.fullmatch(database):
            raise ValueError(
                f"database {database[:80]!r} must be 1 to 63 of a-z, 0-9 and _, and not begin with a digit"
            )
        return cls(database_url or None, redis_url or None, database, durable, seconds)

    def given(self) -> Servers | None:
        """Return the servers if both are named by their URLs."""
        if self.database_url is None or self.redis_url is None:
            return None
        return Servers(self.database_url, self.redis_url, owned=False)


@contextmanager
def embedded_servers(
    data_dir: Path,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    durable: bool = True,
    database: str = "anythingllm_worker",
    wait_seconds: float = 60.0,
) -> Iterator[Servers]:
    """Have a PostgreSQL and a Redis that let this process in, for as long as the ``with`` block lasts.

    Args:
        data_dir: the data folder, made (mode 0700) if missing; see :func:`default_data_dir`. As root, both servers run
            as the user ``postgres`` or ``nobody``, and the folder may still be anywhere, below ``/root`` too.
        database_url: a PostgreSQL to use instead; ``None`` or empty for the embedded one.
        redis_url: a Redis to use instead; ``None`` or empty for the embedded one.
        durable: keep what was stored through a power cut. ``False`` is for tests.
        database: the database to use, made if missing: 1 to 63 of ``a-z``, ``0-9`` and ``_``, not a digit first.
        wait_seconds: how long to wait for a server to come up, and for another process that is starting or stopping the
            servers of this folder.

    Yields:
        Where both are.

    Raises:
        EmbeddedNotInstalledError: a server is to be started, and the extra ``embedded`` is missing.
        EmbeddedInUseError: another process holds the folder, and its servers cannot be joined.
        EmbeddedStartError: a server did not come up, or the folder cannot be used.
        ValueError: ``database`` is no such name.
    """
    wanted = _Wanted.checked(database_url, redis_url, database, durable=durable, seconds=wait_seconds)
    if servers := wanted.given():
        yield servers
        return
    folder = DataFolder(data_dir.resolve())
    with ExitStack() as stack:
        with _alone(folder, wanted):
            servers = _join_or_start(folder, wanted, stack)
        yield servers


def running_servers(
    data_dir: Path,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    database: str = "anythingllm_worker",
    wait_seconds: float = 60.0,
) -> Servers | None:
    """Return the servers that another process runs in ``data_dir``, or ``None`` if none does; nothing is started.

    They stop with their owner. Arguments are those of :func:`embedded_servers`.

    Raises:
        EmbeddedInUseError: there is an owner, but its servers cannot be joined.
        EmbeddedStartError: the folder cannot be used.
        ValueError: ``database`` is no such name.
    """
    wanted = _Wanted.checked(database_url, redis_url, database, durable=False, seconds=wait_seconds)
    if servers := wanted.given():
        return servers
    folder = DataFolder(data_dir.resolve())
    if not folder.owner.exists():
        return None
    with _alone(folder, wanted):
        record = OwnerRecord.of_living_owner(folder.owner)
        if record is None:
            return None
        if servers := _join(folder, record, wanted):
            return servers
        raise _in_use(folder, _no_answer(folder))


@contextmanager
def _alone(folder: DataFolder, wanted: _Wanted) -> Iterator[None]:
    """Be the only one to start or join servers: who waited finds them ready, or finds none."""
    with ExitStack() as stack:
        try:
            folder.create()
            lock = acquire(folder.start_lock, seconds=wanted.seconds)
            if lock is None:
                raise _in_use(
                    folder,
                    f"it has been starting the servers for {wanted.seconds:.0f} s; look into {folder.path}/*.log",
                )
            stack.callback(release, lock)
            yield
        except OSError as error:
            raise EmbeddedStartError(
                str(error.filename or folder.path),
                f"{error.strerror or error}; is it yours, and is there room on the disk?",
            ) from error


def _join_or_start(folder: DataFolder, wanted: _Wanted, stack: ExitStack) -> Servers:
    lock = acquire(folder.servers_lock, seconds=0)
    if lock is None:
        record = OwnerRecord.of_living_owner(folder.owner)
        if record is not None and (servers := _join(folder, record, wanted)):
            return servers
        # They are on their way out, and the lock is free once the last of them is gone.
        lock = acquire(folder.servers_lock, seconds=wanted.seconds)
    if lock is None:
        raise _in_use(folder, _no_answer(folder))
    return _start(folder, wanted, lock, stack)


def _no_answer(folder: DataFolder) -> str:
    if OwnerRecord.of_living_owner(folder.owner):
        return f"its servers do not answer; stop it, and look into {folder.path}/*.log"
    return f"it is gone, but its servers have not stopped; end them by hand, and look into {folder.path}/*.log"


def _join(folder: DataFolder, record: OwnerRecord, wanted: _Wanted) -> Servers | None:
    """Return the running servers, or ``None`` if they do not let us in."""
    if not record.ready:
        return None
    database_url, redis_url = wanted.database_url, wanted.redis_url
    if wanted.durable and not record.durable:
        raise _in_use(folder, "its servers are not durable; stop it, or ask for servers that need not be durable")
    if database_url is None:
        if record.postgresql_port is None:
            raise _in_use(folder, "it runs without PostgreSQL; give this run its DATABASE_URL, or stop it")
        password = folder.password("postgresql")
        if postgresql.join(record.postgresql_port, password, wanted.database) is not None:
            return None
        database_url = postgresql.url(record.postgresql_port, password, wanted.database)
    if redis_url is None:
        if record.redis_port is None:
            raise _in_use(folder, "it runs without Redis; give this run its REDIS_URL, or stop it")
        password = folder.password("redis")
        if redis_server.ping(record.redis_port, password) is not None:
            return None
        redis_url = redis_server.url(record.redis_port, password)
    return Servers(database_url, redis_url, owned=False)


def _start(folder: DataFolder, wanted: _Wanted, lock: int, stack: ExitStack) -> Servers:
    try:
        record = OwnerRecord(pid=os.getpid(), since=datetime.now(UTC), durable=wanted.durable)
        stack.callback(release, record.publish(folder.owner))
        programs = find_programs(folder.cluster)
        guard = Guard(lock, folder.log("guardian"))
    finally:
        release(lock)  # from here on the guardian and the servers hold it
    stack.callback(guard.stop)
    database_url, redis_url = wanted.database_url, wanted.redis_url
    if redis_url is None:
        port = redis_server.start(folder, programs, guard, durable=wanted.durable, seconds=wanted.seconds)
        redis_url = redis_server.url(port, folder.password("redis"))
        record = record.model_copy(update={"redis_port": port})
    if database_url is None:
        port = postgresql.start(folder, programs, guard, durable=wanted.durable, seconds=wanted.seconds)
        password = folder.password("postgresql")
        if (refusal := postgresql.join(port, password, wanted.database)) is not None:
            raise EmbeddedStartError("PostgreSQL", f"cannot make the database {wanted.database}: {refusal}")
        database_url = postgresql.url(port, password, wanted.database)
        record = record.model_copy(update={"postgresql_port": port})
    # Let go of first when the block is left: who comes then waits for the servers to be gone instead of joining them.
    stack.callback(release, record.model_copy(update={"ready": True}).publish(folder.owner))
    return Servers(database_url, redis_url, owned=True)


def _in_use(folder: DataFolder, reason: str) -> EmbeddedInUseError:
    record = OwnerRecord.read(folder.owner)
    if record is None:
        return EmbeddedInUseError(folder.path, None, None, reason)
    return EmbeddedInUseError(folder.path, record.pid, record.since, reason)
