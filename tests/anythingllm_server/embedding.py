"""Vectors of texts and the search among them: words hashed into the dimensions of a vector of length 1.

Texts that share words are near each other; a share common to all vectors keeps unrelated texts short of distance 1, as
with the embedders of real models.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

DIMENSIONS = 1024
_COMMON = 0.05  # of the squared length
_WORD = re.compile(r"[^\W_]+")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be been but by can did do does for from had has have how i if in is it its many may much"
        " must not of on or should that the their them there these they this to was we were what when where which who"
        " why will with would you your"
        " document metadata sourcedocument published"  # of the header, which is in every piece
    )
)


def vector_of(text: str, opposite_word: str = "") -> Vector:
    """Return the vector of a text; the opposite of it if ``opposite_word`` is set and among the words."""
    words = _WORD.findall(text.lower())
    sign = -1.0 if opposite_word and opposite_word.lower() in words else 1.0
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    for word, count in Counter(_stem(word) for word in words if word not in _STOP_WORDS).items():
        vector[1 + zlib.crc32(word.encode()) % (DIMENSIONS - 1)] += 1 + math.log(count)
    length = float(np.linalg.norm(vector))
    if length:
        vector *= math.sqrt(1 - _COMMON) / length
    vector[0] = math.sqrt(_COMMON) if length else 1.0
    return vector * np.float32(sign)


def nearest(question: Vector, vectors: Sequence[Vector], most: int) -> list[tuple[int, float]]:
    """Return up to ``most`` positions with their cosine distances (0 to 2), nearest first."""
    if not vectors:
        return []
    distances = 1 - np.stack(vectors) @ question
    order = np.argsort(distances, kind="stable")[: max(most, 0)]
    return [(int(position), float(distances[position])) for position in order]


def score_of(distance: float) -> float:
    """Return the score the real server makes of a distance; 1 or more gives 1 (§5)."""
    if distance >= 1:
        return 1.0
    return 1 - abs(distance) if distance < 0 else 1 - distance


def chunks_of(text: str, most_characters: int) -> list[str]:
    """Cut a text at blanks into pieces of at most ``most_characters`` (a longer word stays whole)."""
    chunks: list[str] = []
    chunk = ""
    for piece in re.findall(r"\S+\s*|^\s+", text):
        if chunk and len(chunk) + len(piece.rstrip()) > most_characters:
            chunks.append(chunk.strip())
            chunk = ""
        chunk += piece
    return [*chunks, chunk.strip()] if chunk.strip() else chunks


def _stem(word: str) -> str:
    for ending in ("ies", "es", "s", "ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word
