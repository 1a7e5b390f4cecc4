"""How well a sentence answers a question, by its words.

The words of the question that carry meaning are its *terms*; each weighs as much as it tells passages of the workspace
apart. A term speaks for a sentence if it stands in it, less if it stands in the headings above it or in the name of its
document, less again if it stands near it, and in part if a word of like meaning does. What share of the weight speaks
for a sentence is its *coverage*.

A code is itself or nothing: a sentence about the K40 does not answer a question about the K20, and a question about a
K99 that no document knows has no answer here, however well its other words fit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from worker.documents.passages import sentences
from worker.engines.local import embedding
from worker.engines.local.expectations import ValueKind, expected
from worker.engines.local.lexicon import Vocabulary
from worker.engines.local.search import Candidate, Counts
from worker.engines.local.words import Kind, Token, tokens

# What a term counts for that stands in the sentence is 1. The figures below were set on questions about a bicycle
# workshop and judged on others; docs/decisions.md tells how.
_IN_CONTEXT = 0.9  # in the headings above the sentence or the name of its document
_IN_SENTENCE_BEFORE = 0.8
_IN_PASSAGE = 0.55
_AS_VALUE = 0.85  # it asks for a kind of value that the sentence gives ("how heavy": 24 kg)
_LIKE_FROM, _LIKE_TO, _LIKE_MOST = 0.2, 0.7, 0.85  # cosines of two words, and what the upper one counts for
_OTHER_CODE = 0.35  # the sentence is about another of the kind, or the code is nowhere near it
_UNKNOWN_NAME = 0.5
_NO_VALUE = 0.85  # the sentence gives nothing of the kind that is asked for
_COMMON_WORD = 0.2  # the share of its weight that the commonest word of the language keeps
_LIGHT_WORD = 0.3

_NO_WORD = re.compile(r"[\W_]+")
# Words that ask, and verbs that mean little without their object. PostgreSQL leaves out "the" and "what" already.
_ASKING_WORDS = """
    could describe explain give list many may mean might much must name often per please shall tell would
"""
_ASKING = frozenset(_ASKING_WORDS.split())
_LIGHT_WORDS = """
    allowed around away back become bring call come else ever exactly find fit get go goes handle happen happens help
    hold keep know let look make need needed needs possible put right run say see set show someone something start take takes
    thing things try turn use used want whole work
"""
_LIGHT = frozenset(_LIGHT_WORDS.split())


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the question that carries meaning.

    Attributes:
        token: the word.
        stems: of its parts.
        weight: what it counts for, above 0.
        is_unknown: no passage of the workspace holds it.
        is_label: a number that names something (``error 71``) rather than counts it (``40 days``).
        asks: the kinds of value that it asks for by itself.
    """

    token: Token
    stems: tuple[str, ...]
    weight: float
    is_unknown: bool
    is_label: bool
    asks: tuple[ValueKind, ...]


@dataclass(frozen=True, slots=True)
class Bag:
    """The words of a text, to be looked up.

    Attributes:
        stems: of its words.
        forms: its words, and what is left of two that a blank parts ("K 20").
        columns: where its words stand in the table of likenesses.
    """

    stems: frozenset[str]
    forms: frozenset[str]
    columns: Any

    def holds(self, term: Term) -> bool:
        """Say whether the term itself stands in the text."""
        if term.token.form in self.forms:
            return True
        return term.token.kind is not Kind.CODE and bool(term.stems) and all(stem in self.stems for stem in term.stems)


@dataclass(slots=True)
class Sentence:
    """Something that can be quoted, and what speaks for it.

    Attributes:
        candidate: which passage it stands in, counted from the best.
        line, order: where in the passage.
        text: as it is quoted.
        found: for each term how much it speaks for the sentence, 0 to 1.
        trust: 0 to 1; below 1 where the sentence is about something else than the question, or gives no value of the
            kind that is asked for.
        likeness: cosine of its vector with the question's, 0 to 1.
        gives: it gives a value of a kind that is asked for; ``None`` if no kind is.
    """

    candidate: int
    line: int
    order: int
    text: str
    found: tuple[float, ...] = ()
    trust: float = 1
    likeness: float = 0
    gives: bool | None = None
    bag: Bag = field(default_factory=lambda: Bag(frozenset(), frozenset(), ()), repr=False)


def terms_of(question: str, counts: Counts, vocabulary: Vocabulary) -> list[Term]:
    """Return the terms of a question, each once, in order; ``counts`` are of its tokens in order."""
    terms: dict[str, Term] = {}
    asked = tokens(question)
    for index, token in enumerate(asked):
        stems = tuple(stem for stem in map(vocabulary.stem, token.parts) if stem)
        if token.form in terms or token.form in _ASKING or not (stems or token.kind is Kind.CODE):
            continue
        weight = counts.weight(index)
        if token.kind is Kind.WORD:
            weight *= _COMMON_WORD + (1 - _COMMON_WORD) * embedding.rarity(token.text.lower())
            after_how = index > 0 and asked[index - 1].form == "how"  # "how high": what is measured comes later
            weight *= _LIGHT_WORD if token.form in _LIGHT or after_how else 1
        following = asked[index + 1] if index + 1 < len(asked) else None
        counts_something = following is not None and any(map(vocabulary.stem, following.parts))
        is_label = token.kind is Kind.NUMBER and index > 0 and not counts_something
        terms[token.form] = Term(token, stems, weight, counts.of[index] == 0, is_label, expected(token.text))
    return list(terms.values())


def judge(
    question: str, terms: Sequence[Term], candidates: Sequence[Candidate], vocabulary: Vocabulary
) -> list[Sentence]:
    """Return the sentences of the candidates with what speaks for each, in the candidates' order."""
    contexts = [context_of(candidate) for candidate in candidates]
    texts = [*contexts, *(candidate.text for candidate in candidates)]
    columns = {word: at for at, word in enumerate(dict.fromkeys(part for text in texts for part in _parts(text)))}
    likeness = vocabulary.likeness([term.token.parts[-1] for term in terms], list(columns))
    judged: list[Sentence] = []
    kinds = expected(question)
    asked = frozenset(token.form for token in tokens(question))
    for number, (candidate, context) in enumerate(zip(candidates, contexts, strict=True)):
        matcher = _Matcher(
            terms, likeness, _bag(context, vocabulary, columns), _bag(candidate.text, vocabulary, columns)
        )
        before: Sentence | None = None
        for sentence in _sentences(number, candidate.text):
            sentence.bag = _bag(sentence.text, vocabulary, columns)
            given = [kind for kind in kinds if kind.given.search(_without(sentence.text, asked, kind))]
            same_line = before.bag if before is not None and before.line == sentence.line else None
            sentence.found, sentence.trust = matcher.match(sentence.bag, same_line, given)
            if kinds:
                deciding = [kind for kind in kinds if kind.decides]
                sentence.gives = bool(given) and (not deciding or any(kind.decides for kind in given))
            sentence.trust *= _NO_VALUE if sentence.gives is False else 1
            judged.append(sentence)
            before = sentence
    return judged


def coverage(terms: Sequence[Term], sentences_: Sequence[Sentence]) -> float:
    """Return what share of the question's weight speaks for these sentences together, 0 to 1."""
    total = sum(term.weight for term in terms)
    if not total:
        return 0
    best = (max(shares) for shares in zip(*(sentence.found for sentence in sentences_), strict=True))
    return sum(term.weight * share for term, share in zip(terms, best, strict=True)) / total


def words_of(question: str, candidates: Sequence[Candidate]) -> set[str]:
    """Return the words that :func:`judge` has to know, in lower case."""
    texts = [question, *(candidate.text for candidate in candidates), *map(context_of, candidates)]
    return {part for text in texts for part in _parts(text)}


def context_of(candidate: Candidate) -> str:
    """Return what stands above a passage: its headings, and the name of its document in words."""
    name = _NO_WORD.sub(" ", candidate.document)
    return f"{candidate.heading} {name}" if candidate.heading else name


@dataclass(frozen=True, slots=True)
class _Matcher:
    """Matches the terms against the sentences of one passage."""

    terms: Sequence[Term]
    likeness: Any
    context: Bag
    passage: Bag

    def match(self, sentence: Bag, before: Bag | None, given: Sequence[ValueKind]) -> tuple[tuple[float, ...], float]:
        """Return how much each term speaks for a sentence, and how far that can be trusted; all 0 to 1."""
        shares: list[float] = []
        trust = 1.0
        places = [(1.0, sentence), (_IN_CONTEXT, self.context), (_IN_PASSAGE, self.passage)]
        if before is not None:
            places.insert(2, (_IN_SENTENCE_BEFORE, before))
        for row, term in enumerate(self.terms):
            found = next((share for share, bag in places if bag.holds(term)), 0.0)
            if term.token.kind is Kind.CODE:
                trust *= self._trust_in_code(term, found, sentence)
            elif term.is_unknown and not found and (term.token.kind is Kind.NAME or term.is_label):
                trust *= _UNKNOWN_NAME
            if found < 1 and term.token.kind in {Kind.WORD, Kind.NAME}:
                found = max(found, *(share * self._like(row, bag) for share, bag in places))
            shares.append(found)
        heavy = max((term.weight for term in self.terms), default=0) / 3
        others = [
            share for share, term in zip(shares, self.terms, strict=True) if not term.asks and term.weight > heavy
        ]
        if not others or max(others) >= _IN_PASSAGE:  # a value of the right kind, and of the right thing
            for row, term in enumerate(self.terms):
                if any(kind in given for kind in term.asks):
                    shares[row] = max(shares[row], _AS_VALUE)
        return tuple(shares), trust

    def _trust_in_code(self, term: Term, found: float, sentence: Bag) -> float:
        series = _series(term.token.form)
        in_sentence = series is not None and any(_series(form) == series for form in sentence.forms)
        above = series is not None and any(_series(form) == series for form in self.context.forms)
        about_another = (found < 1 and in_sentence) or (found < _IN_CONTEXT and above)
        return _OTHER_CODE if about_another or not found else 1

    def _like(self, row: int, bag: Bag) -> float:
        if not len(bag.columns):
            return 0
        cosine = float(self.likeness[row, bag.columns].max())
        return _LIKE_MOST * min(max((cosine - _LIKE_FROM) / (_LIKE_TO - _LIKE_FROM), 0), 1)


def _series(form: str) -> str | None:
    """Return what the codes of one series share (``k`` of ``k20``); ``None`` for other words."""
    found = re.fullmatch(r"([^\W\d_]+)\d+", form)
    return found.group(1) if found else None


def _sentences(candidate: int, text: str) -> list[Sentence]:
    found: list[Sentence] = []
    for line_number, line in enumerate(text.split("\n")):
        found += [Sentence(candidate, line_number, len(found) + at, text) for at, text in enumerate(sentences(line))]
    return found


def _parts(text: str) -> list[str]:
    return [part for token in tokens(text) for part in token.parts]


def _bag(text: str, vocabulary: Vocabulary, columns: dict[str, int]) -> Bag:
    import numpy as np  # noqa: PLC0415 - it comes with wordllama

    found = tokens(text)
    forms = {token.form for token in found}
    for token, following in pairwise(found):
        if token.form.isalpha() and len(token.form) <= 3 and following.form[0].isdigit():  # noqa: PLR2004 - "K 20", "DIN 912"
            forms.add(token.form + following.form)
    words = dict.fromkeys(part for token in found for part in token.parts)
    stems = {word: vocabulary.stem(word) for word in words}
    meant = [columns[word] for word in words if stems[word]]
    return Bag(frozenset(stem for stem in stems.values() if stem), frozenset(forms), np.array(meant, dtype=np.intp))


def _without(text: str, asked: frozenset[str], kind: ValueKind) -> str:
    """A person whom the question names is not the person whom it asks for."""
    if kind.name != "person":
        return text
    return " ".join("" if token.form in asked else token.text for token in tokens(text))
