"""The embedded Redis: how it is configured, started and joined.

Laptop-sized and on loopback. Durable, it appends every write to a file and syncs that file each second; otherwise it
keeps nothing. It never evicts a key: a queue must not lose work to make room.
"""

import signal

import redis
from redis.exceptions import RedisError

from repositories.embedded.folder import DataFolder
from repositories.embedded.guarded import Guard, Program, Run
from repositories.embedded.programs import Programs
from repositories.embedded.readiness import start_on_free_port

NAME = "Redis"
_TIMEOUT_SECONDS = 5.0


def start(folder: DataFolder, programs: Programs, guard: Guard, *, durable: bool, seconds: float) -> int:
    """Start Redis and return its port once it answers, within ``seconds``.

    Raises:
        EmbeddedStartError: it did not come up; the message shows the end of its log.
    """
    folder.make_private(folder.redis, programs.user)
    if not folder.password_file("redis").exists():
        folder.make_password("redis", None)
    password = folder.password("redis")
    log = folder.log("redis")

    def launch(port: int) -> Run:
        # Read from standard input: the password is in no argument, and the server's user need not reach the file.
        config = folder.write_private("redis.conf", _config(port, password, durable=durable))
        return guard.start(
            Program(
                NAME,
                (str(programs.redis_server), "-"),
                cwd=folder.redis,
                log=log,
                stop_signals=(signal.SIGTERM, signal.SIGKILL),
                user=programs.user,
                stdin=config,
            )
        )

    return start_on_free_port(launch, lambda port: ping(port, password), seconds=seconds)


def ping(port: int, password: str) -> str | None:
    """Return ``None`` if our Redis answers on ``port``, else why it does not (yet)."""
    try:
        with redis.Redis(
            host="127.0.0.1",
            port=port,
            password=password,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
        ) as client:
            client.ping()
    except (RedisError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def url(port: int, password: str) -> str:
    """Return the URL for clients."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _config(port: int, password: str, *, durable: bool) -> str:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": ".",  # the folder it is started in: no path to quote, and none that its user must be able to walk
        "save": '""',
        "appendonly": "yes" if durable else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "logfile": '""',
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())
