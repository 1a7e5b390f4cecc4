"""Doing together what many ask for at about the same time.

A lone asker waits for nobody: the group is complete when nobody else is on the way. Otherwise it waits until the group
is as large as wanted, or its first asker has waited long enough. One group may be under way while the next gathers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gathering(Generic[T, R]):
    """One kind of call, for groups.

    Args:
        do: does it for a group; returns a result, or the error to be raised, for each of its members in their order. An
            error that it raises itself is everybody's.
        most: how large a group is wanted now (1 or more).
        is_alone: whether nobody else is on the way, so that waiting is in vain.
        seconds: how long the first asker of a group waits at most.
        at_once: groups under way at the same time (1 or more).
    """

    def __init__(
        self,
        do: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        most: Callable[[], int],
        is_alone: Callable[[], bool],
        seconds: float,
        at_once: int,
    ) -> None:
        self._do, self._most, self._is_alone, self._seconds = do, most, is_alone, seconds
        self._free = asyncio.Semaphore(at_once)
        self._waiting: list[tuple[T, asyncio.Future[R], float]] = []
        self._changed = asyncio.Event()
        self._gathering: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, and nothing is under way."""
        return not self._waiting and not self._under_way

    async def ask(self, thing: T) -> R:
        """Have it done with a group, and return what came of it."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((thing, answer, time.monotonic()))
        self.look()
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await answer

    def look(self) -> None:
        """Look again whether the group is complete: somebody came, or is not on the way any more."""
        self._changed.set()

    async def aclose(self) -> None:
        """Give up what waits and what is under way."""
        tasks = [task for task in (self._gathering, *self._under_way) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, answer, _ in self._waiting:
            answer.cancel()
        self._waiting.clear()

    async def _gather(self) -> None:
        while self._waiting:
            await self._complete()
            await self._free.acquire()
            most = max(1, self._most())
            group, self._waiting = self._waiting[:most], self._waiting[most:]
            wanted = [(thing, answer) for thing, answer, _ in group if not answer.done()]  # the others were cancelled
            task = asyncio.create_task(self._carry_out(wanted))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    async def _complete(self) -> None:
        """Wait until the group that gathers is complete."""
        while True:
            self._changed.clear()
            left = self._waiting[0][2] + self._seconds - time.monotonic()
            if left <= 0 or len(self._waiting) >= self._most() or self._is_alone():
                return
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _carry_out(self, group: Sequence[tuple[T, "asyncio.Future[R]"]]) -> None:
        if not group:
            return
        try:
            results: Sequence[R | Exception] = await self._do([thing for thing, _ in group])
        except asyncio.CancelledError:
            for _, answer in group:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            results = [error] * len(group)
        for (_, answer), result in zip(group, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._free.release()
        self.look()
