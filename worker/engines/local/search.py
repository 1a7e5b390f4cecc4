"""Which passages of a workspace may answer a question: full text and vectors together, in two statements.

The first counts how many passages hold each word of the question, the second ranks passages both ways and fuses the two
rankings (reciprocal rank fusion). Without pgvector the vectors' half is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from worker.engines.local.store import ENGINE

CANDIDATES = 20
_PER_RANKING = 40
_FUSION = 60  # how much the first ranks count for; the value of the method's authors
_MOST_COUNTED = 5_000  # a word in more passages than this is common, however many more
_MOST_MATCHED = 20_000  # passages that full text may have to rank
EXACT_BELOW = 5_000  # passages up to which every distance is computed (25 ms); above, the index is asked


@dataclass(frozen=True, slots=True)
class Counts:
    """What a workspace knows of the words of a question.

    Attributes:
        workspace_id: the workspace.
        size: number of its searchable passages.
        of: for each word asked for, how many passages hold it.
        settings: how the workspace answers, as JSON of :class:`worker.engines.base.WorkspaceSettings`.
    """

    workspace_id: int
    size: int
    of: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def weight(self, index: int) -> float:
        """Return how much the word tells one passage from others (inverse document frequency); more for a rare word."""
        return math.log(1 + (self.size + 1) / (self.of[index] + 0.5))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that may answer a question.

    Attributes:
        document_id, position: the passage.
        document: the name the document was uploaded under.
        page, heading, text: as they were stored.
        score: of the fused ranking; higher is better.
        cosine: likeness of question and passage by their vectors, 0 where there are none.
    """

    document_id: UUID
    position: int
    document: str
    page: int | None
    heading: str | None
    text: str
    score: float
    cosine: float


async def count_words(session: AsyncSession, slug: str, words: Sequence[str]) -> Counts | None:
    """Return what the workspace knows of these words; ``None`` if there is no such workspace."""
    parameters = {"engine": ENGINE, "slug": slug, "words": list(words), "most": _MOST_COUNTED}
    row = (await session.execute(_COUNTS, parameters)).first()
    return None if row is None else Counts(row[0], int(row[1]), tuple(row[2] or ()), row[3])


async def find_candidates(
    session: AsyncSession, counts: Counts, words: Sequence[str], vector: str | None, *, iterative: bool
) -> list[Candidate]:
    """Return the passages that fit the question best, best first; at most ``CANDIDATES``.

    Args:
        session: the caller's.
        counts: of these words.
        words: of the question.
        vector: of the question, in pgvector's text form; ``None`` to search by full text alone.
        iterative: pgvector can go on searching its index until enough passages of the workspace are found (0.8).
    """
    known = sorted((count, index) for index, count in enumerate(counts.of) if count)
    chosen: list[int] = []
    matched = 0
    for count, index in known:  # rare words first; common ones only while the number of matches stays bounded
        matched += count
        if chosen and matched > _MOST_MATCHED:
            break
        chosen.append(index)
    parameters = {
        "workspace_id": counts.workspace_id,
        "words": [words[index] for index in chosen],
        "weights": [counts.weight(index) for index in chosen],
        "ranked": _PER_RANKING,
        "fusion": _FUSION,
        "candidates": CANDIDATES,
    }
    if vector is None:
        rows = await session.execute(_BY_TEXT, parameters)
    elif counts.size <= EXACT_BELOW or not iterative:
        rows = await session.execute(_BY_BOTH_EXACTLY, parameters | {"vector": vector})
    else:
        await session.execute(_ITERATIVE)
        rows = await session.execute(_BY_BOTH_INDEXED, parameters | {"vector": vector})
    return [Candidate(*row) for row in rows]


_COUNTS = text(
    """
    SELECT workspace.id,
        (SELECT coalesce(sum(passages), 0) FROM documents
         WHERE workspace_id = workspace.id AND embedded_at IS NOT NULL),
        (SELECT array_agg(
            (SELECT count(*) FROM (
                SELECT FROM passages
                WHERE passages.workspace_id = workspace.id
                    AND passages.search @@ phraseto_tsquery('english', given.word)
                LIMIT :most) AS counted)
            ORDER BY given.ordinal)
         FROM unnest(CAST(:words AS text[])) WITH ORDINALITY AS given (word, ordinal)),
        workspace.settings
    FROM workspaces AS workspace
    WHERE workspace.engine = :engine AND workspace.slug = :slug
    """
)

# Any of the words is enough; what ranks a passage is how much the words it holds weigh, then how close they stand.
_FULL_TEXT = """
    term AS MATERIALIZED (
        SELECT phraseto_tsquery('english', word) AS query, weight
        FROM unnest(CAST(:words AS text[]), CAST(:weights AS float8[])) AS given (word, weight)
    ),
    any_term AS MATERIALIZED (SELECT string_agg(query::text, ' | ')::tsquery AS query FROM term),
    by_text AS (
        SELECT document_id, position,
            row_number() OVER (ORDER BY fit DESC, closeness DESC, document_id, position) AS rank
        FROM (
            SELECT passages.document_id, passages.position,
                (SELECT sum(weight) FROM term WHERE passages.search @@ term.query) AS fit,
                ts_rank_cd(passages.search, any_term.query) AS closeness
            FROM any_term, passages JOIN documents ON documents.id = passages.document_id
            WHERE passages.workspace_id = :workspace_id
                AND passages.search @@ any_term.query
                AND documents.embedded_at IS NOT NULL
            ORDER BY fit DESC, closeness DESC, document_id, position
            LIMIT :ranked
        ) AS matched
    )
"""

# "+ 0" keeps the planner from the vector index, which knows nothing of workspaces: it would return the nearest passages
# of all of them and drop the foreign ones afterwards, and a small workspace would get none.
_VECTORS = """
    nearest AS (
        SELECT document_id, position, row_number() OVER (ORDER BY distance, document_id, position) AS rank
        FROM (
            SELECT document_id, position, (embedding <=> CAST(:vector AS vector)){exactly} AS distance
            FROM passages
            WHERE workspace_id = :workspace_id AND embedding IS NOT NULL
            ORDER BY distance
            LIMIT :ranked
        ) AS measured
    )
"""

_BOTH = """
    WITH {full_text}, {vectors}
    SELECT passages.document_id, passages.position, documents.name, passages.page, passages.heading, passages.text,
        coalesce(1.0 / (:fusion + by_text.rank), 0) + coalesce(1.0 / (:fusion + nearest.rank), 0) AS score,
        coalesce(1 - (passages.embedding <=> CAST(:vector AS vector)), 0) AS cosine
    FROM by_text
    FULL JOIN nearest USING (document_id, position)
    JOIN passages USING (document_id, position)
    JOIN documents ON documents.id = passages.document_id
    ORDER BY score DESC, passages.document_id, passages.position
    LIMIT :candidates
"""

_BY_BOTH_EXACTLY = text(_BOTH.format(full_text=_FULL_TEXT, vectors=_VECTORS.format(exactly=" + 0")))
_BY_BOTH_INDEXED = text(_BOTH.format(full_text=_FULL_TEXT, vectors=_VECTORS.format(exactly="")))
_BY_TEXT = text(
    f"""
    WITH {_FULL_TEXT}
    SELECT passages.document_id, passages.position, documents.name, passages.page, passages.heading, passages.text,
        1.0 / (:fusion + by_text.rank) AS score, 0 AS cosine
    FROM by_text
    JOIN passages USING (document_id, position)
    JOIN documents ON documents.id = passages.document_id
    ORDER BY score DESC, passages.document_id, passages.position
    LIMIT :candidates
    """  # noqa: S608 - constants of this module; every value is a parameter
)
_ITERATIVE = text("SET LOCAL hnsw.iterative_scan = relaxed_order")
