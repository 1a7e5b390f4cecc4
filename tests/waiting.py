"""Waiting for what tells nobody: the record and Redis are looked at until they are as they should be."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(look: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Return once ``look`` returns true.

    Raises:
        TimeoutError: it did not within ``seconds``.
    """
    async with asyncio.timeout(seconds):
        while not await look():  # noqa: ASYNC110 - another process or server changes it, and sets no event of ours
            await asyncio.sleep(0.01)
