"""What a worker does thousands of times a second, without a session: each call is one statement and its own commit.

:class:`DirectJobs` does nothing that :class:`repositories.jobs.JobRepository` would not do: it is the shorter way for
the jobs that need nothing else with it. What it leaves is for the repository.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from repositories.jobs.claim import ClaimedJob, claim_parameters, claim_statement, claimed_jobs
from repositories.jobs.core import as_arrays, check_batch, moved_by
from repositories.jobs.finish import as_json, complete_statement
from repositories.lane import Lane
from repositories.schemas import Held, Outcome


class DirectJobs:
    """Claims and completes jobs over a lane; one call at a time.

    Args:
        lane: whose caller closes it.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def claim(
        self, ids: Collection[UUID], worker_id: str, lease: timedelta, types: Collection[str]
    ) -> list[ClaimedJob]:
        """Start queued jobs that are due, as :meth:`repositories.jobs.JobRepository.claim` does.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer; what was claimed then is rescued.
        """
        rows = await self._lane.rows(
            claim_statement(typed=True, admitted=False), claim_parameters(ids, worker_id, lease, types)
        )
        return claimed_jobs(rows, worker_id)

    async def complete(self, held: Sequence[Held], results: Sequence[dict[str, Any]]) -> Outcome:
        """Complete running jobs, each only if the attempt named still owns it and no other job depends on it.

        Args:
            held: at most ``MAX_BATCH``.
            results: one for each.

        Returns:
            What was completed; nothing is said of the others.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer; asking again does no harm.
        """
        check_batch(len(held), "complete")
        rows = await self._lane.rows(complete_statement(childless=True), as_arrays(held, result=as_json(results)))
        return moved_by(rows)[0]
