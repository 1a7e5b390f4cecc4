"""Hot statuses that follow the record: what a transaction moved is read again and written once it is committed.

While one round of reading and writing is under way the next gathers, so a burst of commits costs a few statements, not
one each.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from repositories.errors import RepositoryError, connecting, translated
from repositories.filters import any_of
from repositories.hot_status.scripts import Mark
from repositories.hot_status.view import STATUS_COLUMNS, JobStatusView
from repositories.models import Job
from repositories.transactions import when_ended

_CHUNK = 5_000

_log = structlog.get_logger(__name__)


class _Write(Protocol):
    async def __call__(self, views: Sequence[JobStatusView], *, gone: Collection[UUID], since: Mark | None) -> None: ...


class Following:
    """What has been committed and is still to be written.

    Args:
        mark: what is known of the epoch now.
        watched: tells which jobs somebody watches; never raises for Redis.
        write: writes statuses; never raises for Redis.
        missed: notes that statuses could not be written.
    """

    def __init__(
        self,
        mark: Callable[[], Mark],
        watched: Callable[[Sequence[UUID]], Awaitable[Sequence[UUID]]],
        write: _Write,
        missed: Callable[[Collection[UUID]], Awaitable[None]],
    ) -> None:
        self._mark, self._watched, self._write, self._missed = mark, watched, write, missed
        self._moving: Counter[UUID] = Counter()
        self._noted: dict[Engine, set[UUID]] = {}
        self._writer: asyncio.Task[None] | None = None

    def moves(self, job_id: UUID) -> bool:
        """Whether a change of this job is committed and not written yet."""
        return self._moving[job_id] > 0

    def note(self, session: AsyncSession, ids: Iterable[UUID]) -> None:
        """Have these jobs written once the session's transaction is committed."""
        moved = set(ids)
        if not moved:
            return
        noted: set[UUID] | None = session.info.get(self)
        if noted is None:
            noted = session.info[self] = set()
            engine = session.get_bind().engine
            when_ended(session, lambda *, committed: self._ended(engine, session.info.pop(self), committed=committed))
        noted |= moved

    async def settled(self) -> None:
        """Wait until all is written."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait({self._writer})

    def _ended(self, engine: Engine, ids: set[UUID], *, committed: bool) -> None:
        if not committed:
            return
        noted = self._noted.setdefault(engine, set())
        self._moving.update(ids - noted)
        noted |= ids
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_all(), name="hot-status")

    async def _write_all(self) -> None:
        while self._noted:
            engine, noted = self._noted.popitem()
            try:
                ids = sorted(noted)
                for start in range(0, len(ids), _CHUNK):
                    await self._follow(engine, ids[start : start + _CHUNK])
            finally:
                self._moving -= Counter(noted)

    async def _follow(self, engine: Engine, moved: Sequence[UUID]) -> None:
        ids = await self._watched(moved)
        if not ids:
            return
        since = self._mark()
        try:
            with translated():
                async with AsyncSession(AsyncEngine(engine)) as session:
                    with connecting():
                        await session.connection()
                    rows = await session.execute(select(*STATUS_COLUMNS).where(any_of(Job.id, ids)))
            views = [JobStatusView.of(row) for row in rows]
        except RepositoryError as error:
            _log.warning("hot_status.not_followed", jobs=len(ids), reason=str(error))
            await self._missed(ids)
            return
        await self._write(views, gone=set(ids) - {view.id for view in views}, since=since)
