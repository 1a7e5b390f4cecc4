"""Parts of a transaction, and transactions that are run again.

A repository joins its caller's transaction and never commits. :func:`savepoint` marks a part of it that may fail alone;
:func:`run_in_transaction` owns a whole one and repeats it when PostgreSQL gave it up for the sake of another. Opening
and ending a single transaction is ``repositories.database``'s business.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from repositories.database import DatabaseManager
from repositories.errors import InvalidValueError, TransactionAbortedError, translated

MAX_TRIES = 20
"""The most often that one transaction is run."""

ResultT = TypeVar("ResultT")


@asynccontextmanager
async def savepoint(session: AsyncSession) -> AsyncIterator[AsyncSession]:
    """Run a part of the caller's transaction that may fail alone.

    What was written inside is undone when the block raises; what came before it stays, and the session can be used
    again. The error passes on: catch it outside the block.

    Raises:
        RepositoryError: what went wrong inside, see :func:`repositories.errors.translated`.
    """
    with translated():
        async with session.begin_nested():
            yield session


async def run_in_transaction(
    database: DatabaseManager,
    work: Callable[[AsyncSession], Awaitable[ResultT]],
    *,
    tries: int = 5,
    first_wait_seconds: float = 0.05,
    longest_wait_seconds: float = 2.0,
) -> ResultT:
    """Run ``work`` in a transaction of its own; run it again after a deadlock or a serialization failure.

    PostgreSQL rolls back everything a deadlocked transaction did, so the whole of ``work`` is repeated: it must have no
    effect outside the database. Before try ``n + 1`` it waits a random time of up to
    ``first_wait_seconds * 2 ** (n - 1)``: two that met do not meet again in step.

    Args:
        database: where to take a connection; each try takes one.
        work: is given the session; committed when it returns, rolled back when it raises or is cancelled.
        tries: how often at most, 1 to ``MAX_TRIES``.
        first_wait_seconds: bound of the first wait, more than 0.
        longest_wait_seconds: bound of every wait, at least the first one's and at most 60.

    Returns:
        What ``work`` returned.

    Raises:
        TransactionAbortedError: the last try met another transaction as well.
        InvalidValueError: ``tries`` or a wait is out of range.
    """
    if not 1 <= tries <= MAX_TRIES:
        raise InvalidValueError("tries", f"must be 1 to {MAX_TRIES}, not {tries}")
    if not 0 < first_wait_seconds <= longest_wait_seconds <= 60:  # noqa: PLR2004 - the docstring gives the bound
        raise InvalidValueError(
            "first_wait_seconds", "must be more than 0 and at most longest_wait_seconds (60 at most)"
        )

    async def once() -> ResultT:
        async with database.get_transaction() as session:
            return await work(session)

    again = AsyncRetrying(
        retry=retry_if_exception_type(TransactionAbortedError),
        stop=stop_after_attempt(tries),
        wait=wait_random_exponential(multiplier=first_wait_seconds, max=longest_wait_seconds),
        reraise=True,
    )
    return await again(once)
