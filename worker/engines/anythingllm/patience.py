"""Making a call again after trouble that passes: a few times, with growing pauses of random length.

Whoever makes a call that must not be done twice looks first what the last one did; the number of the try says when.
"""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from worker.engines.anythingllm.errors import TroubleError

P = ParamSpec("P")
T = TypeVar("T")
_LOG = structlog.get_logger(__name__)


class Patience:
    """How often something is tried, and how long the pauses are.

    Args:
        tries: in all, 1 or more.
        first_seconds: bound on the first pause; each next bound is twice as long.
        longest_seconds: bound on every pause.
    """

    def __init__(self, tries: int = 4, first_seconds: float = 0.25, longest_seconds: float = 5.0) -> None:
        self._tries, self._first, self._longest = tries, first_seconds, longest_seconds

    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``function`` returns: for calls that may be made again as they are.

        Raises:
            EngineUnavailableError: every try met trouble; it names the last. Where that trouble has an error of its own
                for the case that it stays, that one is raised.
        """
        return await self.run(lambda _: function(*args, **kwargs))

    async def run(self, work: Callable[[int], Awaitable[T]]) -> T:
        """Return what ``work`` returns; it is given the number of the try, from 1.

        Raises:
            EngineUnavailableError: every try met trouble; see :meth:`call`.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._tries),
            wait=wait_random_exponential(multiplier=self._first, max=self._longest),
            retry=retry_if_exception_type(TroubleError),
            before_sleep=_note,
            reraise=True,
        )
        number = 0

        async def once() -> T:
            nonlocal number
            number += 1
            return await work(number)

        try:
            return await retrying(once)
        except TroubleError as error:
            raise error.lasting(f" (tried {self._tries} times)") from error


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    reason = error.reason if isinstance(error, TroubleError) else "unknown"
    pause = state.next_action.sleep if state.next_action is not None else 0.0
    _LOG.warning("engine.repeated", reason=reason, tried=state.attempt_number, pause_seconds=round(pause, 3))
