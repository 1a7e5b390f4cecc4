"""The state machine's only door: every change of a job's status is one method of :class:`JobRepository`."""

from repositories.jobs.callers import CallerDriven
from repositories.jobs.claim import ClaimedJob, Claiming
from repositories.jobs.finish import Finishing
from repositories.jobs.guarded import Guarded
from repositories.jobs.history import Recounting
from repositories.jobs.maintain import Maintaining, Waiting
from repositories.jobs.positions import Positioning
from repositories.jobs.read import Reading
from repositories.jobs.retention import Retiring
from repositories.jobs.statistics import Counting
from repositories.jobs.summaries import Summarising

__all__ = ["ClaimedJob", "JobRepository", "Waiting"]


class JobRepository(
    Guarded,
    Claiming,
    Finishing,
    CallerDriven,
    Maintaining,
    Retiring,
    Recounting,
    Reading,
    Positioning,
    Counting,
    Summarising,
):
    """Jobs: written, claimed, finished, rescued, read. Every method runs in the caller's transaction; none commits.

    A transition is one conditional statement for one job or for a thousand. What it could not move comes back as a
    refusal (:class:`repositories.schemas.Outcome`), so that one lost attempt never hides the others.
    """
