"""What a process knows of one Redis namespace being away, and how it brings Redis back.

The memory that stands in, the journal of what Redis has to be told, the circuit, and the watcher: a task that lives
while the circuit is not closed, probes Redis (at most 5 seconds apart) and, when it answers, carries the journal over
before Redis serves another read. Only then memory forgets what it held, so that the next outage begins empty.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from repositories.cache.backend import CacheCounters
from repositories.cache.carry_over import RETURN_SECONDS, carry_over, is_first_to_return, process_token
from repositories.cache.circuit import Circuit, CircuitState
from repositories.cache.errors import CacheUnavailableError, OutageReason
from repositories.cache.journal import Journal
from repositories.cache.memory import MemoryStore
from repositories.cache.redis_store import RedisStore

MAX_FAILED_CARRIES: Final = 3
"""After so many in a row that failed although Redis answered, the namespace is cleared instead."""

BeforeReturn = Callable[[], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Outage:
    """One namespace of one Redis, as long as this process uses it; shared by every ``FallbackStore`` on it.

    It never holds the client: each call brings it.

    Attributes:
        memory: what stands in for Redis; empty while the circuit is closed.
        circuit: whether Redis is asked.
        journal: what Redis has to be told; empty while the circuit is closed.
        error: what opened the circuit last.
        before_return: awaited in order, after the carry-over and before Redis serves again.

    Args:
        memory: a namespace of memory that nothing else uses.
        counters: where hidden failures are counted.
        circuit, journal: with other bounds than the usual ones; both on the memory's clock.
        process: tells this process from the others that come back from the same outage.
    """

    def __init__(
        self,
        memory: MemoryStore,
        counters: CacheCounters,
        *,
        circuit: Circuit | None = None,
        journal: Journal | None = None,
        process: str | None = None,
    ) -> None:
        self.memory = memory
        self.circuit = circuit or Circuit(clock=memory.clock)
        self.journal = journal if journal is not None else Journal(clock=memory.clock)
        self.error: CacheUnavailableError | None = None
        self.before_return: list[BeforeReturn] = []
        self._counters = counters
        self._process = process or process_token()
        self._settling: asyncio.Event | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._told_of_credentials = False
        self._failed_carries = 0

    @property
    def redis_serves(self) -> bool:
        """Whether reads and writes go to Redis now."""
        return self.circuit.state is CircuitState.CLOSED

    def fail(self, redis: RedisStore, error: CacheUnavailableError) -> None:
        """Note that a call failed: from now on memory serves, and the watcher waits for Redis."""
        self._counters.errors += 1
        if self.circuit.fail():
            self.error, self._told_of_credentials = error, False
            _log.warning(
                "cache.redis_lost",
                namespace=redis.namespace,
                reason=error.reason.value,
                detail=error.detail,
                serving_from="memory",
            )
            self._note_credentials(redis, error)
        self._watch(redis)

    async def wait_for_turn(self, redis: RedisStore) -> None:
        """Hold a call that found Redis away: for one turn of the event loop, or until the carry-over has settled.

        Without the turn, callers who only ever find memory would never let the watcher run. Without the wait, they
        could go on writing so that the carry-over never ends; it is bounded by one ``operation_timeout``.
        """
        self._watch(redis)
        if self._settling is None:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(redis.operation_timeout):
                await self._settling.wait()

    async def try_return(self, redis: RedisStore) -> bool:
        """Probe Redis once and, if it answers, carry over and close the circuit; return whether Redis serves now.

        Never raises for Redis; what a ``before_return`` hook raises passes through, and the circuit stays open.
        """
        if not self.circuit.begin_probe():
            return self.redis_serves
        try:
            await self._carry_over(redis)
        except CacheUnavailableError as error:
            self._note_credentials(redis, error)
        finally:
            # However this ends, also cancelled: the circuit is closed, or the next probe is due.
            if self.circuit.state is CircuitState.HALF_OPEN:
                self.circuit.probe_failed()
            if self._settling is not None:
                self._settling.set()
                self._settling = None
        return self.redis_serves

    def stop(self) -> None:
        """Cancel the watcher, if its event loop still runs."""
        if self._watcher is not None and not self._watcher.done() and not self._watcher.get_loop().is_closed():
            self._watcher.cancel()
        self._watcher = None

    def _watch(self, redis: RedisStore) -> None:
        watcher = self._watcher
        if watcher is None or watcher.done() or watcher.get_loop() is not asyncio.get_running_loop():
            self._watcher = asyncio.create_task(self._bring_back(redis), name=f"cache-watch-{redis.namespace}")

    async def _bring_back(self, redis: RedisStore) -> None:
        while not self.redis_serves:
            await asyncio.sleep(self.circuit.seconds_until_probe())
            await self.try_return(redis)

    async def _carry_over(self, redis: RedisStore) -> None:
        # Nothing heard of Redis for longer than the first to return is remembered: others may have long been back.
        heard_lately = self.circuit.seconds_since_failure() < RETURN_SECONDS
        with_values = await is_first_to_return(redis, self._process) and heard_lately
        changes = patterns = 0
        cleared = called_hooks = False
        while self.journal or not called_hooks:
            if not self.journal:
                for hook in self.before_return:
                    await hook()
                called_hooks = True
                continue
            taken = self.journal.take()
            try:
                await carry_over(redis, taken, now=self.memory.clock(), with_values=with_values)
            except BaseException as error:
                self.journal.put_back(taken)
                self._note_failed_carry(error)
                raise
            self._failed_carries = 0
            changes, patterns = changes + len(taken.changes), patterns + len(taken.patterns)
            cleared = cleared or taken.overflowed
            # What came in during the first round is little; during the next, callers wait, so that it ends.
            self._settling = self._settling or asyncio.Event()
        # Nothing suspends between the look at the empty journal and this: no write can fall between the two.
        self.memory.forget()
        _log.info(
            "cache.redis_returned",
            namespace=redis.namespace,
            outage_seconds=round(self.circuit.close(), 3),
            changes=changes,
            patterns=patterns,
            cleared=cleared,
            values_kept=with_values,
        )

    def _note_failed_carry(self, error: BaseException) -> None:
        # Redis answers, but something in the journal is more than it takes: it must not stay away for that.
        self._failed_carries += isinstance(error, CacheUnavailableError)
        if self._failed_carries >= MAX_FAILED_CARRIES:
            self._failed_carries = 0
            self.journal.give_up()

    def _note_credentials(self, redis: RedisStore, error: CacheUnavailableError) -> None:
        # Once an outage, whenever in it this shows: a restart with another password begins as "unreachable".
        if error.reason is OutageReason.CREDENTIALS and not self._told_of_credentials:
            self._told_of_credentials = True
            _log.error("cache.redis_refuses_credentials", namespace=redis.namespace, detail=error.detail)
