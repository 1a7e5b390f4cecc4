"""One load of a missing value for everyone who waits for it, within this process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs at most one load a key at a time; callers who come meanwhile get its result.

    The first caller runs the load in its own task. If the load fails, everyone waiting gets its error, and nothing is
    remembered. If the first caller is cancelled, one of those waiting starts again in its place.
    """

    def __init__(self) -> None:
        self._landing: dict[str, asyncio.Future[T]] = {}

    async def run(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """Return what ``load`` returns, ours or that of whoever is loading this key already."""
        while (landing := self._landing.get(key)) is not None:
            # Not the future itself: cancelling one who waits would cancel it for all.
            await asyncio.wait([landing])
            if not landing.cancelled():
                return landing.result()
        landing = self._landing[key] = asyncio.get_running_loop().create_future()
        try:
            result = await load()
        except asyncio.CancelledError:
            landing.cancel()
            raise
        except BaseException as error:
            landing.set_exception(error)
            landing.exception()  # we raise it ourselves: unread by others, it must not be reported as lost
            raise
        else:
            landing.set_result(result)
            return result
        finally:
            del self._landing[key]
