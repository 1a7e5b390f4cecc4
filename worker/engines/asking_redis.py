"""Asking Redis for what is better shared between workers but can be done without: a bounded wait, then ``None``.

The circuit and the slots of an engine lie in Redis so that all workers see the same. Redis may be away: then each
worker does without the others, at once and without an error, and asks again some seconds later.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from repositories.broken_keys import RedisType, mending

_ANSWER_SECONDS: Final = 1.0
_AWAY_SECONDS: Final = 5.0

_LOG = structlog.get_logger(__name__)


class Script:
    """One Lua script, run where Redis answers.

    Args:
        redis: the client; whoever made it closes it.
        text: the script. It answers a list, never nil.
        subject: what it is for, for the log (``slots``).
        kind: the type of its keys; one that holds something else is moved aside.
    """

    def __init__(self, redis: Redis, text: str, subject: str, kind: RedisType) -> None:
        self._redis = redis
        self._run = redis.register_script(text)
        self._subject = subject
        self._kind: RedisType = kind
        self._away_until = 0.0

    async def __call__(self, keys: Sequence[str], *arguments: str | float) -> list[Any] | None:
        """Return the script's answer, texts decoded, or ``None`` if Redis did not answer within a second.

        After that it is not asked for five seconds: a job must not wait a second a call for what it can do without.
        """
        if time.monotonic() < self._away_until:
            return None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                run = partial(self._run, keys=list(keys), args=list(arguments))
                answer = await mending(self._redis, dict.fromkeys(keys, self._kind), run)
        except (RedisError, OSError, TimeoutError) as error:
            if self._away_until == 0.0:
                _LOG.warning("engine.redis_away", subject=self._subject, reason=type(error).__name__)
            self._away_until = time.monotonic() + _AWAY_SECONDS
            return None
        self._away_until = 0.0
        return [part.decode() if isinstance(part, bytes) else part for part in answer]
