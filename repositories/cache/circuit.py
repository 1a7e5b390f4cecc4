"""Whether Redis is asked at all: a circuit that opens at the first failure and tries again with growing pauses.

It opens at the first failure, not the third: a write that failed may or may not have reached Redis, so Redis must not
serve another read before that key is put right. Only states and times live here; who probes, and what is put right
before it closes, is :mod:`repositories.cache.fallback`'s affair.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

FIRST_PROBE_SECONDS: Final = 0.1
LONGEST_PROBE_SECONDS: Final = 5.0


class CircuitState(StrEnum):
    """``closed``: Redis serves. ``open``: memory does. ``half_open``: memory does, and Redis is being tried."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Circuit:
    """One Redis as one process sees it.

    Attributes:
        state: starts ``closed``.
        failed_at: when Redis last failed, on ``clock``; ``None`` before the first time.

    Args:
        first_probe_seconds: from the failure to the first probe (0.1); doubled after each probe that fails.
        longest_probe_seconds: at most so long between two probes (5.0).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        first_probe_seconds: float = FIRST_PROBE_SECONDS,
        longest_probe_seconds: float = LONGEST_PROBE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < first_probe_seconds <= longest_probe_seconds:
            raise ValueError(
                f"probes need 0 < first ({first_probe_seconds}) <= longest ({longest_probe_seconds}) seconds"
            )
        self.state = CircuitState.CLOSED
        self.failed_at: float | None = None
        self._first, self._longest, self._clock = first_probe_seconds, longest_probe_seconds, clock
        self._pause = first_probe_seconds
        self._opened_at = self._probe_at = clock()

    def fail(self) -> bool:
        """Note that a call failed; return whether that opened the circuit.

        A call sent before the circuit opened may fail long after; it changes neither a probe in progress nor its pause.
        """
        self.failed_at = self._clock()
        if self.state is not CircuitState.CLOSED:
            return False
        self.state = CircuitState.OPEN
        self._pause = self._first
        self._opened_at = self.failed_at
        self._probe_at = self.failed_at + self._pause
        return True

    def seconds_until_probe(self) -> float:
        """Return how long to wait before it is worth trying Redis; 0.0 if it is now."""
        return max(0.0, self._probe_at - self._clock())

    def begin_probe(self) -> bool:
        """Go from ``open`` to ``half_open``; return ``False``, and change nothing, if the circuit is not open."""
        if self.state is not CircuitState.OPEN:
            return False
        self.state = CircuitState.HALF_OPEN
        self._probe_at = self._clock() + self._pause
        return True

    def probe_failed(self) -> None:
        """Go back to ``open``, with the next pause twice as long."""
        self.failed_at = self._clock()
        self.state = CircuitState.OPEN
        self._pause = min(self._pause * 2, self._longest)
        self._probe_at = self.failed_at + self._pause

    def close(self) -> float:
        """Let Redis serve again; return how many seconds it did not."""
        self.state = CircuitState.CLOSED
        return self._clock() - self._opened_at

    def seconds_since_failure(self) -> float:
        """Return how long ago Redis is known to have been gone; 0.0 if it never was."""
        return 0.0 if self.failed_at is None else self._clock() - self.failed_at
