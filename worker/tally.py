"""What became of the items of a run so far, and whether it goes on."""

from dataclasses import dataclass, field

from repositories.models import JobItem
from repositories.schemas import ItemOutcome, JobError
from repositories.states import ItemStatus
from worker.engines.base import Engine, EngineUnavailableError
from worker.errors import STOPS_THE_JOB, UnansweredError
from worker.recorder import ItemRecorder

AWAY_IN_A_ROW = 3
"""Items in a row that found the engine away, after which a run ends."""


@dataclass(slots=True)
class Tally:
    """What became of the items of a run so far.

    Attributes:
        done: how many ended well.
        error: the first that concerns the whole job, or else the first of an item.
        unanswered: the items that found the engine away.
        away: how many did since the last item that ended well.
    """

    done: int = 0
    error: Exception | None = None
    unanswered: list[tuple[JobItem, EngineUnavailableError]] = field(default_factory=list)
    away: int = 0

    @property
    def is_over(self) -> bool:
        """Whether no further item should be begun."""
        return self.away >= AWAY_IN_A_ROW or isinstance(self.error, STOPS_THE_JOB)

    def note_outcome(self, outcome: ItemOutcome) -> None:
        """Note how an item ended. Only one that was done says that the engine answers."""
        if outcome.status is ItemStatus.DONE:
            self.done += 1
            self.away = 0

    def note_error(self, item: JobItem, error: Exception) -> None:
        """Note an error that an item met."""
        if isinstance(error, EngineUnavailableError):
            self.unanswered.append((item, error))
            self.away += 1
        elif self.error is None or (isinstance(error, STOPS_THE_JOB) and not isinstance(self.error, STOPS_THE_JOB)):
            self.error = error

    async def may_go_on(self, engine: Engine, recorder: ItemRecorder, *, is_last_attempt: bool) -> bool:
        """Decide about items that found no answer: the engine is away, or one of them brings it down each time.

        It is away if it is not healthy now, or if this attempt did others well. Else these items count as a failure,
        and on the last attempt they have failed, and the others go on.

        Returns:
            Whether there may be more to do.
        """
        if not self.unanswered or isinstance(self.error, STOPS_THE_JOB):
            return False
        _, error = self.unanswered[-1]
        try:
            await engine.health()
        except EngineUnavailableError as away:
            self.error = away
            return False
        if self.done:
            self.error = error
        elif not is_last_attempt:
            message = f"{len(self.unanswered)} items found no answer, the last one: {error}"
            self.error = UnansweredError(error.code, message)
        else:
            for item, reason in self.unanswered:
                failure = JobError(code=reason.code, message=f"{item.key}: {reason.message}")
                recorder.add(ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=failure))
            self.unanswered.clear()
            self.away = 0
            return True
        return False
