"""The state machine's only door: every change of a job's status is one method of :class:`JobRepository`."""

from repositories.jobs.callers import CallerDriven
from repositories.jobs.claim import Claiming
from repositories.jobs.create import Creating
from repositories.jobs.finish import Finishing
from repositories.jobs.maintain import Maintaining, Waiting
from repositories.jobs.read import Reading

__all__ = ["JobRepository", "Waiting"]


class JobRepository(Creating, Claiming, Finishing, CallerDriven, Maintaining, Reading):
    """Jobs: written, claimed, finished, rescued, read. Every method runs in the caller's transaction; none commits.

    A transition is one conditional statement for one job or for a thousand. What it could not move comes back as a
    refusal (:class:`repositories.schemas.Outcome`), so that one lost attempt never hides the others.
    """
