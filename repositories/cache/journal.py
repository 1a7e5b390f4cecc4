"""What was done to a namespace while Redis was gone, in as few words as carry it over.

Of each key only the sum is kept, of each invalidation its pattern; to carry a journal over is to remove what the
patterns match and then apply the changes. What Redis holds is not known meanwhile, so a counter is a difference, a
conditional write stays conditional, and a new lifetime is just that.

A journal that outgrows its bounds forgets everything and asks for the whole namespace to be cleared instead: a cold
cache is slow, a wrong one is wrong.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from repositories.cache.codec import Codec
from repositories.cache.glob import compile_glob
from repositories.cache.limits import LARGEST_INTEGER, SMALLEST_INTEGER

MAX_CHANGES: Final = 10_000
MAX_CHANGE_BYTES: Final = 32 * 1024 * 1024
MAX_PATTERNS: Final = 256
_EVERYTHING: Final = "*"


class Base(StrEnum):
    """What a change does to the value, before it counts on it or gives it a lifetime."""

    PUT = "put"
    PUT_IF_ABSENT = "put_if_absent"
    DROP = "drop"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Change:
    """The sum of what was done to one key: first ``base``, then ``amount``, then ``renewed_to``.

    Attributes:
        base: put a value, put it if there is none, drop what is there, or keep it.
        value: what to put.
        ends_at: when the lifetime of ``value`` ends, on the journal's clock; ``None`` for never.
        amount: how far to move the counter afterwards; 0 still makes one, ``None`` does not.
        renewed_to: when whatever is there then ends; ``None`` leaves its lifetime alone. (Given to a key that Redis
            does not hold, it should do nothing, but a counter begun after keeps it: it may end early, never late.)
    """

    base: Base
    value: bytes = b""
    ends_at: float | None = None
    amount: int | None = None
    renewed_to: float | None = None

    def then(self, later: "Change") -> "Change":
        """Return the one change that does what this one and then ``later`` do, whatever Redis holds."""
        match later.base:
            case Base.PUT | Base.DROP:
                return later
            case Base.PUT_IF_ABSENT:
                # Noted only if memory had nothing and said "stored": unless Redis may hold a value of before the
                # outage, which then is to stay, that is a plain put.
                return later if self.base is Base.PUT_IF_ABSENT else replace(later, base=Base.PUT)
            case Base.KEEP:
                return _renewed(_counted(self, later.amount), later.renewed_to)

    def at(self, now: float) -> "Change | None":
        """Return what is left of this change at ``now``, its lifetimes taken into account; ``None`` for nothing."""
        if self.renewed_to is not None and self.renewed_to <= now:
            return Change(Base.DROP)
        if self.ends_at is None or self.ends_at > now:
            return self
        if self.base is Base.PUT:
            return Change(Base.DROP)
        # The value of a conditional put is over; if Redis held another one, that one was counted and renewed.
        if self.amount is None and self.renewed_to is None:
            return None
        return replace(self, base=Base.KEEP, value=b"", ends_at=None)


class Journal:
    """Changes by key and patterns in order, bounded.

    Attributes:
        changes: what to apply, after the patterns.
        patterns: globs whose matches to remove, before the changes.
        overflowed: the bounds were passed, or :meth:`give_up` called; all there is to do is to clear the namespace.
        used_bytes: UTF-8 bytes of the keys plus bytes of the values.

    Args:
        max_changes: at most so many keys (10,000).
        max_bytes: at most so many bytes of keys and values (32 MiB).
        max_patterns: at most so many patterns (256).
        clock: the monotonic clock that lifetimes are given on.
    """

    def __init__(
        self,
        *,
        max_changes: int = MAX_CHANGES,
        max_bytes: int = MAX_CHANGE_BYTES,
        max_patterns: int = MAX_PATTERNS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changes: dict[str, Change] = {}
        self.patterns: dict[str, None] = {}  # a set that keeps its order
        self.overflowed = False
        self._max_changes, self._max_bytes, self._max_patterns = max_changes, max_bytes, max_patterns
        self._clock = clock
        self.used_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.changes or self.patterns)

    def note(self, keys: Iterable[str], change: Change) -> None:
        """Add one and the same change of several keys."""
        for key in keys:
            if self.overflowed:
                return
            earlier = self._forget(key)
            self._remember(key, change if earlier is None else earlier.then(change))

    def note_pattern(self, pattern: str) -> None:
        """Add an invalidation; it settles what is known of the keys it matches."""
        if self.overflowed:
            return
        matches = compile_glob(pattern).match
        for key in [key for key in self.changes if matches(key.encode())]:
            self._forget(key)
        if pattern == _EVERYTHING:
            self.patterns.clear()
        self.patterns[pattern] = None
        if len(self.patterns) > self._max_patterns:
            self.give_up()

    def give_up(self) -> None:
        """Forget everything and ask for the whole namespace to be cleared instead, until the next :meth:`take`."""
        self.changes, self.patterns, self.used_bytes = {}, {_EVERYTHING: None}, 0
        self.overflowed = True

    def take(self) -> "Journal":
        """Return what was noted so far as a journal of its own, and begin anew."""
        taken = Journal(
            max_changes=self._max_changes,
            max_bytes=self._max_bytes,
            max_patterns=self._max_patterns,
            clock=self._clock,
        )
        taken._take_over(self)
        self.changes, self.patterns, self.overflowed, self.used_bytes = {}, {}, False, 0
        return taken

    def put_back(self, taken: "Journal") -> None:
        """Undo :meth:`take`: what was noted since comes after what was taken."""
        later = self.take()
        self._take_over(taken)
        for pattern in later.patterns:
            self.note_pattern(pattern)
        for key, change in later.changes.items():
            self.note([key], change)
        if later.overflowed:
            self.give_up()

    def _take_over(self, other: "Journal") -> None:
        self.changes, self.patterns = other.changes, other.patterns
        self.overflowed, self.used_bytes = other.overflowed, other.used_bytes

    def _forget(self, key: str) -> Change | None:
        """Take the key's change out and return what is left of it now."""
        change = self.changes.pop(key, None)
        if change is not None:
            self.used_bytes -= _size(key, change)
            return change.at(self._clock())
        raw = key.encode()
        return Change(Base.DROP) if any(compile_glob(pattern).match(raw) for pattern in self.patterns) else None

    def _remember(self, key: str, change: Change) -> None:
        self.changes[key] = change
        self.used_bytes += _size(key, change)
        if len(self.changes) > self._max_changes or self.used_bytes > self._max_bytes:
            self.give_up()


def _counted(change: Change, amount: int | None) -> Change:
    if amount is None:
        return change
    if change.base is Base.DROP:
        return Change(Base.PUT, b"%d" % amount)
    if change.base is Base.PUT:
        return replace(change, value=b"%d" % _in_64_bits((Codec.counter(change.value) or 0) + amount))
    return replace(change, amount=_in_64_bits((change.amount or 0) + amount))


def _renewed(change: Change, ends_at: float | None) -> Change:
    if ends_at is None or change.base is Base.DROP:
        return change
    return replace(change, ends_at=ends_at) if change.base is Base.PUT else replace(change, renewed_to=ends_at)


def _in_64_bits(amount: int) -> int:
    return max(SMALLEST_INTEGER, min(LARGEST_INTEGER, amount))


def _size(key: str, change: Change) -> int:
    return len(key.encode()) + len(change.value)
