"""Timing one call, counting its statements, and keeping their plans."""

import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository

Call = Callable[[JobRepository], Awaitable[Any]]
WARM_UP = 2
_LONGEST_LINE = 240  # a plan spells out arrays of five hundred ids


@dataclass(frozen=True)
class Sent:
    """A statement as it went to the driver."""

    text: str
    parameters: tuple[Any, ...]


@dataclass
class Timing:
    """Milliseconds of one operation at one size, warm, and how many statements a call sends."""

    operation: str
    runs: int
    median: float
    p95: float
    statements: int

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


@contextmanager
def noted() -> Iterator[list[Sent]]:
    """Every statement that any engine sends while the block runs."""
    sent: list[Sent] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append(Sent(statement, tuple(parameters or ())))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def summed_up(operation: str, seconds: list[float], statements: int) -> Timing:
    """Median and 95th percentile of these times."""
    ordered = sorted(1_000 * second for second in seconds)
    return Timing(
        operation,
        len(ordered),
        round(ordered[len(ordered) // 2], 3),
        round(ordered[min(len(ordered) - 1, -(-95 * len(ordered) // 100) - 1)], 3),
        statements,
    )


async def timed_reads(
    databases: Sequence[DatabaseManager], operation: str, calls: Sequence[Call], runs: int
) -> list[tuple[Timing, list[str]]]:
    """Time a call that changes nothing on each database; return its timing there and the plans of its statements.

    The databases take turns, run by run: what else the machine does meanwhile befalls all of them alike.
    """
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(database.get_session()) for database in databases]
        counted, seconds = [], [list[float]() for _ in sessions]
        for session, call in zip(sessions, calls, strict=True):
            with noted() as sent:
                await call(JobRepository(session))
            counted.append(sent)
        gc.collect()
        gc.freeze()  # a pass over what was imported would be counted as the slowest run
        for number in range(-WARM_UP, runs):
            for session, call, times in zip(sessions, calls, seconds, strict=True):
                session.expunge_all()
                began = time.perf_counter()
                await call(JobRepository(session))
                if number >= 0:
                    times.append(time.perf_counter() - began)
        return [
            (summed_up(operation, times, len(sent)), await explained(session, sent))
            for session, times, sent in zip(sessions, seconds, counted, strict=True)
        ]


async def explained(session: AsyncSession, sent: list[Sent]) -> list[str]:
    """Run these statements again and return their plans with times and buffers; the caller rolls back."""
    await session.execute(text("SELECT 1"))  # begins the transaction: the driver, asked by itself, would commit
    raw = await (await session.connection()).get_raw_connection()
    driver: Any = raw.driver_connection
    plans = []
    for statement in sent:
        if not statement.text.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "INSERT", "DELETE")):
            continue  # savepoints
        rows = await driver.fetch("EXPLAIN (ANALYZE, BUFFERS) " + statement.text, *statement.parameters)
        plans.append("\n".join(row[0][:_LONGEST_LINE] for row in rows))
    return plans
