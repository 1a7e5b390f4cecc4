"""What an upload changed in a workspace beside what it stored: what it relies on, and what it makes superfluous.

A content stands once, under the name and from the set of documents that brought it first. Others that bring it rely on
it without a row of their own: it is marked as shared, and then neither a new version under its name nor a sync of its
set removes it. Removed is only what an older job stored, and no newer one found there: job ids are ordered by time, so
an older sync undoes no newer one. Who finds a content marks it at once (:mod:`repositories.documents.reserving`);
:meth:`Settling.settle` does it again for the whole set, for what workers of an older version found.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.documents.outcomes import Reference
from repositories.errors import translated
from repositories.models import WorkspaceDocument


class Settling:
    """What comes after the last document of an upload. Nothing here removes anything."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def clock(self) -> datetime:
        """Return the database's time, to be taken before an engine is asked for what stands there."""
        with translated():
            now: datetime = (await self._session.execute(text("SELECT clock_timestamp()"))).scalar_one()
            return now

    async def settle(
        self,
        workspace_id: int,
        references: Sequence[Reference],
        source: str | None,
        *,
        whole: bool,
        made_at: datetime | None = None,
    ) -> bool:
        """Record that these documents of a set stand in the workspace, also those that others had brought before.

        Args:
            workspace_id: where.
            references: the documents that were stored, or found there.
            source: the label of their set.
            whole: they are all of the set. Then one that stands under a name the set has no more was renamed.
            made_at: when the workspace was made that they were stored in.

        Returns:
            ``False`` if that workspace is not on the record any more, or was made anew: nothing of them stands. Until
            the caller's transaction ends, it stays on the record.
        """
        given = _arrays(references) | {"workspace_id": workspace_id, "source": source}
        with translated():
            if whole and source is not None:
                await self._session.execute(_RENAME, given)
            shared = await self._session.execute(_SHARE, given | {"whole": whole, "made_at": made_at})
            return bool(shared.scalar_one())

    async def superseded(
        self, workspace_id: int, job_id: UUID, references: Sequence[Reference]
    ) -> list[WorkspaceDocument]:
        """Return what older jobs stored under the names of these documents, with contents that none of them has."""
        return await self._found(_SUPERSEDED, _arrays(references) | {"workspace_id": workspace_id, "before": job_id})

    async def gone(
        self, workspace_id: int, source: str, references: Sequence[Reference], before: UUID
    ) -> list[WorkspaceDocument]:
        """Return what older jobs stored from a source, of which the source has neither the name nor the content now.

        Args:
            workspace_id: where.
            source: the label that the documents were stored with.
            references: all documents that the source has now.
            before: the job that asks.
        """
        given = {"workspace_id": workspace_id, "source": source, "before": before}
        return await self._found(_GONE, _arrays(references) | given)

    async def _found(self, statement: Any, given: dict[str, Any]) -> list[WorkspaceDocument]:
        found = select(WorkspaceDocument).from_statement(statement).execution_options(populate_existing=True)
        with translated():
            return [*await self._session.scalars(found, given)]


def _arrays(references: Sequence[Reference]) -> dict[str, Any]:
    return {
        "names": [reference.name for reference in references],
        "contents": [reference.sha256 for reference in references],
    }


_GIVEN = "unnest(CAST(:names AS text[]), CAST(:contents AS text[])) AS given (name, sha256)"
_REMOVABLE = """
    there.workspace_id = CAST(:workspace_id AS integer) AND there.state = 'stored' AND NOT there.shared
    AND greatest(there.job_id, there.found_by) < CAST(:before AS uuid)
    AND NOT EXISTS (SELECT FROM given WHERE given.sha256 = there.sha256)
"""
_RENAME = text(
    f"""
    WITH given AS MATERIALIZED (SELECT DISTINCT ON (sha256) name, sha256 FROM {_GIVEN} ORDER BY sha256, name),
    every_name AS MATERIALIZED (SELECT unnest(CAST(:names AS text[])) AS name),
    chosen AS MATERIALIZED (
        SELECT there.id, given.name FROM workspace_documents AS there JOIN given ON given.sha256 = there.sha256
        WHERE there.workspace_id = CAST(:workspace_id AS integer) AND there.source = CAST(:source AS text)
            AND there.state = 'stored' AND NOT there.shared
            AND NOT EXISTS (SELECT FROM every_name WHERE every_name.name = there.name)
        ORDER BY there.id FOR UPDATE OF there
    )
    UPDATE workspace_documents AS there SET name = chosen.name FROM chosen WHERE there.id = chosen.id
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_SHARE = text(
    f"""
    WITH place AS MATERIALIZED (
        SELECT id FROM workspaces
        WHERE id = CAST(:workspace_id AS integer)
            AND created_at = coalesce(CAST(:made_at AS timestamptz), created_at)
        FOR KEY SHARE
    ),
    given AS MATERIALIZED (SELECT name, sha256 FROM {_GIVEN}),
    chosen AS MATERIALIZED (
        SELECT there.id FROM workspace_documents AS there
        WHERE there.workspace_id = (SELECT id FROM place) AND there.state = 'stored' AND NOT there.shared
            AND EXISTS (
                SELECT FROM given
                WHERE there.sha256 = given.sha256
                    AND (
                        there.source IS DISTINCT FROM CAST(:source AS text)
                        OR (there.name <> given.name AND NOT CAST(:whole AS boolean))
                    )
                    AND NOT EXISTS (
                        SELECT FROM workspace_documents AS own
                        WHERE own.workspace_id = there.workspace_id AND own.sha256 = given.sha256
                            AND own.state = 'stored' AND own.name = given.name
                            AND own.source IS NOT DISTINCT FROM CAST(:source AS text)
                    )
            )
        ORDER BY there.id FOR UPDATE OF there
    ),
    shared AS (UPDATE workspace_documents AS there SET shared = true FROM chosen WHERE there.id = chosen.id)
    SELECT EXISTS (SELECT FROM place)
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_SUPERSEDED = text(
    f"""
    WITH given AS MATERIALIZED (SELECT name, sha256 FROM {_GIVEN})
    SELECT there.* FROM workspace_documents AS there
    WHERE {_REMOVABLE} AND EXISTS (SELECT FROM given WHERE given.name = there.name)
    ORDER BY there.id
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_GONE = text(
    f"""
    WITH given AS MATERIALIZED (SELECT name, sha256 FROM {_GIVEN})
    SELECT there.* FROM workspace_documents AS there
    WHERE {_REMOVABLE} AND there.source = CAST(:source AS text)
        AND NOT EXISTS (SELECT FROM given WHERE given.name = there.name)
    ORDER BY there.id
    """  # noqa: S608 - constants of this module; every value is a parameter
)
