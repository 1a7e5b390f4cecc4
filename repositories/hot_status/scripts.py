"""The Lua scripts of hot status, each in a file of its own, and sending several calls of one in a round trip.

What must be decided on what stands in Redis is decided there, in one step: whether a hash may be believed, and whether
what is to be written is newer. A file's header says its keys, arguments and result.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from repositories.broken_keys import ASIDE
from repositories.cache import CacheUnavailableError
from repositories.cache.errors import OutageReason, translated
from repositories.cache.redis_store import RedisStore

Part = str | bytes | int
Command = list[Part]


_OF_MARK: Final = 3
_HEAD: Final = 4  # a mark, and what was moved aside


class Mark(NamedTuple):
    """What a process knows of the books: every script answers it.

    Attributes:
        epoch: the present one.
        seq: how many workspaces were invalidated in it.
        ticket: how many reads found something missing in it, and how many writes it took.
    """

    epoch: str = ""
    seq: int = 0
    ticket: int = 0

    def after(self, earlier: "Mark") -> "Mark":
        """Return the later of the two; answers to calls that were under way together may come in any order."""
        if self.epoch != earlier.epoch:
            return self
        return Mark(self.epoch, max(self.seq, earlier.seq), max(self.ticket, earlier.ticket))

    @classmethod
    def of(cls, answer: Any) -> "Mark":
        """Return the mark in the answer of a script, decoded or not.

        Raises:
            ValueError: it is no such answer, but an error.
        """
        if not isinstance(answer, list):
            raise ValueError(f"no answer of a hot status script: {type(answer).__name__}")  # noqa: TRY004 - data, not code
        epoch, seq, ticket = (part.decode() if isinstance(part, bytes) else str(part) for part in answer[:_OF_MARK])
        return cls(epoch, int(seq), int(ticket))

    @staticmethod
    def moved(answer: list[Any]) -> list[Any]:
        """Return the keys that a script moved aside, as :func:`repositories.broken_keys.tell` takes them."""
        return list(answer[_OF_MARK])

    @staticmethod
    def rest(answer: list[Any]) -> list[Any]:
        """Return what a script answers besides."""
        return answer[_HEAD:]


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text, and the digest that Redis knows it by."""

    text: str
    sha1: str

    def by_text(self, call: Sequence[Part]) -> Command:
        """Return the command that runs it on a server that may not know it yet."""
        return ["EVAL", self.text, *call]

    def by_digest(self, call: Sequence[Part]) -> Command:
        """Return the command that runs it on a server that knows it."""
        return ["EVALSHA", self.sha1, *call]


def _script(name: str) -> Script:
    folder = files(__package__)
    # Every script begins with the same look at the epoch.
    epoch = (folder / "epoch.lua").read_text(encoding="utf-8").replace("--#include aside\n", ASIDE)
    text = (folder / f"{name}.lua").read_text(encoding="utf-8").replace("--#include epoch\n", epoch)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


READ: Final = _script("read")
WATCHED: Final = _script("watched")
WRITE: Final = _script("write")
RENEW: Final = _script("renew")


async def evaluate(store: RedisStore, script: Script, calls: Sequence[Sequence[Part]]) -> list[list[Any]]:
    """Run calls of one script in one round trip, and return their answers undecoded.

    A server that does not know the script (restarted, or its scripts flushed) gets it with a second round trip; every
    call may therefore be run twice.

    Args:
        store: where.
        script: what.
        calls: for each the number of keys, the keys and the arguments.

    Raises:
        CacheUnavailableError: Redis did not answer in time, or did not do one of them.
    """
    answers = await _pipeline(store, [script.by_digest(call) for call in calls])
    if any(isinstance(answer, NoScriptError) for answer in answers):
        answers = await _pipeline(store, [script.by_text(call) for call in calls])
    if failed := next((answer for answer in answers if isinstance(answer, Exception)), None):
        error = translated(failed)
        raise (
            error
            if isinstance(error, CacheUnavailableError)
            else CacheUnavailableError(OutageReason.REFUSED, type(failed).__name__)
        )
    return answers


async def _pipeline(store: RedisStore, commands: Sequence[Command]) -> list[Any]:
    pipe = store.client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command, NEVER_DECODE=True)
    return list(await store.run(lambda: pipe.execute(raise_on_error=False)))
