"""How long a job waits after a failure: as a policy says, or as the other side asked."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import isnan

_LONGEST_ASKED_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait after the n-th failure: exponential with full jitter.

    Attributes:
        base_seconds: the ceiling after the first failure; doubled with each further one.
        cap_seconds: no ceiling is higher.
    """

    base_seconds: float = 2.0
    cap_seconds: float = 300.0


DEFAULT_RETRIES = RetryPolicy()
"""For job types that have no policy of their own."""


def retry_delay(failures: int, policy: RetryPolicy = DEFAULT_RETRIES) -> timedelta:
    """How long to wait after the n-th failure (from 0).

    Source: full jitter spreads retries best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    ceiling = min(policy.cap_seconds, policy.base_seconds * 2**failures)
    return timedelta(seconds=random.uniform(ceiling / 10, ceiling))  # noqa: S311 - jitter, not a secret


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a reply's ``Retry-After`` asks to wait, at most an hour; ``None`` if it does not."""
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (OverflowError, TypeError, ValueError):  # no date, one without a zone, or none that a clock knows
            return None
    return None if isnan(seconds) else min(max(seconds, 0.0), _LONGEST_ASKED_SECONDS)
