"""Words of questions and passages: how they are cut out of a text, and what they look like they name."""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

_TOKEN = re.compile(r"\d+(?:[.,:]\d+)+|\d+(?=[^\W\d_])|[^\W_]+(?:[-\u2010\u2011'\u2019/.&][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")


class Kind(Enum):
    """What a word of a question names, which says how it may be matched."""

    CODE = "code"
    """Letters and digits together (``K-100``, ``E14``): only itself will do."""
    NUMBER = "number"
    NAME = "name"
    """Written with a capital inside a sentence (``Pelican``, ``VAT``)."""
    WORD = "word"


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it stands in a text.

    Attributes:
        text: as written.
        form: lower case, without what joins its parts (``k100`` for ``K-100``).
        parts: lower case, one by one (``k``, ``100``).
        kind: see :class:`Kind`.
    """

    text: str
    form: str
    parts: tuple[str, ...]
    kind: Kind


@lru_cache(maxsize=50_000)
def _token(word: str, *, starts_sentence: bool) -> Token:
    bare = re.sub(r"['\u2019]s\Z|(?<=[A-Z]{2})s\Z", "", word)  # of the K20's and of DVDs
    parts = tuple(part.lower() for part in _PART.findall(bare))
    form = "".join(parts)
    has_digit, has_letter = any(c.isdigit() for c in form), any(c.isalpha() for c in form)
    if has_digit:
        kind = Kind.CODE if has_letter else Kind.NUMBER
    elif sum(c.isupper() for c in bare) > 1 or (bare[:1].isupper() and not starts_sentence):
        kind = Kind.NAME
    else:
        kind = Kind.WORD
    return Token(word, form, parts, kind)


@lru_cache(maxsize=10_000)  # the same passages are read for many questions
def tokens(text: str) -> tuple[Token, ...]:
    """Return the words of a text, in order."""
    found: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        between = text[end : match.start()]
        starts = not found or re.search(r"[.!?:;\n(\"\u201c]", between) is not None
        found.append(_token(match.group(), starts_sentence=starts))
        end = match.end()
    return tuple(found)
