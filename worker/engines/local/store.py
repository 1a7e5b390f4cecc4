"""Documents and passages in PostgreSQL: written whole or not at all, once per key and once per content.

Promise: two workers that store the same document at the same time leave one, because the table's own constraints
decide, not a look beforehand. Nothing here commits; the caller owns the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import ARRAY, Integer, Text, Uuid, column, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.models import Passage, StoredDocument, Workspace
from worker.engines.base import Document
from worker.engines.local.parser_process import Parsed

ENGINE = "local"
_ROWS_A_STATEMENT = 2_000


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


_HELD = select(
    StoredDocument.id,
    StoredDocument.key,
    StoredDocument.name,
    StoredDocument.pages,
    StoredDocument.words,
    StoredDocument.passages,
    StoredDocument.embedded_at.is_not(None),
)


class Store:
    """The local engine's documents and passages, within one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def workspace_id(self, slug: str) -> int | None:
        """Return the id of the workspace with this slug; ``None`` if there is none."""
        found: int | None = await self._session.scalar(
            select(Workspace.id).where(Workspace.engine == ENGINE, Workspace.slug == slug)
        )
        return found

    async def find(self, workspace_id: int, document: Document) -> Held | None:
        """Return what the workspace holds under this key, or else with this content."""
        rows = await self._session.execute(
            _HELD.where(StoredDocument.workspace_id == workspace_id)
            .where((StoredDocument.key == document.key) | (StoredDocument.sha256 == document.sha256))
            .order_by((StoredDocument.key == document.key).desc())
            .limit(1)
        )
        row = rows.first()
        return None if row is None else Held(*row)

    async def add(self, workspace_id: int, document: Document, parsed: Parsed) -> bool:
        """Write a document with its passages.

        Returns:
            ``False`` if the workspace holds this key or this content already; nothing was written. Where another
            transaction is about to write it, this waits for how that ends.
        """
        document_id: UUID | None = await self._session.scalar(
            insert(StoredDocument)
            .values(
                id=uuid.uuid7(),
                workspace_id=workspace_id,
                key=document.key,
                name=document.name,
                sha256=document.sha256,
                media_type=document.media_type,
                pages=parsed.pages,
                words=parsed.words,
                passages=len(parsed.texts),
            )
            .on_conflict_do_nothing()
            .returning(StoredDocument.id)
        )
        if document_id is None:
            return False
        for start in range(0, len(parsed.texts), _ROWS_A_STATEMENT):
            rows = slice(start, start + _ROWS_A_STATEMENT)
            new = (
                func.unnest(
                    literal(parsed.texts[rows], ARRAY(Text)),
                    literal(parsed.on_pages[rows], ARRAY(Integer)),
                    literal(parsed.headings[rows], ARRAY(Text)),
                )
                .table_valued(
                    column("text", Text),
                    column("page", Integer),
                    column("heading", Text),
                    with_ordinality="ordinal",
                    name="new",
                )
                .render_derived()
            )
            await self._session.execute(
                insert(Passage).from_select(
                    ["document_id", "position", "workspace_id", "text", "page", "heading"],
                    select(
                        literal(document_id, Uuid),
                        new.c.ordinal + literal(start, Integer),
                        literal(workspace_id, Integer),
                        new.c.text,
                        new.c.page,
                        new.c.heading,
                    ),
                )
            )
        return True

    async def held(self, workspace_id: int, ids: Sequence[UUID]) -> list[Held]:
        """Return those of these documents that are in the workspace."""
        rows = await self._session.execute(
            _HELD.where(StoredDocument.workspace_id == workspace_id, StoredDocument.id.in_(ids))
        )
        return [Held(*row) for row in rows]

    async def passages(self, ids: Sequence[UUID]) -> list[PassageText]:
        """Return the passages of these documents."""
        rows = await self._session.execute(
            select(Passage.document_id, Passage.position, StoredDocument.name, Passage.heading, Passage.text)
            .join(StoredDocument, StoredDocument.id == Passage.document_id)
            .where(Passage.document_id.in_(ids))
            .order_by(Passage.document_id, Passage.position)
        )
        return [PassageText(*row) for row in rows]

    async def lock_unembedded(self, ids: Sequence[UUID]) -> set[UUID]:
        """Lock those of these documents that are not embedded yet, and return them.

        In id order: two workers that embed overlapping batches would otherwise wait for each other for ever.
        """
        rows = await self._session.scalars(
            select(StoredDocument.id)
            .where(StoredDocument.id.in_(ids), StoredDocument.embedded_at.is_(None))
            .order_by(StoredDocument.id)
            .with_for_update()
        )
        return set(rows)

    async def write_vectors(self, places: Sequence[PassageText], vectors: Sequence[str]) -> None:
        """Write the vectors of these passages, each in pgvector's text form; the column must exist."""
        for start in range(0, len(places), _ROWS_A_STATEMENT):
            rows = slice(start, start + _ROWS_A_STATEMENT)
            await self._session.execute(
                _WRITE_VECTORS,
                {
                    "documents": [place.document_id for place in places[rows]],
                    "positions": [place.position for place in places[rows]],
                    "vectors": list(vectors[rows]),
                },
            )

    async def mark_embedded(self, ids: Sequence[UUID]) -> None:
        """Make these documents searchable."""
        await self._session.execute(
            update(StoredDocument)
            .where(StoredDocument.id.in_(ids))
            .values(embedded_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )


_WRITE_VECTORS = text(
    """
    UPDATE passages
    SET embedding = new.vector::vector
    FROM unnest(CAST(:documents AS uuid[]), CAST(:positions AS integer[]), CAST(:vectors AS text[]))
        AS new (document_id, position, vector)
    WHERE passages.document_id = new.document_id AND passages.position = new.position
    """
)
