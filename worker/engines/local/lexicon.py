"""What is known of single words: their stems and their vectors, learned once and kept for the life of the engine.

A word's stem is what PostgreSQL makes of it, because PostgreSQL is asked (``ts_lexize``): search and choice agree on
what is the same word, and on which words are too common to count.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from worker.engines.local import embedding

_MOST_WORDS = 50_000  # kept at the same time; a vector takes 1 KB


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Some words, all of them known.

    Attributes:
        stems: of each word; empty for one too common to count.
        vectors: of each word, of length 1.
    """

    stems: Mapping[str, str]
    vectors: Mapping[str, Any]

    def stem(self, word: str) -> str:
        """Return the stem of a word; empty for one too common to count."""
        return self.stems[word]

    def likeness(self, words: Sequence[str], others: Sequence[str]) -> Any:
        """Return the cosines of words with others, as a numpy array of shape (words, others)."""
        import numpy as np  # noqa: PLC0415 - it comes with wordllama

        if not words or not others:
            return np.zeros((len(words), len(others)), dtype=np.float32)
        return np.stack([self.vectors[word] for word in words]) @ np.stack([self.vectors[word] for word in others]).T


class Lexicon:
    """Every word met so far."""

    def __init__(self) -> None:
        self._stems: dict[str, str] = {}
        self._vectors: dict[str, Any] = {}

    async def vocabulary(self, session: AsyncSession, words: Iterable[str]) -> Vocabulary:
        """Return what is known of these words (lower case), after finding out about those that are new."""
        wanted = set(words)
        if len(self._stems) > _MOST_WORDS:
            self._stems, self._vectors = {}, {}
        new = sorted(wanted - self._stems.keys())
        if new:
            rows = await session.execute(_STEMS, {"words": new})
            stems = {word: found[0] if found else "" for word, found in rows}
            vectors = await asyncio.to_thread(embedding.vectors, new)
            self._vectors.update(zip(new, vectors, strict=True))
            self._stems.update(stems)
        return Vocabulary({word: self._stems[word] for word in wanted}, {word: self._vectors[word] for word in wanted})


_STEMS = text("SELECT word, ts_lexize('english_stem', word) FROM unnest(CAST(:words AS text[])) AS given (word)")
