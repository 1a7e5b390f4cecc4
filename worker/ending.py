"""Ending background tasks for certain."""

import asyncio
from collections.abc import Collection
from typing import Any

_AGAIN_SECONDS = 0.5


async def end_all(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel these tasks, and return once all have ended, however they did.

    A cancellation can get lost: ``asyncio.wait_for`` of Python 3.11, through which redis-py sends, drops one that comes
    when the sending is done already. So whoever has not ended is cancelled again.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
