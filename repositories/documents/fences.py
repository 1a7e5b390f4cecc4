"""Who still owns what: the attempt that writes, the one that reserved a document, the one that removes it.

What is reserved or being removed is somebody's while the attempt that made it so owns its job. What is nobody's any
more is taken over by whoever wants the content next. That is judged from the statement's snapshot, while the row itself
is seen as it is once locked, so it may be newer than what is known of its job. Hence it is taken over only if its end
is certain: attempts never come back, so a higher attempt on the record, or the same one out of ``processing``, is; a
lower one is not. A job that is not there was deleted, or is newer than the snapshot.
"""

from sqlalchemy import CTE, select

from repositories.models import Job
from repositories.schemas import Held
from repositories.states import JobStatus


def owner_of(held: Held) -> CTE:
    """Lock the job's row, if the attempt still owns it: no write of a lost attempt lands."""
    return (
        select(Job.id)
        .where(Job.id == held.job_id, Job.attempt == held.attempt, Job.status == JobStatus.PROCESSING)
        .with_for_update(key_share=True)
        .cte("owner")
    )


OWNER = """
    SELECT id FROM jobs
    WHERE id = CAST(:job_id AS uuid) AND attempt = CAST(:attempt AS integer) AND status = 'processing'
    FOR NO KEY UPDATE
"""
"""The same as text, of the parameters ``job_id`` and ``attempt``."""

RESERVATION_IS_OVER = """
    EXISTS (
        SELECT FROM jobs WHERE jobs.id = there.job_id
            AND (jobs.attempt > there.attempt OR jobs.attempt = there.attempt AND jobs.status <> 'processing')
    ) OR EXISTS (
        SELECT FROM job_items WHERE job_items.job_id = there.job_id AND job_items.position = there.position
            AND job_items.status <> 'pending' AND job_items.attempt >= there.attempt
    ) OR (
        NOT EXISTS (SELECT FROM jobs WHERE jobs.id = there.job_id)
        AND there.reserved_at < statement_timestamp() - interval '1 second'
    )
"""
"""Whether ``there``, a document that is reserved, is nobody's."""

REMOVAL_LOCK = "removal "
"""What the name of a remover's lock begins with, where the remover is no job; its id follows."""

REMOVAL_IS_OVER = f"""
    EXISTS (
        SELECT FROM jobs WHERE jobs.id = there.remover_id AND (
            jobs.attempt > there.remover_attempt
            OR jobs.attempt = there.remover_attempt AND jobs.status <> 'processing'
        )
    ) OR (
        NOT EXISTS (SELECT FROM jobs WHERE jobs.id = there.remover_id)
        AND NOT EXISTS (
            SELECT FROM locks
            WHERE locks.name = '{REMOVAL_LOCK}' || there.remover_id AND locks.expires_at > clock_timestamp()
        )
        AND there.removing_at < statement_timestamp() - interval '1 second'
    )
"""  # noqa: S608 - a constant of this module
"""Whether ``there``, a document that is being removed, has no remover any more."""
