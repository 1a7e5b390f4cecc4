"""Waiting for a server, with one log line when it begins, one a minute while it lasts, and one when it is over."""

import asyncio
import time

import structlog

log = structlog.get_logger(__name__)

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
_SAID_AGAIN_SECONDS = 60.0


class ServerWait:
    """Counts the tries of one piece of work, and pauses between them: 0.05 to 1 second.

    Args:
        waiting, recovered: the log events: a warning while it waits, an info when it is over.
        fields: stand on each of these lines.
    """

    def __init__(self, waiting: str, recovered: str, **fields: object) -> None:
        self._waiting, self._recovered = waiting, recovered
        self._fields = fields
        self._began: float | None = None
        self._said_at = 0.0
        self.failures = 0

    async def after(self, error: Exception) -> None:
        """Wait before the next try; ``error`` is why the last one failed."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if self.failures == 0 or now - self._said_at >= _SAID_AGAIN_SECONDS:
            self._said_at = now
            log.warning(self._waiting, **self._fields, reason=str(error) or type(error).__name__)
        pause = _PAUSES[min(self.failures, len(_PAUSES) - 1)]
        self.failures += 1
        await asyncio.sleep(pause)

    def over(self) -> None:
        """The work is done: say so if it had to wait."""
        if self._began is not None:
            seconds = round(time.monotonic() - self._began, 1)
            log.info(self._recovered, **self._fields, tries=self.failures + 1, seconds=seconds)
        self._began, self.failures = None, 0
