"""How commands run: Ctrl-C ends one for certain."""

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from worker.cli.context import run


def test_ctrl_c_ends_a_command_though_a_library_swallowed_the_cancellation() -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        with suppress(asyncio.CancelledError):  # as asyncio.wait_for of Python 3.11 may, through which redis-py sends
            await asyncio.sleep(30)
        await asyncio.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        run(work())


def test_what_a_command_returns_or_raises_passes_through() -> None:
    async def answer() -> int:
        return 3

    async def fail() -> None:
        raise LookupError

    assert run(answer()) == 3
    with pytest.raises(LookupError):
        run(fail())
