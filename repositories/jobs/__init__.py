"""The state machine's only door: every change of a job's status is one method of :class:`JobRepository`."""

from repositories.jobs.callers import CallerDriven
from repositories.jobs.claim import ClaimedJob
from repositories.jobs.create import is_one_statement
from repositories.jobs.direct import DirectJobs
from repositories.jobs.finish import Finishing
from repositories.jobs.guarded import Guarded
from repositories.jobs.history import Recounting
from repositories.jobs.isolation import Isolating
from repositories.jobs.maintain import Maintaining, Place, Waiting
from repositories.jobs.positions import Positioning
from repositories.jobs.read import Reading
from repositories.jobs.retention import Retiring
from repositories.jobs.statistics import Counting
from repositories.jobs.summaries import Summarising

__all__ = ["ClaimedJob", "DirectJobs", "JobRepository", "Place", "Waiting", "is_one_statement"]


class JobRepository(
    Guarded,
    Isolating,
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

    Every method by its purpose, in the order of a job's life:

    - write: ``create_job``, ``create_many``, and ``add_many``, which reads nothing back; inherited names for the same:
      ``create``, ``bulk_create``
    - run, as a worker: ``claim``, ``claimed_before``, ``admit``, ``extend_leases``, ``cancel_requested_among``,
      ``finish``, ``put_back``
    - run alone what may have killed its workers: ``has_suspects``, ``claim_alone``
    - drive, as the caller: ``update_job_status``
    - ask, as a person: ``cancel_job``, ``cancel``, ``retry``
    - keep moving: ``rescue``, ``last_workers``, ``take_due``, ``park``, ``release_parked``, ``waiting``,
      ``count_waiting``, ``waiting_among``, ``live_among``
    - edit what no transition writes (metadata, priority and the like; another field raises ``ProtectedFieldError``):
      ``update``, ``update_many``, ``bulk_update``
    - delete what ended: ``cleanup_old_jobs``, ``cleanup``, its dry run ``list_expired``; by key or filter: ``delete``,
      ``delete_many``, ``bulk_delete``
    - read one: ``get_by_id``, ``get_by_id_or_raise``, ``get_by_field``, ``exists``, ``get_job_with_results``,
      ``get_job_history``
    - read many: ``list_jobs_with_filters``, ``list_jobs_after``, ``get_jobs_by_workspace``, ``get_active_jobs``,
      ``get_many``, ``snapshot``; by filters on any column: ``list``, ``list_after``, ``list_with_pagination``,
      ``stream``, ``count``
    - stand in the queue: ``get_job_queue_position``, ``queue_positions``, ``estimate_waits``; once it runs:
      ``estimate_rests``
    - add up: ``get_job_statistics``, ``live_jobs``, ``ended_jobs``, ``workspace_summaries``; each hour ``roll_up``
    """
