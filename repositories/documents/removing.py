"""Taking documents out of a workspace: marked first, gone from the engine next, forgotten last.

What is marked has one remover, and counts as there for nobody: whoever wants its content waits, and stores it anew. A
remover that dies leaves it marked; the next attempt of its job, another item with that content or a sweep takes it
over. Rows are locked in id order.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.documents.fences import OWNER, REMOVAL_IS_OVER
from repositories.documents.outcomes import Removal
from repositories.errors import translated
from repositories.models import WorkspaceDocument
from repositories.schemas import Held


class Abandoned(NamedTuple):
    """A document whose remover did not finish.

    Attributes:
        id: of its row.
        workspace_id, slug: where it is.
    """

    id: int
    workspace_id: int
    slug: str


class Removing:
    """Mark, take over and forget. The engine is asked in between, by the caller."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def begin_removal(self, held: Held, documents: Sequence[WorkspaceDocument]) -> list[Removal]:
        """Mark documents as being removed by this attempt, each only if it is still as it was read and may go.

        It may not if a newer job stored it or found it there, or if it was marked as shared since. What an earlier
        attempt of the job had marked and did not finish is this attempt's, too.

        Args:
            held: the job that removes them, and the attempt that owns it.
            documents: of older jobs, as they were read (``superseded``, ``gone``).

        Returns:
            What is to be removed now; nothing if the attempt no longer owns the job.
        """
        given = {
            "job_id": held.job_id,
            "attempt": held.attempt,
            "ids": [document.id for document in documents],
            "names": [document.name for document in documents],
        }
        return await self._removals(_BEGIN, given)

    async def forget_removed(self, remover: Held, ids: Collection[int]) -> int:
        """Delete documents from the record that were removed from the engine, if they are still this remover's.

        Returns:
            How many that was. What another one took over meanwhile is that one's to delete.
        """
        given = {"remover_id": remover.job_id, "attempt": remover.attempt, "ids": list(ids)}
        with translated():
            return len((await self._session.execute(_FORGET, given)).all())

    async def forget_missing(
        self, held: Held, workspace_id: int, locations: Collection[str], *, before: datetime | None = None
    ) -> list[Removal]:
        """Delete from the record what does not stand in the engine any more, whoever removed it.

        A document is missing if any of its locations is. One of which others still stand is marked as being removed by
        this attempt instead. What is reserved or being removed already is left alone.

        Args:
            held: the job that asks, and the attempt that owns it.
            workspace_id: where.
            locations: everything that stands in the engine's workspace.
            before: the database's time (``clock``) before the engine was asked; what came later is left alone.

        Returns:
            What is to be removed from the engine, with the locations that still stand there; nothing if the attempt no
            longer owns the job, and then nothing was written.
        """
        given = {
            "job_id": held.job_id,
            "attempt": held.attempt,
            "workspace_id": workspace_id,
            "locations": list(locations),
            "before": before,
        }
        return await self._removals(_FORGET_MISSING, given)

    async def abandoned(self, engine: str, limit: int = 1_000) -> list[Abandoned]:
        """Return documents of an engine's workspaces whose removers did not finish, workspace by workspace.

        Args:
            engine: its name on the record.
            limit: documents at most.
        """
        with translated():
            rows = await self._session.execute(_ABANDONED, {"engine": engine, "limit": limit})
            return [Abandoned(*row) for row in rows]

    async def adopt(self, remover: Held, ids: Collection[int]) -> list[Removal]:
        """Take over abandoned documents for a remover that is no job: it holds the lock of ``REMOVAL_LOCK`` and its id.

        Returns:
            What is to be removed now, without what somebody else took over first.
        """
        given = {"remover_id": remover.job_id, "attempt": remover.attempt, "ids": list(ids)}
        return await self._removals(_ADOPT, given)

    async def _removals(self, statement: object, given: dict[str, object]) -> list[Removal]:
        with translated():
            rows = await self._session.execute(statement, given)  # type: ignore[call-overload]  # one of ours
            return [Removal(row.id, row.name, tuple(row.locations)) for row in rows]


_BEGIN = text(
    f"""
    WITH owner AS MATERIALIZED ({OWNER}),
    asked AS MATERIALIZED (
        SELECT id, name FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[])) AS seen (id, name)
        UNION ALL
        SELECT id, NULL FROM workspace_documents
        WHERE state = 'removing' AND remover_id = CAST(:job_id AS uuid)
            AND remover_attempt < CAST(:attempt AS integer)
    ),
    chosen AS MATERIALIZED (
        SELECT there.id FROM workspace_documents AS there JOIN asked ON asked.id = there.id
        WHERE CASE WHEN asked.name IS NULL
            THEN there.state = 'removing' AND there.remover_id = CAST(:job_id AS uuid)
                AND there.remover_attempt < CAST(:attempt AS integer)
            ELSE there.state = 'stored' AND there.name = asked.name AND NOT there.shared
                AND greatest(there.job_id, there.found_by) < CAST(:job_id AS uuid)
            END
            AND EXISTS (SELECT FROM owner)
        ORDER BY there.id FOR UPDATE OF there
    )
    UPDATE workspace_documents AS there
    SET state = 'removing', remover_id = CAST(:job_id AS uuid), remover_attempt = CAST(:attempt AS integer),
        removing_at = clock_timestamp()
    FROM chosen WHERE there.id = chosen.id
    RETURNING there.id, there.name, there.locations
    """  # noqa: S608 - constants of this package; every value is a parameter
)
_FORGET = text(
    """
    WITH chosen AS MATERIALIZED (
        SELECT id FROM workspace_documents
        WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'removing' AND remover_id = CAST(:remover_id AS uuid)
            AND remover_attempt = CAST(:attempt AS integer)
        ORDER BY id FOR UPDATE
    )
    DELETE FROM workspace_documents AS there USING chosen WHERE there.id = chosen.id RETURNING there.id
    """
)
# A join is hashed whatever its size; "not in" compares one by one beyond a few thousand.
_FORGET_MISSING = text(
    f"""
    WITH owner AS MATERIALIZED ({OWNER}),
    standing AS MATERIALIZED (SELECT unnest(CAST(:locations AS text[])) AS location),
    missing AS MATERIALIZED (
        SELECT there.id, coalesce(array_agg(standing.location) FILTER (WHERE standing.location IS NOT NULL), '{{}}')
            AS locations
        FROM workspace_documents AS there CROSS JOIN LATERAL unnest(there.locations) AS place (location)
        LEFT JOIN standing ON standing.location = place.location
        WHERE there.workspace_id = CAST(:workspace_id AS integer) AND there.state = 'stored'
        GROUP BY there.id
        HAVING count(*) > count(standing.location)
    ),
    chosen AS MATERIALIZED (
        SELECT there.id, missing.locations FROM workspace_documents AS there JOIN missing ON missing.id = there.id
        WHERE there.state = 'stored'
            AND there.stored_at < coalesce(CAST(:before AS timestamptz), CAST('infinity' AS timestamptz))
            AND EXISTS (SELECT FROM owner)
        ORDER BY there.id FOR UPDATE OF there
    ),
    gone AS (
        DELETE FROM workspace_documents AS there USING chosen
        WHERE there.id = chosen.id AND cardinality(chosen.locations) = 0
    )
    UPDATE workspace_documents AS there
    SET state = 'removing', remover_id = CAST(:job_id AS uuid), remover_attempt = CAST(:attempt AS integer),
        removing_at = clock_timestamp()
    FROM chosen WHERE there.id = chosen.id AND cardinality(chosen.locations) > 0
    RETURNING there.id, there.name, chosen.locations
    """  # noqa: S608 - constants of this package; every value is a parameter
)
_ABANDONED = text(
    f"""
    SELECT there.id, there.workspace_id, workspaces.slug
    FROM workspace_documents AS there JOIN workspaces ON workspaces.id = there.workspace_id
    WHERE there.state = 'removing' AND workspaces.engine = CAST(:engine AS text) AND ({REMOVAL_IS_OVER})
    ORDER BY there.workspace_id, there.id LIMIT CAST(:limit AS integer)
    """  # noqa: S608 - likewise
)
_ADOPT = text(
    f"""
    WITH chosen AS MATERIALIZED (
        SELECT there.id FROM workspace_documents AS there
        WHERE there.id = ANY(CAST(:ids AS bigint[])) AND there.state = 'removing' AND ({REMOVAL_IS_OVER})
        ORDER BY there.id FOR UPDATE OF there
    )
    UPDATE workspace_documents AS there
    SET remover_id = CAST(:remover_id AS uuid), remover_attempt = CAST(:attempt AS integer),
        removing_at = clock_timestamp()
    FROM chosen WHERE there.id = chosen.id
    RETURNING there.id, there.name, there.locations
    """  # noqa: S608 - likewise
)
