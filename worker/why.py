"""Gathering what is known of a job, to say why it is where it is.

At most three statements and two round trips to Redis; without Redis the record still says most of it.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from repositories.base import as_uuid
from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.queues import QueueRepository
from repositories.states import JobStatus
from worker.eta import estimates
from worker.queue import QueueUnavailableError
from worker.reasons import Facts, Reason, Why, explain
from worker.registry import Registry

__all__ = ["Facts", "Reason", "Why", "explain", "gather"]


async def gather(
    database: DatabaseManager,
    registry: Registry | None,
    positions: Callable[[Sequence[UUID]], Awaitable[dict[UUID, int]]],
    job_id: UUID | str,
) -> Facts:
    """Bring together what :func:`explain` needs.

    Args:
        database: where the record is.
        registry: who lives; without it nothing is said of workers.
        positions: the places of messages in Redis.
        job_id: any text; what is no id is of no job.

    Raises:
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    key = as_uuid(job_id)
    async with database.get_session() as session:
        jobs = JobRepository(session)
        found = [] if key is None else await jobs.snapshot([key])
        if not found:
            return Facts(str(job_id), datetime.now(UTC))
        (job,) = found
        now = datetime.now(UTC)
        if job.status is JobStatus.PENDING and job.parents_left:
            return Facts(str(job.id), now, job, parents=await jobs.snapshot(job.depends_on))
        if job.status is JobStatus.PROCESSING:
            now = (await QueueRepository(session).get(job.queue)).now  # leases end by the database's clock
            rests = await jobs.estimate_rests([job.id])
            return Facts(str(job.id), now, job, eta=estimates([], rests.values()).get(job.id))
        if job.status is not JobStatus.QUEUED:
            return Facts(str(job.id), now, job)
        queue = await QueueRepository(session).get(job.queue)
        wait = (await jobs.estimate_waits([job.id])).get(job.id)
    redis_answers = True
    try:
        workers = None if registry is None else await registry.live()
        places = await positions([job.id])
    except QueueUnavailableError:
        redis_answers, workers, places = False, None, {}
    return Facts(
        str(job.id),
        queue.now,
        job,
        queue=queue,
        workers=workers,
        redis_answers=redis_answers,
        in_redis=job.id in places,
        position=wait.position if wait else None,
        eta=estimates([wait], []).get(job.id) if wait else None,
    )
