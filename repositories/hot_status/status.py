"""Job statuses in Redis: written over older ones only, read many at once, believed only within their epoch.

The record is PostgreSQL; this is a copy that saves asking it. A copy may be missing at any time, so nothing here raises
for Redis: a read without it finds nothing, and a write without it leaves the copies to be outdated.

Four things keep a copy from being older than what was committed before it was read:

- *Order.* A status is written only if (version, items finished, progress) is not older than what stands there.
- *Epoch.* Each copy bears the epoch it was written in, and is believed only in that one. A new one begins when Redis
  comes back to a process that could not write meanwhile, when Redis itself was started anew, when it was emptied, and
  when it knows less than it told any process that asks: then an older copy of its data was loaded into it.
- *Mark.* A writer says what it knew of the epoch *before* it asked PostgreSQL (:attr:`HotStatus.mark`). If that is no
  longer so, what it read may be outdated, and bars the way to older copies instead of becoming one.
- *Note.* Who looks for a status and finds none leaves a note, and what it then reads from PostgreSQL is written only if
  that note still stands. A transition that finds neither note nor status has nobody to tell and writes nothing.

Between a commit and its write lies a round trip, in which other processes may still read the copy before it. A process
that is killed in between leaves that copy for as long as it lives.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.broken_keys import tell
from repositories.cache import CacheUnavailableError, FallbackBackend
from repositories.cache.redis_store import OPERATION_TIMEOUT_SECONDS
from repositories.hot_status.calls import Call, Calls, in_parts, own_key
from repositories.hot_status.following import Following
from repositories.hot_status.scripts import READ, RENEW, WATCHED, WRITE, Mark, Script, evaluate
from repositories.hot_status.view import JobStatusChange, JobStatusView, from_hash

LIVE_LIFETIME: Final = timedelta(seconds=10)
FINAL_LIFETIME: Final = timedelta(minutes=2)
MAX_IDS: Final = 10_000
"""The most jobs of one read."""

Load = Callable[[Sequence[UUID]], Awaitable[Iterable[Any]]]
"""Asks PostgreSQL for jobs: returns rows that :meth:`JobStatusView.of` takes; what does not exist is left out."""


class HotStatus:
    """Hot statuses in one namespace of a Redis. One a process: it remembers what it knows of the epoch.

    Args:
        redis: a ``redis.asyncio.Redis``, which stays the caller's to close, or the backend of a cache on it.
        namespace: the cache's, whose keys ``job:{id}`` every write deletes; that of the backend, if one is given.
        live_lifetime: how long a status that is not final is kept (10 s).
        final_lifetime: how long one that is final is kept (2 min): who asks later is
            answered from PostgreSQL, which writes it again.
        operation_timeout: seconds that one call may take before Redis counts as away (1.0); a backend has its own.
    """

    def __init__(
        self,
        redis: Redis | FallbackBackend,
        *,
        namespace: str = "cache",
        live_lifetime: timedelta = LIVE_LIFETIME,
        final_lifetime: timedelta = FINAL_LIFETIME,
        operation_timeout: float = OPERATION_TIMEOUT_SECONDS,
    ) -> None:
        self._backend = (
            redis
            if isinstance(redis, FallbackBackend)
            else FallbackBackend(redis, namespace=namespace, operation_timeout=operation_timeout)
        )
        self._calls = Calls(self._backend.redis.store, live_lifetime, final_lifetime)
        self._known = Mark()
        self._missed = self._made_good = 0
        self._following = Following(lambda: self._known, self.watched, self.write, self.missed)
        self._backend.before_return(self._renew)

    @property
    def mark(self) -> Mark:
        """What this process knows of the epoch now; to be taken before PostgreSQL is asked for what will be written."""
        return self._known

    async def write(
        self, views: Sequence[JobStatusView], *, gone: Collection[UUID] = (), since: Mark | None = None
    ) -> None:
        """Write whole statuses of jobs that somebody watches, each unless a newer one stands there.

        Deletes the callers' keys ``job:{id}`` of all of them. One round trip for any number. Never raises for Redis,
        and waits for it no longer than the operation timeout.

        Args:
            views: as PostgreSQL had them at ``since`` or later, and committed.
            gone: jobs that were deleted.
            since: :attr:`mark`, taken before PostgreSQL was asked; without it, what is known now.
        """
        calls = self._calls.write(views, gone, self._known if since is None else since)
        await self._write(calls, [*(view.id for view in views), *gone])

    async def advance(self, changes: Sequence[JobStatusChange], *, since: Mark | None = None) -> None:
        """Write what transitions changed onto what stands there; where nothing does, readers ask PostgreSQL.

        One round trip, and a second one if something stands there of any of these jobs. Otherwise as :meth:`write`.

        Raises:
            ValueError: a change is none of a transition, or of a field that does not change.
        """
        mark = self._known if since is None else since
        watched = set(await self.watched([change.job_id for change in changes]))
        if watched:
            standing = [change for change in changes if change.job_id in watched]
            await self._write(self._calls.advance(standing, mark), [*watched])

    async def watched(self, ids: Sequence[UUID]) -> list[UUID]:
        """Return those of these jobs whose status somebody asked for lately, and delete the callers' keys of all.

        It is also how a writer gets a :attr:`mark` that lets it write what it reads from now on. Never raises for
        Redis: without it nobody is watched, and nothing that was written before will be believed.
        """
        calls = self._calls.watched(ids, self._known)
        if not calls:
            return []
        try:
            answers = await self._evaluate(WATCHED, calls)
        except CacheUnavailableError:  # who opened the circuit has logged it
            await self.missed(ids)
            return []
        return [
            part[place - 1] for part, answer in zip(in_parts(ids), answers, strict=True) for place in Mark.rest(answer)
        ]

    def _took(self, answers: Iterable[Any]) -> None:
        """Learn the mark from the answers to scripts, and say what they moved aside."""
        for answer in answers:
            self._known = Mark.of(answer).after(self._known)
            tell(Mark.moved(answer))

    async def missed(self, ids: Collection[UUID]) -> None:
        """Note that a write of these jobs did not reach Redis: nothing that was written before will be believed.

        If Redis is there a new epoch begins now, else before it serves this process again. Never raises for Redis.
        """
        self._missed += 1
        # From the memory that stands in for Redis, too, and from there out of Redis before it serves again.
        for part in in_parts(list(ids)):
            await self._backend.delete_many(map(own_key, part))
        await self._in_step()

    async def read(self, ids: Collection[UUID]) -> dict[UUID, JobStatusView]:
        """Return the statuses that stand in Redis, in one round trip; what is not whole or may be outdated is left out.

        Never from memory: without Redis it is ``{}``.

        Raises:
            ValueError: more than ``MAX_IDS`` (10,000).
        """
        wanted = list(dict.fromkeys(ids))
        if len(wanted) > MAX_IDS:
            raise ValueError(f"cannot read the status of {len(wanted)} jobs at once: at most {MAX_IDS}")
        # What this process has committed and is still writing is outdated there, also if it is written by the answer.
        wanted = [job_id for job_id in wanted if not self._following.moves(job_id)]
        if not wanted or not await self._in_step():
            return {}
        try:
            answers = await self._evaluate(READ, self._calls.read(wanted, self._known))
        except CacheUnavailableError:
            return {}
        found: dict[UUID, JobStatusView] = {}
        for part, answer in zip(in_parts(wanted), answers, strict=True):
            for job_id, values in zip(part, Mark.rest(answer), strict=True):
                view = None if values is None else from_hash(job_id, values)
                if view is not None:
                    found[job_id] = view
        return found

    async def get_many(self, ids: Collection[UUID], load: Load) -> dict[UUID, JobStatusView]:
        """Return the statuses of these jobs: from Redis, and what is missing there with one call of ``load``.

        What was loaded is written back. Jobs that do not exist are left out.

        Args:
            ids: at most ``MAX_IDS``.
            load: asked once for all that is missing, if anything is; on the primary, not on a replica.

        Raises:
            ValueError: too many ids.
            RepositoryError: whatever ``load`` raised.
        """
        found = await self.read(ids)
        missing = [job_id for job_id in dict.fromkeys(ids) if job_id not in found]
        if not missing:
            return found
        since = self._known
        loaded = [JobStatusView.of(row) for row in await load(missing)]
        if loaded and await self._in_step():
            with suppress(CacheUnavailableError):  # nothing there is outdated by that
                await self._evaluate(WRITE, self._calls.write(loaded, (), since, own_keys=False))
        return found | {view.id: view for view in loaded}

    async def invalidate_workspace(self, workspace_id: str) -> None:
        """Outdate all that stands there of one workspace's jobs: for who changed their rows past the repositories."""
        try:
            await self._evaluate(RENEW, [self._calls.renew(self._known, workspace_id)])
        except CacheUnavailableError:
            await self.missed([])

    def note(self, session: AsyncSession, ids: Iterable[UUID]) -> None:
        """Have these jobs written through once the session's transaction is committed; a rollback does nothing.

        The repositories call it for every job they move. One statement reads what a commit moved, one write follows;
        until then this process reads those jobs from PostgreSQL.
        """
        self._following.note(session, ids)

    async def settled(self) -> None:
        """Wait until every write that a commit began has ended."""
        await self._following.settled()

    async def _write(self, calls: Sequence[Call], ids: Sequence[UUID]) -> None:
        if not calls:
            return
        try:
            await self._evaluate(WRITE, calls)
        except CacheUnavailableError:  # who opened the circuit has logged it
            await self.missed(ids)

    async def _evaluate(self, script: Script, calls: Sequence[Call]) -> list[list[Any]]:
        answers = await self._backend.on_redis(lambda redis: evaluate(redis.store, script, calls))
        self._took(answers)
        return answers

    async def _in_step(self) -> bool:
        """Whether every write that Redis missed is made good; tries to, now."""
        if self._missed != self._made_good:
            with suppress(CacheUnavailableError):
                await self._backend.on_redis(lambda _: self._renew())
        return self._missed == self._made_good

    async def _renew(self) -> None:
        """Begin a new epoch. It is also the hook that runs before Redis serves again, and then it may raise."""
        missed = self._missed  # what is missed from here on needs another one
        self._took(await evaluate(self._backend.redis.store, RENEW, [self._calls.renew(self._known)]))
        self._made_good = max(self._made_good, missed)
