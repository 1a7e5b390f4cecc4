"""What a cache accepts: the bounds on keys, patterns, lifetimes, amounts and values, checked before anything is sent.

A refusal here is a fault of the calling code, so it is a ``TypeError`` or ``ValueError`` on every backend, whether or
not Redis answers. How a value becomes bytes, and how large it may be then, is :mod:`repositories.cache.codec`'s affair.
"""

import math
import re
from collections.abc import Iterable
from datetime import timedelta
from itertools import islice
from typing import Final

MAX_KEY_CHARS: Final = 1024
MAX_KEYS_PER_CALL: Final = 10_000
MAX_KEYS_LISTED: Final = 100_000
MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
MAX_TTL: Final = timedelta(days=3650)
SMALLEST_INTEGER: Final = -(2**63)
LARGEST_INTEGER: Final = 2**63 - 1

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_./-]{1,64}")

Ttl = int | float | timedelta
"""How long a value lives: seconds, or a ``timedelta``."""


def checked_key(key: object) -> str:
    """Return ``key`` if it can name a value: text of 1 to ``MAX_KEY_CHARS`` (1,024) characters.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty, too long, or no valid Unicode.
    """
    if not isinstance(key, str):
        raise TypeError(f"a cache key is text, not {type(key).__name__}: {key!r:.80}")
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise ValueError(f"a cache key has 1 to {MAX_KEY_CHARS:,} characters, not {len(key):,}: {key!r:.80}")
    return _encodable(key)


def checked_keys(keys: Iterable[object]) -> list[str]:
    """Return ``keys`` without repetition, in their order; at most ``MAX_KEYS_PER_CALL`` (10,000).

    Raises:
        TypeError: ``keys`` is one text instead of a collection, or a key is no text.
        ValueError: there are too many, or one of them is no valid key.
    """
    if isinstance(keys, str | bytes):
        raise TypeError(f"expected a collection of cache keys, not one {type(keys).__name__}: {keys!r:.80}")
    given = list(islice(keys, MAX_KEYS_PER_CALL + 1))
    if len(given) > MAX_KEYS_PER_CALL:
        raise ValueError(
            f"more than {MAX_KEYS_PER_CALL:,} cache keys in one call, from {given[0]!r:.80} on: split them"
        )
    return list(dict.fromkeys(map(checked_key, given)))


def checked_pattern(pattern: object) -> str:
    """Return ``pattern`` if it is a glob of 1 to 1,024 characters; raise as :func:`checked_key` does."""
    if not isinstance(pattern, str):
        raise TypeError(f"a cache pattern is text, not {type(pattern).__name__}: {pattern!r:.80}")
    if not 1 <= len(pattern) <= MAX_KEY_CHARS:
        raise ValueError(f"a cache pattern has 1 to {MAX_KEY_CHARS:,} characters, not {len(pattern):,}")
    return _encodable(pattern)


def checked_namespace(namespace: object) -> str:
    """Return ``namespace`` if it is 1 to 64 letters, digits or ``_ . / -``.

    A colon is refused: it ends the namespace in Redis, so ``a:b`` would lie inside ``a`` and go when ``a`` is cleared.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"a cache namespace is 1 to 64 letters, digits or _ . / - (no colon), not {namespace!r:.80}")
    return namespace


def checked_amount(amount: object) -> int:
    """Return ``amount`` if a counter can move by it: a whole number of 64 bits.

    Raises:
        TypeError: it is no ``int``.
        ValueError: it does not fit 64 bits.
    """
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError(f"a cache counter moves by whole numbers, not by {type(amount).__name__}: {amount!r:.80}")
    if not SMALLEST_INTEGER <= amount <= LARGEST_INTEGER:
        raise ValueError(f"a cache counter has 64 bits, so it cannot move by {amount}")
    return amount


def lifetime_ms(key: str, ttl: object) -> int:
    """Return ``ttl`` (seconds or ``timedelta``) in whole milliseconds, rounded up; 0 or less means "over already".

    Raises:
        TypeError: it is no number and no ``timedelta``.
        ValueError: it is not finite or longer than ``MAX_TTL`` (3,650 days).
    """
    if isinstance(ttl, timedelta):
        seconds = ttl.total_seconds()
    elif isinstance(ttl, int | float) and not isinstance(ttl, bool):
        seconds = ttl
    else:
        raise TypeError(f"ttl of cache key {key!r:.80}: expected seconds or a timedelta, not {type(ttl).__name__}")
    if not math.isfinite(seconds) or seconds > MAX_TTL.total_seconds():
        raise ValueError(f"ttl of cache key {key!r:.80}: at most {MAX_TTL.days:,} days, not {seconds} seconds")
    return math.ceil(seconds * 1000)


def new_lifetime_ms(key: str, ttl: object) -> int | None:
    """Return the lifetime of a value about to be written: ``None`` for no expiry, else more than 0 milliseconds.

    Raises:
        TypeError: as :func:`lifetime_ms`.
        ValueError: as :func:`lifetime_ms`, or it is 0 or less: some caches read that as "for ever", others as "not at
            all", so it is not guessed here.
    """
    if ttl is None:
        return None
    lifetime = lifetime_ms(key, ttl)
    if lifetime <= 0:
        raise ValueError(f"ttl of cache key {key!r:.80}: {ttl} is over already; delete the key, or pass None for ever")
    return lifetime


def not_a_counter(key: str) -> TypeError:
    """Return the error for counting on a value that is no whole number of 64 bits."""
    return TypeError(f"cannot increment cache key {key!r:.80}: its value is no 64-bit whole number; delete it first")


def counter_overflow(key: str, amount: int) -> OverflowError:
    """Return the error for a counter that would leave 64 bits; it was left as it was."""
    return OverflowError(f"cache key {key!r:.80} moved by {amount} would no longer fit 64 bits; it was left as it was")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a cache key or pattern is valid Unicode, without lone surrogates: {text!r:.80}") from error
    return text
