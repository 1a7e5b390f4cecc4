"""Documents and passages in PostgreSQL: written whole or not at all, once per key.

Promise: two workers that store the same document at the same time leave one, because the table's own constraints
decide, not a look beforehand. Nothing here commits; the caller owns the transaction. A call is one statement for all
but large documents, because a folder of small files is mostly round trips.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from worker.documents.extract.blocks import clean
from worker.documents.extract.exchange import Parsed
from worker.engines.base import Document

ENGINE = "local"
_NIL = UUID(int=0)
PASSAGES_AT_A_TIME = 1_000
"""So many are read, embedded and written at a time: a large document takes no more memory and holds up nobody."""

_ROWS_A_STATEMENT = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """A document that is in the workspace.

    Attributes:
        id: its location.
        key, name: what it was stored under.
        pages, words, passages: as they were counted then.
        is_embedded: whether it is searchable.
    """

    id: UUID
    key: str
    name: str
    pages: int | None
    words: int
    passages: int
    is_embedded: bool


@dataclass(frozen=True, slots=True)
class PassageText:
    """What is embedded of a passage, and where its vector goes."""

    document_id: UUID
    position: int
    name: str
    heading: str | None
    text: str


class Store:
    """The local engine's documents and passages, within one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def configure(self, workspace_id: int, settings: Mapping[str, object]) -> None:
        """Set these settings of a workspace; the others stay as they are."""
        await self._session.execute(_CONFIGURE, {"workspace_id": workspace_id, "settings": json.dumps(settings)})

    async def find(self, slug: str, key: str) -> tuple[int | None, Held | None]:
        """Return the workspace's id, if there is one, and what it holds under this key."""
        row = (await self._session.execute(_FIND, {"engine": ENGINE, "slug": slug, "key": key})).first()
        if row is None:
            return None, None
        workspace_id, *held = row
        return workspace_id, None if held[0] is None else Held(*held)

    async def add(self, workspace_id: int, document: Document, parsed: Parsed) -> Held | None:
        """Write a document with its passages and return it.

        Returns:
            ``None`` if the workspace holds this key already, or is gone; nothing was written. Where another transaction
            is about to write it, this waits for how that ends.
        """
        name = clean(document.name) or "document"
        held = Held(uuid.uuid7(), document.key, name, parsed.pages, parsed.words, len(parsed.texts), False)  # noqa: FBT003 - not embedded
        values = {
            "id": held.id,
            "workspace_id": workspace_id,
            "key": document.key,
            "name": name,
            "sha256": document.sha256,
            "media_type": document.media_type,
            "pages": parsed.pages,
            "words": parsed.words,
            "passages": held.passages,
        }
        if await self._session.scalar(_ADD, values | _rows(parsed, 0)) is None:
            return None
        for start in range(_ROWS_A_STATEMENT, held.passages, _ROWS_A_STATEMENT):
            await self._session.execute(_ADD_MORE, {"id": held.id, "workspace_id": workspace_id} | _rows(parsed, start))
        return held

    async def held(self, slug: str, ids: Sequence[UUID]) -> list[Held] | None:
        """Return those of these documents that are in the workspace; ``None`` if there is no such workspace."""
        rows = (await self._session.execute(_HELD, {"engine": ENGINE, "slug": slug, "ids": list(ids)})).all()
        return [Held(*row) for row in rows if row[0] is not None] if rows else None

    async def locations(self, slug: str) -> list[UUID] | None:
        """Return the ids of the workspace's searchable documents; ``None`` if there is no such workspace."""
        found: list[UUID] | None = await self._session.scalar(_LOCATIONS, {"engine": ENGINE, "slug": slug})
        return found

    async def remove(self, slug: str, ids: Sequence[UUID]) -> bool:
        """Delete those of these documents that are in the workspace; ``False`` if there is no such workspace."""
        parameters = {"engine": ENGINE, "slug": slug, "ids": list(ids)}
        return await self._session.scalar(_REMOVE, parameters) is not None

    async def sweep(self, slug: str, job_id: UUID, keep: Sequence[UUID]) -> int:
        """Delete the job's documents that are not kept, and return how many there were."""
        parameters = {"engine": ENGINE, "slug": slug, "prefix": f"{job_id}/", "keep": list(keep)}
        return int(await self._session.scalar(_SWEEP, parameters) or 0)

    async def passages(self, ids: Sequence[UUID], after: PassageText | None = None) -> list[PassageText]:
        """Return the next ``PASSAGES_AT_A_TIME`` passages of these documents; fewer are the last ones.

        Args:
            ids: the documents.
            after: the last one of those before; ``None`` begins with the first.
        """
        document, position = (_NIL, -1) if after is None else (after.document_id, after.position)
        parameters = {"ids": list(ids), "document": document, "position": position}
        return [PassageText(*row) for row in await self._session.execute(_PASSAGES, parameters)]

    async def make_searchable(
        self, ids: Sequence[UUID], places: Sequence[PassageText], vectors: Sequence[str], *, last: bool
    ) -> None:
        """Write the vectors of passages of these documents, and behind the last ones that they are embedded.

        Documents that another worker embedded meanwhile are left alone. Where passages have no vectors (the server has
        no pgvector) both lists are empty.
        """
        if not last:
            await self._session.execute(_LOCK, {"ids": list(ids)})  # two workers would write the rows in any order
            await self._session.execute(_WRITE_VECTORS, _vectors(places, vectors))
        elif places:
            await self._session.execute(_WRITE_LAST_VECTORS, {"ids": list(ids)} | _vectors(places, vectors))
        else:
            await self._session.execute(_MARK, {"ids": list(ids)})


def _rows(parsed: Parsed, start: int) -> dict[str, object]:
    rows = slice(start, start + _ROWS_A_STATEMENT)
    return {
        "start": start,
        "texts": parsed.texts[rows],
        "on_pages": parsed.on_pages[rows],
        "headings": parsed.headings[rows],
    }


def _vectors(places: Sequence[PassageText], vectors: Sequence[str]) -> dict[str, object]:
    return {
        "documents": [place.document_id for place in places],
        "positions": [place.position for place in places],
        "vectors": list(vectors),
    }


_DOCUMENT = """
    documents.id, documents.key, documents.name, documents.pages, documents.words, documents.passages,
    documents.embedded_at IS NOT NULL
"""
_CONFIGURE = text("UPDATE workspaces SET settings = settings || CAST(:settings AS jsonb) WHERE id = :workspace_id")
_FIND = text(
    f"""
    SELECT workspaces.id, {_DOCUMENT}
    FROM workspaces LEFT JOIN documents ON documents.workspace_id = workspaces.id AND documents.key = :key
    WHERE workspaces.engine = :engine AND workspaces.slug = :slug
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_LOCATIONS = text(
    """
    SELECT ARRAY(
        SELECT documents.id FROM documents
        WHERE documents.workspace_id = workspaces.id AND documents.embedded_at IS NOT NULL)
    FROM workspaces WHERE workspaces.engine = :engine AND workspaces.slug = :slug
    """
)
# In id order, as those who embed lock them.
_REMOVE = text(
    """
    WITH workspace AS (SELECT id FROM workspaces WHERE engine = :engine AND slug = :slug),
    chosen AS (
        SELECT documents.id FROM documents
        WHERE documents.workspace_id = (SELECT id FROM workspace) AND documents.id = ANY(CAST(:ids AS uuid[]))
        ORDER BY documents.id FOR UPDATE
    ),
    removed AS (DELETE FROM documents USING chosen WHERE documents.id = chosen.id)
    SELECT id FROM workspace
    """
)
_SWEEP = text(
    """
    WITH chosen AS (
        SELECT documents.id FROM documents
        WHERE documents.workspace_id = (SELECT id FROM workspaces WHERE engine = :engine AND slug = :slug)
            AND starts_with(documents.key, :prefix) AND documents.id <> ALL(CAST(:keep AS uuid[]))
        ORDER BY documents.id FOR UPDATE
    ),
    removed AS (DELETE FROM documents USING chosen WHERE documents.id = chosen.id RETURNING documents.id)
    SELECT count(*) FROM removed
    """
)
_HELD = text(
    f"""
    SELECT {_DOCUMENT}
    FROM workspaces LEFT JOIN documents
        ON documents.workspace_id = workspaces.id AND documents.id = ANY(CAST(:ids AS uuid[]))
    WHERE workspaces.engine = :engine AND workspaces.slug = :slug
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_NEW_PASSAGES = """
    unnest(CAST(:texts AS text[]), CAST(:on_pages AS integer[]), CAST(:headings AS text[]))
        WITH ORDINALITY AS new (text, page, heading, ordinal)
"""
_ADD = text(
    f"""
    WITH document AS (
        INSERT INTO documents (id, workspace_id, key, name, sha256, media_type, pages, words, passages)
        SELECT CAST(:id AS uuid), id, CAST(:key AS text), CAST(:name AS text), CAST(:sha256 AS text),
            CAST(:media_type AS text), CAST(:pages AS integer), CAST(:words AS integer), CAST(:passages AS integer)
        FROM workspaces WHERE id = :workspace_id
        ON CONFLICT DO NOTHING
        RETURNING id, workspace_id
    ),
    written AS (
        INSERT INTO passages (document_id, position, workspace_id, text, page, heading)
        SELECT document.id, :start + new.ordinal, document.workspace_id, new.text, new.page, new.heading
        FROM document, {_NEW_PASSAGES}
    )
    SELECT id FROM document
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_ADD_MORE = text(
    f"""
    INSERT INTO passages (document_id, position, workspace_id, text, page, heading)
    SELECT CAST(:id AS uuid), :start + new.ordinal, :workspace_id, new.text, new.page, new.heading
    FROM {_NEW_PASSAGES}
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_PASSAGES = text(
    f"""
    SELECT passages.document_id, passages.position, documents.name, passages.heading, passages.text
    FROM passages JOIN documents ON documents.id = passages.document_id
    WHERE passages.document_id = ANY(CAST(:ids AS uuid[]))
        AND (passages.document_id, passages.position) > (CAST(:document AS uuid), CAST(:position AS integer))
    ORDER BY passages.document_id, passages.position
    LIMIT {PASSAGES_AT_A_TIME}
    """  # noqa: S608 - constants of this module; every value is a parameter
)
# In id order: two workers that embed overlapping batches would otherwise wait for each other for ever.
_UNEMBEDDED = """
    SELECT id FROM documents WHERE id = ANY(CAST(:ids AS uuid[])) AND embedded_at IS NULL ORDER BY id FOR UPDATE
"""
_NEW_VECTORS = """
    unnest(CAST(:documents AS uuid[]), CAST(:positions AS integer[]), CAST(:vectors AS text[]))
        AS new (document_id, position, vector)
"""
_LOCK = text(_UNEMBEDDED)
_MARK = text(
    f"""
    WITH mine AS ({_UNEMBEDDED})
    UPDATE documents SET embedded_at = clock_timestamp() FROM mine WHERE documents.id = mine.id
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_WRITE_VECTORS = text(
    f"""
    UPDATE passages SET embedding = CAST(new.vector AS vector)
    FROM {_NEW_VECTORS}
    WHERE passages.document_id = new.document_id AND passages.position = new.position
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_WRITE_LAST_VECTORS = text(
    f"""
    WITH mine AS MATERIALIZED ({_UNEMBEDDED}),
    written AS (
        UPDATE passages SET embedding = CAST(new.vector AS vector)
        FROM {_NEW_VECTORS} JOIN mine ON mine.id = new.document_id
        WHERE passages.document_id = new.document_id AND passages.position = new.position
    )
    UPDATE documents SET embedded_at = clock_timestamp() FROM mine WHERE documents.id = mine.id
    """  # noqa: S608 - constants of this module; every value is a parameter
)
