"""How many items of a run are done at a time, beside those that only wait for something to be done for many."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

MOST_ASIDE = 500
"""Items that may wait aside at a time, beside those that have a slot."""

_HELD: ContextVar["_Held"] = ContextVar("_HELD")


class _Held:
    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free: asyncio.Semaphore | None = free

    def release(self) -> None:
        if self._free is not None:
            self._free.release()
            self._free = None


class ItemSlots:
    """Slots of one run.

    Args:
        most: how many there are (1 or more).
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a slot while the block lasts, or until it steps aside."""
        await self._free.acquire()
        held = _Held(self._free)
        before = _HELD.set(held)
        try:
            yield
        finally:
            _HELD.reset(before)
            held.release()


def step_aside() -> None:
    """Give the slot of this item back: what is left to do for it is to wait, and to write down how it ended."""
    _HELD.get().release()
