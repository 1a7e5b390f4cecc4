"""Parts of a transaction, what follows its end, and transactions that are run again.

A repository joins its caller's transaction and never commits. :func:`savepoint` marks a part of it that may fail alone;
:func:`when_ended` tells how all of it ended; :func:`run_in_transaction` owns a whole one and repeats it when PostgreSQL
gave it up for the sake of another. Opening and ending a single transaction is ``repositories.database``'s business.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from repositories.errors import InvalidValueError, TransactionAbortedError, translated

if TYPE_CHECKING:  # it stands above this module: hot statuses follow transactions, and it has one for the process
    from repositories.database import DatabaseManager

MAX_TRIES = 20
"""The most often that one transaction is run."""

ResultT = TypeVar("ResultT")


class Ended(Protocol):
    """Told once how a transaction ended. It must not wait for anything: whatever takes time is a task of its own."""

    def __call__(self, *, committed: bool) -> None:
        """Do what follows: ``committed`` says whether the transaction's work is in the database."""
        ...


def when_ended(session: AsyncSession, ended: Ended) -> None:
    """Have ``ended`` called when the session's transaction ends: the one under way, or the next if there is none.

    Savepoints decide nothing. When it is called, the transaction has given its connection back.
    """
    loop = asyncio.get_running_loop()
    committed = told = False

    def note_commit(inner: Session) -> None:
        nonlocal committed
        committed = committed or not inner.in_nested_transaction()  # the same event tells of savepoints

    def end(_: Session, transaction: SessionTransaction) -> None:
        nonlocal told
        if transaction.parent is None and not told:
            told = True
            loop.call_soon(forget)  # not now: the session is walking over its listeners
            ended(committed=committed)

    def forget() -> None:
        event.remove(session.sync_session, "after_commit", note_commit)
        event.remove(session.sync_session, "after_transaction_end", end)

    event.listen(session.sync_session, "after_commit", note_commit)
    event.listen(session.sync_session, "after_transaction_end", end)


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
    database: "DatabaseManager",
    work: Callable[[AsyncSession], Awaitable[ResultT]],
    *,
    autocommit: bool = False,
    tries: int = 5,
    first_wait_seconds: float = 0.05,
    longest_wait_seconds: float = 2.0,
) -> ResultT:
    """Run ``work`` in a transaction of its own; run it again if another session was in its way.

    That is a deadlock, a serialization failure, a lock or statement timeout: what becomes TransactionAbortedError.

    PostgreSQL rolls back everything a deadlocked transaction did, so the whole of ``work`` is repeated: it must have no
    effect outside the database. Before try ``n + 1`` it waits a random time of up to
    ``first_wait_seconds * 2 ** (n - 1)``: two that met do not meet again in step.

    Args:
        database: where to take a connection; each try takes one.
        work: is given the session; committed when it returns, rolled back when it raises or is cancelled.
        autocommit: ``work`` is a single statement, which commits by itself.
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
        async with database.get_autocommit() if autocommit else database.get_transaction() as session:
            return await work(session)

    again = AsyncRetrying(
        retry=retry_if_exception_type(TransactionAbortedError),
        stop=stop_after_attempt(tries),
        wait=wait_random_exponential(multiplier=first_wait_seconds, max=longest_wait_seconds),
        reraise=True,
    )
    return await again(once)
