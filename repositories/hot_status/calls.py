"""What the scripts are told: keys and arguments, for as many jobs as one run of a script may take.

The keys of a job are ``status:{id}``, the hash, and ``job:{id}``, the caller's own, in the namespace of the cache.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, TypeVar
from uuid import UUID, uuid4

from repositories.cache.redis_store import RedisStore
from repositories.hot_status.scripts import Mark, Part
from repositories.hot_status.view import FIELDS, GONE, JobStatusChange, JobStatusView, Order

_PER_CALL: Final = 500  # jobs in one run of a script, which nothing else in Redis runs beside
_MAX_BOOKS: Final = 10_000
_BOOKS: Final = "status"

T = TypeVar("T")

_encode: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode  # one for all: to make one is slow

Call = list[Part]
"""The number of keys, the keys, the arguments."""


class _Entry(NamedTuple):
    job_id: UUID
    told: str


class Calls:
    """Makes calls for one namespace.

    Args:
        store: the namespace.
        live_lifetime, final_lifetime: how long a status is kept.

    Raises:
        ValueError: a lifetime is less than a millisecond, or a final status would live shorter than another.
    """

    def __init__(self, store: RedisStore, live_lifetime: timedelta, final_lifetime: timedelta) -> None:
        if not timedelta(milliseconds=1) <= live_lifetime <= final_lifetime:
            raise ValueError(f"expected 1 ms <= live_lifetime ({live_lifetime}) <= final_lifetime ({final_lifetime})")
        self._store = store
        self._live_ms = round(live_lifetime.total_seconds() * 1000)
        self._final_ms = round(final_lifetime.total_seconds() * 1000)

    def read(self, ids: Sequence[UUID], known: Mark) -> list[Call]:
        """Read these jobs."""
        return [self._call(map(_status_key, part), known, [self._live_ms, *FIELDS]) for part in in_parts(ids)]

    def write(
        self, views: Sequence[JobStatusView], gone: Collection[UUID], mark: Mark, *, own_keys: bool = True
    ) -> list[Call]:
        """Write these views; bar the way to any for what is ``gone``; delete the callers' keys if ``own_keys``."""
        entries = [
            _entry(view.id, "set", self._lifetime(final=view.status.is_final), view.order, view.to_fields())
            for view in views
        ]
        entries += [_entry(job_id, "fence", self._live_ms, GONE, []) for job_id in gone]
        return self._writes(entries, mark, own_keys=own_keys)

    def watched(self, ids: Sequence[UUID], known: Mark) -> list[Call]:
        """Find out of which of these jobs something stands, in the parts of :func:`in_parts`."""
        begins: list[Part] = [self._store.name(_status_key("")), self._store.name(own_key(""))]
        return [self._call([], known, [*begins, "".join(map(str, part))]) for part in in_parts(ids)]

    def advance(self, changes: Sequence[JobStatusChange], mark: Mark) -> list[Call]:
        """Write these changes.

        Raises:
            ValueError: a field that does not change.
        """
        entries = [
            _entry(change.job_id, "advance", self._lifetime(final=change.ends), change.order(), change.to_fields())
            for change in changes
        ]
        return self._writes(entries, mark, own_keys=True)

    def renew(self, known: Mark, workspace_id: str | None = None) -> Call:
        """Begin a new epoch, or outdate one workspace."""
        return self._call([], known, [] if workspace_id is None else [workspace_id, _MAX_BOOKS])

    def _writes(self, entries: Sequence[_Entry], mark: Mark, *, own_keys: bool) -> list[Call]:
        calls = []
        for part in in_parts(entries):
            keys = [
                key
                for job_id, _ in part
                for key in (_status_key(job_id), own_key(job_id) if own_keys else _status_key(job_id))
            ]
            calls.append(self._call(keys, mark, [self._live_ms, *(entry.told for entry in part)]))
        return calls

    def _call(self, keys: Iterable[str], mark: Mark, arguments: Sequence[Part]) -> Call:
        names = [self._store.bookkeeping_name(_BOOKS), *map(self._store.name, keys)]
        return [len(names), *names, uuid4().hex, *mark, *arguments]

    def _lifetime(self, *, final: bool) -> int:
        return self._final_ms if final else self._live_ms


def _entry(job_id: UUID, mode: str, lifetime_ms: int, order: Order, fields: Sequence[str]) -> _Entry:
    # One text a job: to send its fields one by one would cost several times what Redis does with them.
    return _Entry(job_id, _encode([mode, str(lifetime_ms), *order, *fields]))


def in_parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return the items in runs that one run of a script takes."""
    return (items[start : start + _PER_CALL] for start in range(0, len(items), _PER_CALL))


def own_key(job_id: UUID | str) -> str:
    """Return the key under which callers cache a job themselves."""
    return f"job:{job_id}"


def _status_key(job_id: UUID | str) -> str:
    return f"status:{job_id}"
