"""The owner's side of the guardian: start programs that cannot outlive this process.

A program started here ends when this process stops its :class:`Guard` or dies. What a program is and when it is ready
is the business of ``postgresql`` and ``redis_server``; ``guardian`` is the other end of the pipe.
"""

import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from repositories.embedded.errors import EmbeddedStartError
from repositories.embedded.guardian import PATIENCE_SECONDS
from repositories.embedded.programs import ServiceUser

_LAST_LINES = 5
_START_SECONDS = 10.0
# What a server needs of this process's environment; the rest holds secrets that are not its business.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class Program:
    """What to run.

    Attributes:
        name: how messages call it.
        argv: the binary and its arguments; never a password, every user of the machine can read them.
        cwd: the folder it works in.
        log: the file its output is added to.
        stop_signals: the polite signal, then the firm one (``SIGKILL`` follows).
        user: whom it runs as; ``None`` for the user of this process.
        stdin: a file it reads at once, where its password is; ``None`` for nothing.
    """

    name: str
    argv: tuple[str, ...]
    cwd: Path
    log: Path
    stop_signals: tuple[int, int]
    user: ServiceUser | None = None
    stdin: Path | None = None

    def to_json(self) -> bytes:
        """Return the line that tells the guardian to start it."""
        return json.dumps(
            {
                "name": self.name,
                "argv": self.argv,
                "env": {name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C"},
                "cwd": str(self.cwd),
                "log": str(self.log),
                "stdin": str(self.stdin or os.devnull),
                "uid": self.user and self.user.uid,
                "gid": self.user and self.user.gid,
                "stop_signals": self.stop_signals,
            }
        ).encode()


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pid: int | None = None
    error: str | None = None
    status: int | None = None


class Run:
    """One started program, and what it has written since.

    Attributes:
        program: what was started.
    """

    def __init__(self, guard: "Guard", program: Program, log_offset: int) -> None:
        self.program = program
        self._guard, self._log_offset = guard, log_offset

    def wait(self, seconds: float) -> int | None:
        """Return its exit status as soon as it has one, or ``None`` if it still runs after ``seconds``."""
        return self._guard.wait(self.program.name, seconds)

    def output(self) -> str:
        """Return what it has written to its log since it was started; at most the last 64 KiB."""
        with self.program.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, size - 65_536))
            return log.read().decode(errors="replace")

    def failure(self, reason: str) -> EmbeddedStartError:
        """Return the error that says ``reason`` and shows the end of the log."""
        lines = [line for line in self.output().splitlines() if line.strip()]
        return EmbeddedStartError(self.program.name, reason, self.program.log, tuple(lines[-_LAST_LINES:]))


class Guard:
    """A guardian process, and the pipe whose end tells it to stop what it runs.

    Args:
        lock: an open lock on the data folder. The guardian and all it starts hold it from here on.
        log: the file for what goes wrong in the guardian itself.
    """

    def __init__(self, lock: int, log: Path) -> None:
        log.touch(mode=0o600)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own file
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py")), str(lock)],
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pass_fds=(lock,),
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._events = self._process.stdin, self._process.stdout
        self._log = log
        self._unfinished = b""
        self._started: set[str] = set()
        self._statuses: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._events, selectors.EVENT_READ)
        _open_guards.add(self)

    def start(self, program: Program) -> Run:
        """Start ``program``; it runs, but need not be ready, when this returns.

        Raises:
            EmbeddedStartError: it cannot be run, or the guardian itself is gone.
        """
        for known in (self._statuses, self._errors):
            known.pop(program.name, None)
        self._started.discard(program.name)
        run = Run(self, program, program.log.stat().st_size if program.log.exists() else 0)
        try:
            self._commands.write(program.to_json() + b"\n")
        except BrokenPipeError:
            raise self._gone() from None
        deadline = time.monotonic() + _START_SECONDS
        while program.name not in self._started:
            if program.name in self._errors:
                raise EmbeddedStartError(program.name, f"cannot be run: {self._errors[program.name]}")
            if time.monotonic() > deadline:
                raise EmbeddedStartError(program.name, f"the guardian did not start it within {_START_SECONDS:.0f} s")
            self._receive(0.1)
        return run

    def wait(self, name: str, seconds: float) -> int | None:
        """Return the exit status of the program called ``name``, or ``None`` if it still runs after ``seconds``.

        Raises:
            EmbeddedStartError: the guardian itself is gone.
        """
        deadline = time.monotonic() + seconds
        while name not in self._statuses and (left := deadline - time.monotonic()) > 0:
            self._receive(left)
        return self._statuses.get(name)

    def stop(self) -> None:
        """Stop every program and return when all are gone; at most the guardian's patience and a moment.

        Raises:
            EmbeddedStartError: something could not be stopped, not even by ``SIGKILL``.
        """
        _open_guards.discard(self)
        self._commands.close()
        try:
            self._process.wait(sum(PATIENCE_SECONDS) + 5)
        except subprocess.TimeoutExpired:
            raise EmbeddedStartError("guardian", f"process {self._process.pid} does not end; end it by hand") from None
        finally:
            self._selector.close()
            self._events.close()

    def forget(self) -> None:
        """Let go of the pipe in a forked child, which would otherwise keep it open beyond the owner's death."""
        self._commands.close()

    def _receive(self, seconds: float) -> None:
        if not self._selector.select(seconds):
            return
        received = os.read(self._events.fileno(), 65_536)
        if not received:
            raise self._gone()
        *lines, self._unfinished = (self._unfinished + received).split(b"\n")
        for line in lines:
            event = _Event.model_validate_json(line)
            if event.pid is not None:
                self._started.add(event.name)
            if event.error is not None:
                self._errors[event.name] = event.error
            if event.status is not None:
                self._statuses[event.name] = event.status

    def _gone(self) -> EmbeddedStartError:
        return EmbeddedStartError(
            "guardian", f"process {self._process.pid} ended and its servers with it; start again, and see {self._log}"
        )


_open_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def _forget_all() -> None:
    for guard in list(_open_guards):
        guard.forget()


os.register_at_fork(after_in_child=_forget_all)
