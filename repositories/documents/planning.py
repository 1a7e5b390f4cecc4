"""What storing a set of files would do, before anything is done."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.documents.outcomes import Plan, PlannedDocument, Verdict
from repositories.errors import InvalidValueError, translated
from repositories.schemas import MAX_ITEMS


class Planning:
    """Compare a set of files with what stands."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def plan(self, workspace_id: int, files: Sequence[tuple[str, str]], source: str | None = None) -> Plan:
        """Say for each file what storing it would do, in one statement; nothing is written.

        Args:
            workspace_id: where they would be stored.
            files: name and SHA-256 (lower-case hex) of each, at most ``MAX_ITEMS`` (100,000).
            source: the label of the set, to learn what it held before and holds no more; ``None`` asks nothing.

        Raises:
            InvalidValueError: too many files.
        """
        if len(files) > MAX_ITEMS:
            raise InvalidValueError("files", f"at most {MAX_ITEMS:,} are planned at a time, not {len(files):,}")
        parameters = {
            "workspace_id": workspace_id,
            "names": [name for name, _ in files],
            "contents": [sha256 for _, sha256 in files],
            "source": source,
        }
        plan = Plan([], [])
        with translated():
            for ordinal, verdict, name in await self._session.execute(_PLAN, parameters):
                if ordinal is None:
                    plan.orphaned.append(name)
                else:
                    given, sha256 = files[ordinal - 1]
                    plan.documents.append(PlannedDocument(given, sha256, Verdict(verdict), name))
        return plan


_PLAN = text(
    """
    WITH given AS MATERIALIZED (
        SELECT ordinal, name, sha256, first_value(name) OVER earlier AS first_name, row_number() OVER earlier AS turn
        FROM unnest(CAST(:names AS text[]), CAST(:contents AS text[])) WITH ORDINALITY AS file (name, sha256, ordinal)
        WINDOW earlier AS (PARTITION BY sha256 ORDER BY ordinal)
    ),
    there AS MATERIALIZED (
        SELECT id, name, sha256, source FROM workspace_documents
        WHERE workspace_id = CAST(:workspace_id AS integer) AND state = 'stored'
    ),
    same_content AS (
        SELECT DISTINCT ON (given.ordinal) given.ordinal, there.name
        FROM given JOIN there ON there.sha256 = given.sha256
        ORDER BY given.ordinal, there.name <> given.name, there.id
    ),
    judged AS (
        SELECT given.ordinal,
            CASE WHEN same_content.name = given.name THEN 'unchanged'
                WHEN same_content.name IS NOT NULL OR given.turn > 1 THEN 'duplicate'
                WHEN named.name IS NOT NULL THEN 'changed'
                ELSE 'new'
            END AS verdict,
            coalesce(same_content.name, CASE WHEN given.turn > 1 THEN given.first_name END) AS twin
        FROM given
        LEFT JOIN same_content ON same_content.ordinal = given.ordinal
        LEFT JOIN (SELECT DISTINCT name FROM there) AS named ON named.name = given.name
    )
    (SELECT ordinal, verdict, CASE verdict WHEN 'duplicate' THEN twin END FROM judged)
    UNION ALL
    (SELECT NULL, NULL, orphan.name
     FROM (SELECT DISTINCT name FROM there WHERE source = CAST(:source AS text)) AS orphan
     WHERE NOT EXISTS (SELECT FROM given WHERE given.name = orphan.name))
    ORDER BY 1, 3
    """
)
