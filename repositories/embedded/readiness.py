"""Starting a server on a free loopback port, and waiting until it answers.

Ready means that a client got in with our password, so it is our server and not another one on that port. Nothing here
knows which server it is.
"""

import functools
import socket
import time
from collections.abc import Callable

from repositories.embedded.guarded import Run

_PORT_TRIES = 5
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.25


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_on_free_port(launch: Callable[[int], Run], refusal: Callable[[int], str | None], *, seconds: float) -> int:
    """Start a server and return its port once it lets a client in.

    Args:
        launch: starts the server on the port given.
        refusal: ``None`` if the server on that port let us in, else why it did not.
        seconds: how long to wait, at most.

    Raises:
        EmbeddedStartError: the server ended, or did not let us in within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_PORT_TRIES):
        port = free_port()
        run = launch(port)
        status = _exit_before_ready(run, functools.partial(refusal, port), deadline)
        if status is None:
            return port
        if "Address already in use" not in run.output():
            raise run.failure(f"ended with status {status} before it was ready")
    raise run.failure(f"another program took its port {_PORT_TRIES} times in a row; start again")


def _exit_before_ready(run: Run, refusal: Callable[[], str | None], deadline: float) -> int | None:
    """Return ``None`` once the server is ready, or the status it ended with before that."""
    pause, why = _FIRST_PAUSE_SECONDS, "not tried yet"
    while (left := deadline - time.monotonic()) > 0:
        # The pause between two tries ends at once if the server does.
        status = run.wait(min(pause, left))
        if status is not None:
            return status
        answer = refusal()
        if answer is None:
            return None
        pause, why = min(pause * 1.5, _LONGEST_PAUSE_SECONDS), answer
    raise run.failure(f"did not let a client in within the time given ({why})")
