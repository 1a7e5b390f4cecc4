"""Who stores a content: an item reserves it, stores it, or releases it.

A reservation counts while the attempt that made it owns its job and the item has not ended. One that counts no more is
taken over by whoever wants the content next; nobody cleans up. That is judged from the statement's snapshot, while the
reservation itself is seen as it is once locked, so it may be newer than what is known of its job. Hence it is taken
over only if its end is certain: attempts never come back, so a higher attempt on the record, or the same one out of
``processing``, is; a lower one is not.
"""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from repositories.documents.outcomes import Reservation, ReservationOutcome
from repositories.errors import InvalidValueError, translated
from repositories.models import Job, WorkspaceDocument
from repositories.schemas import Held
from repositories.states import DocumentState, JobStatus

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
    ) -> Reservation:
        """Say that an item is about to store a content, or learn why it should not.

        An item that reserved before, in this attempt or an earlier one, has its reservation back. One statement, unless
        others write the same content at the same moment, or an earlier attempt reserved another content for this item.

        Args:
            workspace_id: where.
            held: the job and the attempt that owns it.
            position: the item's, from 0.
            name: what a person knows the document by, its folders included; 1 to 4,096 characters.
            source: the label of the set of files it came from, for a later sync; 1 to 255 characters.
            sha256: of the content, 64 lower-case hex digits.
            size: of the content, in bytes.
            media_type: of the content, 1 to 255 characters.
            allow_copy: where the content stands already, store it once more. What is being stored is waited for all the
                same.

        Returns:
            ``MINE``, with locations if an earlier attempt stored the item, whatever its content was; ``HELD`` and
            ``BUSY`` with whose it is; ``LOST`` if the attempt no longer owns the job.

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
        }
        with translated():
            for _ in range(_LOOKS):
                found = (await self._session.execute(_RESERVE, wish)).mappings().one()
                if (reservation := _judged(found, held, name, allow_copy=allow_copy)) is not None:
                    return reservation
                if found["own_state"] is not None:  # another content, or taken over since: then nothing is deleted
                    await self.release(held, position)
        return Reservation(ReservationOutcome.BUSY)

    async def store(self, held: Held, position: int, locations: Collection[str]) -> bool:
        """Record that an item's reserved content stands in the workspace now. Asked again, it changes the locations.

        Args:
            held: the job and the attempt that owns it.
            position: the item's.
            locations: the engine's own ids, 1 to 1,000.

        Returns:
            ``False`` if nothing was written: the attempt no longer owns the job and its task must stop, or there is no
            such reservation, because the workspace was forgotten.

        Raises:
            InvalidValueError: no location, or too many.
        """
        if not 0 < len(locations) <= _MOST_LOCATIONS:
            raise InvalidValueError("locations", f"1 to {_MOST_LOCATIONS:,} are recorded, not {len(locations):,}")
        owner = _owner(held)
        stored = (
            update(WorkspaceDocument)
            .where(WorkspaceDocument.job_id == owner.c.id, WorkspaceDocument.position == position)
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
        owner = _owner(held)
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


def _owner(held: Held) -> CTE:
    """Lock the job's row, if the attempt still owns it: no write of a lost attempt lands."""
    return (
        select(Job.id)
        .where(Job.id == held.job_id, Job.attempt == held.attempt, Job.status == JobStatus.PROCESSING)
        .with_for_update(key_share=True)
        .cte("owner")
    )


def _judged(found: Any, held: Held, name: str, *, allow_copy: bool) -> Reservation | None:
    """What one look says; ``None``: look again."""
    if not found["is_owner"]:
        return Reservation(ReservationOutcome.LOST)
    if found["reserved_as_copy"] is not None:
        return Reservation(ReservationOutcome.MINE, name, held.job_id, (), bool(found["reserved_as_copy"]))
    if found["own_state"] == DocumentState.STORED:
        own = found["own_name"], held.job_id, tuple(found["own_locations"]), bool(found["own_is_copy"])
        return Reservation(ReservationOutcome.MINE, *own)
    if found["own_state"] is not None or found["state"] is None:
        return None
    theirs: tuple[str, UUID] = found["name"], found["job_id"]
    if found["state"] == DocumentState.RESERVED:
        return Reservation(ReservationOutcome.BUSY, *theirs)
    return None if allow_copy else Reservation(ReservationOutcome.HELD, *theirs, tuple(found["locations"]))


# The end of a reservation is certain, see above. A job that is not there was deleted, or is newer than the snapshot.
_IS_OVER = """
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
_RESERVE = text(
    f"""
    WITH owner AS (
        SELECT id FROM jobs
        WHERE id = CAST(:job_id AS uuid) AND attempt = CAST(:attempt AS integer) AND status = 'processing'
        FOR NO KEY UPDATE
    ),
    own AS (
        SELECT name, locations, state, is_copy FROM workspace_documents
        WHERE job_id = CAST(:job_id AS uuid) AND position = CAST(:position AS integer)
    ),
    standing AS (
        (SELECT name, job_id, locations, state FROM workspace_documents
         WHERE workspace_id = CAST(:workspace_id AS integer) AND sha256 = CAST(:sha256 AS text) AND NOT is_copy)
        UNION ALL  -- a copy stays when the first is forgotten
        (SELECT name, job_id, locations, state FROM workspace_documents
         WHERE workspace_id = CAST(:workspace_id AS integer) AND sha256 = CAST(:sha256 AS text) AND is_copy
            AND state = 'stored'
         ORDER BY id LIMIT 1)
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
    taken AS (
        INSERT INTO workspace_documents AS there
            (workspace_id, name, source, sha256, size, media_type, job_id, position, attempt, is_copy, state)
        SELECT CAST(:workspace_id AS integer), CAST(:name AS text), CAST(:source AS text), CAST(:sha256 AS text),
            CAST(:size AS bigint), CAST(:media_type AS text), owner.id, CAST(:position AS integer),
            CAST(:attempt AS integer), EXISTS (SELECT FROM standing WHERE state = 'stored'), 'reserved'
        FROM owner
        WHERE NOT EXISTS (SELECT FROM own)
            AND (CAST(:allow_copy AS boolean) OR NOT EXISTS (SELECT FROM standing WHERE state = 'stored'))
        ON CONFLICT (workspace_id, sha256) WHERE NOT is_copy DO UPDATE
        SET name = excluded.name, source = excluded.source, size = excluded.size, media_type = excluded.media_type,
            job_id = excluded.job_id, position = excluded.position, attempt = excluded.attempt,
            reserved_at = clock_timestamp()
        WHERE there.state = 'reserved' AND ({_IS_OVER})
        RETURNING there.is_copy
    )
    SELECT EXISTS (SELECT FROM owner) AS is_owner,
        coalesce((SELECT is_copy FROM resumed), (SELECT is_copy FROM taken)) AS reserved_as_copy,
        own.name AS own_name, own.locations AS own_locations, own.state AS own_state, own.is_copy AS own_is_copy,
        standing.name, standing.job_id, standing.locations, standing.state
    FROM (VALUES (1)) AS one LEFT JOIN own ON true
    LEFT JOIN (SELECT * FROM standing ORDER BY state DESC LIMIT 1) AS standing ON true  -- 'stored' before 'reserved'
    """  # noqa: S608 - constants of this module; every value is a parameter
)
