"""Vectors of texts, by wordllama: static word vectors whose wheel carries the model, so nothing is ever downloaded.

Promise: the model is loaded once a process, when it is first needed; the event loop is never held up. A vector has
``DIMENSIONS`` numbers and length 1, so that the scalar product of two is their cosine.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

DIMENSIONS = 256
# Numbers of pieces: up to the first they are single characters, "the" and the like; from the second on they are rare.
_COMMONEST, _RARE = 300, 18_000


class _Model:
    """The one model of a process; ``lock`` keeps two threads from loading it twice."""

    lock = threading.Lock()
    loaded: Any = None


def _model() -> Any:
    with _Model.lock:
        if _Model.loaded is None:
            root = logging.getLogger()
            handlers, level = root.handlers[:], root.level
            import wordllama  # noqa: PLC0415 - half a second, and only the local engine has it installed

            # On import it configures the root logger; how a worker logs is not its business.
            root.handlers[:], root.level = handlers, level
            # The folder is the wheel's own: without it the tokenizer would be looked for elsewhere, then downloaded.
            _Model.loaded = wordllama.WordLlama.load(
                cache_dir=Path(wordllama.__file__).parent, dim=DIMENSIONS, disable_download=True
            )
    return _Model.loaded


def vectors(texts: Sequence[str]) -> Any:
    """Return one vector a text, as a numpy array of shape (texts, ``DIMENSIONS``). Blocks."""
    import numpy as np  # noqa: PLC0415 - it comes with wordllama

    if not texts:
        return np.empty((0, DIMENSIONS), dtype=np.float32)
    found = _model().embed(list(texts))
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(lengths, 1e-9)


@lru_cache(maxsize=10_000)
def rarity(word: str) -> float:
    """Return how rare a word is in the language, 0.1 to 1.

    The pieces that the model knows are numbered in the order in which they were learned, the commonest first; a word
    that is made of several pieces is rarer than any that is one.
    """
    pieces = _model().tokenizer.encode(word, add_special_tokens=False).ids
    if len(pieces) != 1:
        return 1.0
    return min(max(math.log(pieces[0] / _COMMONEST) / math.log(_RARE / _COMMONEST), 0.1), 1.0)


async def embed(texts: Sequence[str]) -> list[str]:
    """Return one vector a text in pgvector's text form, computed in a thread."""
    return await asyncio.to_thread(lambda: [as_text(vector) for vector in vectors(texts)])


def as_text(vector: Any) -> str:
    """Return a vector as pgvector reads it."""
    return "[" + ",".join(format(number, ".6g") for number in vector.tolist()) + "]"
