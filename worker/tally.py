"""What became of the items of a run so far, and whether it goes on."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from repositories.models import JobItem
from repositories.schemas import ItemOutcome, JobError
from repositories.states import ItemStatus
from worker.engines.base import EngineError, EngineRefusedError, EngineUnavailableError
from worker.errors import STOPS_THE_JOB, UnansweredError
from worker.recorder import ItemRecorder

AWAY_IN_A_ROW = 3
"""Items in a row that found the engine away, after which a run looks whether it is."""

_ROUNDS = 3
"""How often an item may find a healthy engine away within an attempt: then it may be what brings it down."""

_PAUSE_SECONDS = 0.5


@dataclass(slots=True)
class Tally:
    """What became of the items of a run so far.

    Attributes:
        done: how many ended well; ``recorded``: how many ended.
        error: the first that concerns the whole job, or else the first of an item.
        unanswered: the items that found the engine away since it was last looked for.
        away: how many did since the last item that ended well.
    """

    done: int = 0
    recorded: int = 0
    error: Exception | None = None
    unanswered: list[tuple[JobItem, EngineUnavailableError]] = field(default_factory=list)
    away: int = 0
    _rounds: Counter[int] = field(default_factory=Counter)
    _blamed: list[tuple[JobItem, EngineUnavailableError]] = field(default_factory=list)

    @property
    def is_stopped(self) -> bool:
        """Whether something happened that concerns the whole job."""
        return isinstance(self.error, STOPS_THE_JOB)

    @property
    def is_over(self) -> bool:
        """Whether no further item should be begun for now."""
        return self.away >= AWAY_IN_A_ROW or self.is_stopped

    def note_outcome(self, outcome: ItemOutcome) -> None:
        """Note how an item ended. Only one that was done says that the engine answers."""
        self.recorded += 1
        if outcome.status is ItemStatus.DONE:
            self.done += 1
            self.away = 0

    def note_error(self, item: JobItem, error: Exception) -> None:
        """Note an error that an item met."""
        if isinstance(error, EngineUnavailableError):
            self.unanswered.append((item, error))
            self.away += 1
        elif self.error is None or (isinstance(error, STOPS_THE_JOB) and not self.is_stopped):
            self.error = error

    async def again(self, health: Callable[[], Awaitable[None]]) -> Sequence[JobItem]:
        """Look whether the engine is away, and return the items that are tried again in this attempt.

        If it is, :attr:`error` says so, and the job is put back. If it answers, it was away for a moment, or one of
        these items brings it down each time: each is tried again, but only so often.

        Args:
            health: asks the engine whether everything answers that these items need.

        Raises:
            EngineRefusedError: it refuses whatever is asked.
        """
        if not self.unanswered or self.is_stopped:
            return ()
        try:
            await health()
        except EngineUnavailableError as away:
            self.error = away
            return ()
        except EngineRefusedError:
            raise
        except EngineError:
            pass  # it answers
        found, self.unanswered, self.away = self.unanswered, [], 0
        self._rounds.update(item.position for item, _ in found)
        self._blamed += [(item, error) for item, error in found if self._rounds[item.position] >= _ROUNDS]
        left = [item for item, _ in found if self._rounds[item.position] < _ROUNDS]
        if left:
            await asyncio.sleep(_PAUSE_SECONDS * max(self._rounds[item.position] for item in left))
        return left

    def settle(self, recorder: ItemRecorder, *, is_last_attempt: bool) -> None:
        """Decide about items that found the engine away although it answers.

        It is no failure if the attempt did others well. Else it counts as one, and on the last attempt these items have
        failed.
        """
        if not self._blamed or self.is_stopped:
            return
        _, error = self._blamed[-1]
        if self.done:
            self.error = error
        elif not is_last_attempt:
            message = f"{len(self._blamed)} items found no answer, the last one: {error}"
            self.error = UnansweredError(error.code, message)
        else:
            for item, reason in self._blamed:
                failure = JobError(code=reason.code, message=f"{item.key}: {reason.message}")
                recorder.add(ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=failure))
