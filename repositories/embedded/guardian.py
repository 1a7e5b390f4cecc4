"""The process that stops the embedded servers once their owner is gone, whichever way it went.

It is the parent of PostgreSQL and Redis, and holds a pipe from their owner. When that pipe ends (a clean exit, a crash,
``kill -9``), it stops what it started: politely, then firmly, all within ``sum(PATIENCE_SECONDS)``. If this process is
killed too, Linux itself sends each server its polite signal. Terminal signals reach neither it nor the servers, so that
Ctrl-C lets the owner finish its work first.

It runs by path (``python -I -S guardian.py LOCK_FD``) and uses the standard library only, so that it is up in 40 ms.
Every server inherits ``LOCK_FD``, the lock on the data folder: the kernel frees that lock when the last of them is
gone, and not before.

Owner to guardian, one JSON object a line: a program to start (``name, argv, env, cwd, log, stdin, uid, gid,
stop_signals``). Guardian to owner, likewise: ``{"name", "pid"}`` started, ``{"name", "error"}`` could not be started,
``{"name", "status"}`` exited (negative: the signal that killed it).
"""

import contextlib
import ctypes
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

# The polite signal, then the firm one, then SIGKILL. PostgreSQL may need seconds for its last checkpoint; stopped
# before that is done, it recovers from its log at the next start and loses nothing.
PATIENCE_SECONDS = (4.0, 1.5, 0.5)
_PR_SET_PDEATHSIG = 1


class Guardian:
    """What was started, and how each is stopped."""

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stop_signals: dict[str, list[int]] = {}
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        # Signals end up in a pipe, so that one select waits for them and for the owner alike.
        self._signalled, write_end = os.pipe()
        os.set_blocking(self._signalled, False)
        os.set_blocking(write_end, False)
        # A handler that does nothing, not SIG_IGN: what is ignored here would stay ignored in the servers.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signalled, selectors.EVENT_READ)

    def serve(self) -> None:
        """Start what the owner asks for and report exits, until the owner is gone; then stop everything."""
        self._selector.register(0, selectors.EVENT_READ)
        unfinished = b""
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fd != 0:
                        self._drain_signals()
                        continue
                    received = os.read(0, 65_536)
                    if not received:
                        return
                    *lines, unfinished = (unfinished + received).split(b"\n")
                    for line in lines:
                        self._start(json.loads(line))
                self._report_exits()
        finally:
            self._selector.unregister(0)
            self._stop()

    def _start(self, program: dict[str, Any]) -> None:
        name, polite = program["name"], program["stop_signals"][0]
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        try:
            with open(os.open(program["log"], flags, 0o600), "wb") as log, open(program["stdin"], "rb") as stdin:  # noqa: PTH123 - pathlib costs this process a third of its start
                started = subprocess.Popen(  # noqa: S603 - the owner names the programs, through a pipe only it holds
                    program["argv"],
                    cwd=program["cwd"],
                    env=program["env"],
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    user=program["uid"],
                    group=program["gid"],
                    extra_groups=None if program["uid"] is None else [],
                    umask=0o077,
                    pass_fds=(self._lock,),
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                    preexec_fn=functools.partial(self._stop_with_guardian, os.getpid(), polite),  # noqa: PLW1509 - this process has one thread
                )
        except (OSError, subprocess.SubprocessError) as error:
            _report(name=name, error=str(error))
            return
        self._running[name], self._stop_signals[name] = started, program["stop_signals"]
        _report(name=name, pid=started.pid)

    def _stop_with_guardian(self, guardian: int, polite: int) -> None:
        # Runs in the child, after it became the other user: a change of user clears this setting.
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, polite, 0, 0, 0)
        if os.getppid() != guardian:
            os._exit(1)

    def _drain_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):  # another signal's wake-up was read with this one's
            os.read(self._signalled, 4_096)

    def _report_exits(self) -> None:
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[name]
                _report(name=name, status=process.returncode)

    def _stop(self) -> None:
        self._report_exits()
        for step, patience in enumerate(PATIENCE_SECONDS):
            for name, process in self._running.items():
                signals = [*self._stop_signals[name], signal.SIGKILL, signal.SIGKILL]
                # The whole group: initdb works through children of its own. It may have ended just now, and macOS then
                # says that it may not be signalled.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signals[step])
            deadline = time.monotonic() + patience
            while self._running and (left := deadline - time.monotonic()) > 0:
                self._selector.select(left)
                self._drain_signals()
                self._report_exits()


def _report(**event: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner is gone; there is nobody left to tell
        os.write(1, json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    Guardian(int(sys.argv[1])).serve()
