"""How long a job waits after a failure."""

import random
from dataclasses import dataclass
from datetime import timedelta


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
