"""Who stores a content: an item reserves it, stores it, or releases it.

A reservation counts while the attempt that made it owns its job and the item has not ended
(:mod:`repositories.documents.fences`); nobody cleans up. An item that finds its content says so on the content's row in
the same statement: from then on no older job removes it, and whoever removes it at that moment is seen.
"""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, literal, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from repositories.documents.fences import OWNER, REMOVAL_IS_OVER, RESERVATION_IS_OVER, owner_of
from repositories.documents.outcomes import Reservation, ReservationOutcome
from repositories.errors import InvalidValueError, translated
from repositories.models import WorkspaceDocument
from repositories.schemas import Held
from repositories.states import DocumentState

_MOST_LOCATIONS = 1_000
_LOOKS = 3  # at a content that others write at the same moment, before it is called busy


class Reserving:
    """An item's own steps. Each is one statement, or a few where others get in between."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def reserve(  # noqa: PLR0913 - what the row holds; a class for this one call would say it all twice
        self,
        workspace_id: int,
        held: Held,
        position: int,
        name: str,
        source: str | None,
        sha256: str,
        size: int,
        media_type: str,
        *,
        allow_copy: bool = False,
        whole: bool = False,
    ) -> Reservation:
        """Say that an item is about to store a content, or learn why it should not.

        An item that reserved before, in this attempt or an earlier one, has its reservation back. One statement, unless
        others write the same content at the same moment, or an earlier attempt reserved another content for this item.

        A content that is found is relied on from then on: under another name or from another source it is marked as
        shared; in a whole set that has it under another name now, it is renamed. Only a newer job removes it.

        Args:
            workspace_id: where.
            held: the job and the attempt that owns it.
            position: the item's, from 0.
            name: what a person knows the document by, its folders included; 1 to 4,096 characters.
            source: the label of the set of files it came from, for a later sync; 1 to 255 characters.
            sha256: of the content, 64 lower-case hex digits.
            size: of the content, in bytes.
            media_type: of the content, 1 to 255 characters.
            allow_copy: where the content stands already, store it once more. What is being stored or removed is waited
                for all the same.
            whole: the items of this job are all of their source.

        Returns:
            ``MINE``, with locations if an earlier attempt stored the item, whatever its content was; ``HELD`` and
            ``BUSY`` with whose it is; ``ABANDONED`` with what is left to remove; ``LOST`` if the attempt no longer owns
            the job.

        Raises:
            ConflictError: a value is out of its range, or the workspace is not on the record any more.
        """
        wish = {
            "workspace_id": workspace_id,
            "job_id": held.job_id,
            "attempt": held.attempt,
            "position": position,
            "name": name,
            "source": source,
            "sha256": sha256,
            "size": size,
            "media_type": media_type,
            "allow_copy": allow_copy,
            "whole": whole,
        }
        with translated():
            for _ in range(_LOOKS):
                found = (await self._session.execute(_RESERVE, wish)).mappings().one()
                if (reservation := _judged(found, held, name)) is not None:
                    return reservation
                if found["own_state"] == DocumentState.RESERVED:  # another content, or taken over: nothing is deleted
                    await self.release(held, position)
        return Reservation(ReservationOutcome.BUSY)

    async def store(self, held: Held, position: int, locations: Collection[str]) -> bool:
        """Record that an item's reserved content stands in the workspace now. Asked again, it changes the locations.

        Args:
            held: the job and the attempt that owns it.
            position: the item's.
            locations: the engine's own ids, 1 to 1,000.

        Returns:
            ``False`` if nothing was written: the attempt no longer owns the job and its task must stop; or there is no
            such reservation, because the workspace was forgotten; or what an earlier attempt stored is being removed.

        Raises:
            InvalidValueError: no location, or too many.
        """
        if not 0 < len(locations) <= _MOST_LOCATIONS:
            raise InvalidValueError("locations", f"1 to {_MOST_LOCATIONS:,} are recorded, not {len(locations):,}")
        owner = owner_of(held)
        stored = (
            update(WorkspaceDocument)
            .where(
                WorkspaceDocument.job_id == owner.c.id,
                WorkspaceDocument.position == position,
                WorkspaceDocument.state != DocumentState.REMOVING,
            )
            .values(
                state=DocumentState.STORED,
                locations=literal(list(locations), ARRAY(Text)),
                stored_at=func.clock_timestamp(),
                attempt=held.attempt,
            )
            .returning(WorkspaceDocument.id)
            .execution_options(synchronize_session=False)
        )
        with translated():
            return await self._session.scalar(stored) is not None

    async def release(self, held: Held, position: int) -> bool:
        """Give up an item's reservation: it ended without storing. What it stored already stays.

        Returns:
            ``False`` if there was none, or the attempt no longer owns the job.
        """
        owner = owner_of(held)
        released = (
            delete(WorkspaceDocument)
            .where(
                WorkspaceDocument.job_id == owner.c.id,
                WorkspaceDocument.position == position,
                WorkspaceDocument.state == DocumentState.RESERVED,
            )
            .returning(WorkspaceDocument.id)
            .execution_options(synchronize_session=False)
        )
        with translated():
            return await self._session.scalar(released) is not None


def _judged(found: Any, held: Held, name: str) -> Reservation | None:
    """What one look says; ``None``: look again."""
    if not found["is_owner"]:
        return Reservation(ReservationOutcome.LOST)
    if found["reserved_as_copy"] is not None:
        return Reservation(ReservationOutcome.MINE, name, held.job_id, (), bool(found["reserved_as_copy"]))
    if found["own_state"] == DocumentState.STORED:
        own = found["own_name"], held.job_id, tuple(found["own_locations"]), bool(found["own_is_copy"])
        return Reservation(ReservationOutcome.MINE, *own)
    if found["adopted_id"] is not None:
        left = tuple(found["adopted_locations"])
        return Reservation(ReservationOutcome.ABANDONED, name, held.job_id, left, document_id=found["adopted_id"])
    if found["own_state"] == DocumentState.REMOVING:
        return Reservation(ReservationOutcome.BUSY, found["own_name"], held.job_id)
    if found["own_state"] is not None or found["state"] is None:
        return None
    theirs: tuple[str, UUID] = found["name"], found["job_id"]
    if found["state"] != DocumentState.STORED:
        return Reservation(ReservationOutcome.BUSY, *theirs)
    # Where it was not found after all, somebody began to remove it this very moment.
    return Reservation(ReservationOutcome.HELD, *theirs, tuple(found["locations"])) if found["was_found"] else None


# The set has the content under another name now, and not also under the one that this very job found before.
_IS_RENAMED = """
    CAST(:whole AS boolean) AND NOT there.shared AND there.source = CAST(:source AS text)
    AND there.found_by IS DISTINCT FROM owner.id
"""
# No row may be written twice by one statement: a content that is being removed is not inserted, and one that stands is
# found or copied.
_RESERVE = text(
    f"""
    WITH owner AS ({OWNER}),
    own AS (
        SELECT id, name, locations, state, is_copy FROM workspace_documents
        WHERE job_id = CAST(:job_id AS uuid) AND position = CAST(:position AS integer)
    ),
    candidates AS MATERIALIZED (
        (SELECT id, name, source, job_id, locations, state FROM workspace_documents
         WHERE workspace_id = CAST(:workspace_id AS integer) AND sha256 = CAST(:sha256 AS text) AND NOT is_copy)
        UNION ALL  -- a copy stays when the first is forgotten
        (SELECT id, name, source, job_id, locations, state FROM workspace_documents
         WHERE workspace_id = CAST(:workspace_id AS integer) AND sha256 = CAST(:sha256 AS text) AND is_copy
            AND state = 'stored'
         ORDER BY name = CAST(:name AS text) AND source IS NOT DISTINCT FROM CAST(:source AS text) DESC, id LIMIT 1)
    ),
    standing AS MATERIALIZED (
        SELECT * FROM candidates
        ORDER BY state DESC,  -- 'stored' before 'reserved' before 'removing'
            name = CAST(:name AS text) AND source IS NOT DISTINCT FROM CAST(:source AS text) DESC, id
        LIMIT 1
    ),
    resumed AS (
        UPDATE workspace_documents AS there
        SET attempt = CAST(:attempt AS integer), name = CAST(:name AS text), source = CAST(:source AS text),
            reserved_at = clock_timestamp()
        FROM owner
        WHERE there.job_id = owner.id AND there.position = CAST(:position AS integer) AND there.state = 'reserved'
            AND there.workspace_id = CAST(:workspace_id AS integer) AND there.sha256 = CAST(:sha256 AS text)
        RETURNING there.is_copy
    ),
    found AS (
        UPDATE workspace_documents AS there
        SET found_by = greatest(there.found_by, owner.id),
            name = CASE WHEN {_IS_RENAMED} THEN CAST(:name AS text) ELSE there.name END,
            shared = there.shared OR there.source IS DISTINCT FROM CAST(:source AS text)
                OR (there.name <> CAST(:name AS text) AND NOT CAST(:whole AS boolean))
        FROM owner
        WHERE there.id = (SELECT id FROM standing) AND there.state = 'stored'
            AND NOT CAST(:allow_copy AS boolean) AND NOT EXISTS (SELECT FROM own)
        RETURNING there.id
    ),
    adopted AS (
        UPDATE workspace_documents AS there
        SET remover_id = owner.id, remover_attempt = CAST(:attempt AS integer), removing_at = clock_timestamp()
        FROM owner
        WHERE there.id = coalesce((SELECT id FROM own), (SELECT id FROM standing)) AND there.state = 'removing'
            AND ({REMOVAL_IS_OVER})
        RETURNING there.id, there.locations
    ),
    taken AS (
        INSERT INTO workspace_documents AS there
            (workspace_id, name, source, sha256, size, media_type, job_id, position, attempt, is_copy, state)
        SELECT CAST(:workspace_id AS integer), CAST(:name AS text), CAST(:source AS text), CAST(:sha256 AS text),
            CAST(:size AS bigint), CAST(:media_type AS text), owner.id, CAST(:position AS integer),
            CAST(:attempt AS integer), EXISTS (SELECT FROM standing WHERE state = 'stored'), 'reserved'
        FROM owner
        WHERE NOT EXISTS (SELECT FROM own) AND NOT EXISTS (SELECT FROM standing WHERE state = 'removing')
            AND (CAST(:allow_copy AS boolean) OR NOT EXISTS (SELECT FROM standing WHERE state = 'stored'))
        ON CONFLICT (workspace_id, sha256) WHERE NOT is_copy DO UPDATE
        SET name = excluded.name, source = excluded.source, size = excluded.size, media_type = excluded.media_type,
            job_id = excluded.job_id, position = excluded.position, attempt = excluded.attempt,
            reserved_at = clock_timestamp(), found_by = NULL, shared = false
        WHERE there.state = 'reserved' AND ({RESERVATION_IS_OVER})
        RETURNING there.is_copy
    )
    SELECT EXISTS (SELECT FROM owner) AS is_owner, EXISTS (SELECT FROM found) AS was_found,
        coalesce((SELECT is_copy FROM resumed), (SELECT is_copy FROM taken)) AS reserved_as_copy,
        own.name AS own_name, own.locations AS own_locations, own.state AS own_state, own.is_copy AS own_is_copy,
        adopted.id AS adopted_id, adopted.locations AS adopted_locations,
        standing.name, standing.job_id, standing.locations, standing.state
    FROM (VALUES (1)) AS one LEFT JOIN own ON true LEFT JOIN standing ON true LEFT JOIN adopted ON true
    """  # noqa: S608 - constants of this module; every value is a parameter
)
