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

SHORTLIST = 48
"""Sentences that are looked at closely; the others have less in common with the question."""

# How much a term speaks for a sentence; 1 if it stands in it.
_IN_CONTEXT = 0.9  # in the headings above the sentence or the name of its document
_IN_SENTENCE_BEFORE = 0.8
_IN_PASSAGE = 0.45
_AS_VALUE = 0.85  # it asks for a kind of value that the sentence gives ("how heavy": 24 kg)
_LIKE_FROM, _LIKE_TO, _LIKE_MOST = 0.2, 0.7, 0.85  # cosines of two words, and what the upper one counts for

# How far a sentence can be trusted to be about the question; 1 if nothing speaks against it.
_OTHER_CODE = 0.35  # it is about another of the kind, or the code is nowhere near it
_UNKNOWN_NAME = 0.5
_NO_VALUE = 0.7  # it gives nothing of the kind that is asked for

# What is left of the weight of words that say little by themselves.
_COMMON_WORD = 0.2  # of the commonest word of the language; of rarer ones more
_LIGHT_WORD = 0.3
_ASKING_WORDS = """
    could describe explain give list many may mean might much must name often per please shall tell would
"""
_LIGHT_WORDS = """
    allowed around away back become bring call come else ever exactly find fit get go goes handle happen happens help
    hold keep know let look make need needed needs possible put right run say see set show someone something start take
    takes thing things try turn use used want whole work
"""
_ASKING, _LIGHT = frozenset(_ASKING_WORDS.split()), frozenset(_LIGHT_WORDS.split())
_POINTS_BACK = re.compile(r"(?:it|its|they|their|he|she|his|her|this|these|that|those|both|then)\b", re.IGNORECASE)
_NO_WORD = re.compile(r"[\W_]+")
_SERIES = re.compile(r"\A([^\W\d_]++)\d+")
_SHORT = 3  # letters that belong to a number behind them: "K 20", "DIN 912"


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


@dataclass(slots=True, eq=False)
class Sentence:
    """Something that can be quoted, and what speaks for it.

    Attributes:
        candidate: which passage it stands in, counted from the best.
        line, order: where in the passage.
        text: as it is quoted.
        found: for each term how much it speaks for the sentence, 0 to 1.
        trust: 0 to 1; below 1 where the sentence is about something else than the question, or gives no value of the
            kind that is asked for.
        likeness: cosine of its vector with the question's, 0 to 1; set by whoever compares vectors.
        gives: it gives a value of a kind that is asked for; ``None`` if no kind is.
        before: the sentence before it in its paragraph.
    """

    candidate: int
    line: int
    order: int
    text: str
    found: tuple[float, ...] = ()
    trust: float = 1
    likeness: float = 0
    gives: bool | None = None
    before: "Sentence | None" = field(default=None, repr=False)

    @property
    def points_back(self) -> bool:
        """Whether it is hardly understood without the one before it, which names what it speaks of."""
        return _POINTS_BACK.match(self.text) is not None


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
    """Return the sentences of the candidates that may answer, with what speaks for each; at most ``SHORTLIST``."""
    bags = _Bags(terms, candidates, vocabulary)
    judged: list[Sentence] = []
    for number, candidate in enumerate(candidates):
        context, passage = bags.of(context_of(candidate)), bags.of(candidate.text)
        lines = candidate.text.split("\n")
        bag_before = passage
        for sentence in _sentences(number, lines):
            bag = bags.of(sentence.text)
            places = [(1.0, bag), (_IN_CONTEXT, context)]
            if sentence.before is not None:
                places.append((_IN_SENTENCE_BEFORE, bag_before))
            # "It weighs" speaks of something in its own paragraph.
            places.append((_IN_PASSAGE, bags.of(lines[sentence.line]) if sentence.points_back else passage))
            sentence.found, sentence.trust = _match(terms, places)
            judged.append(sentence)
            bag_before = bag
    judged.sort(key=lambda sentence: -sentence.trust * coverage(terms, [sentence]))  # stable: better passages first
    shortlist = judged[:SHORTLIST]
    _look_for_values(question, terms, shortlist)
    return shortlist


def coverage(terms: Sequence[Term], together: Sequence[Sentence]) -> float:
    """Return what share of the question's weight speaks for these sentences together, 0 to 1."""
    total = sum(term.weight for term in terms)
    if not total:
        return 0
    best = (max(shares) for shares in zip(*(sentence.found for sentence in together), strict=True))
    covered: float = sum(term.weight * share for term, share in zip(terms, best, strict=True))
    return covered / total


def words_of(question: str, candidates: Sequence[Candidate]) -> set[str]:
    """Return the words that :func:`judge` has to know, in lower case."""
    texts = [question, *(candidate.text for candidate in candidates), *map(context_of, candidates)]
    return {part for text in texts for token in tokens(text) for part in token.parts}


def context_of(candidate: Candidate) -> str:
    """Return what stands above a passage: its headings, and the name of its document in words."""
    name = _NO_WORD.sub(" ", candidate.document)
    return f"{candidate.heading} {name}" if candidate.heading else name


@dataclass(frozen=True, slots=True)
class _Bag:
    """The words of a text: their stems, their forms, and how like they are to each term at best, 0 to 1."""

    stems: frozenset[str]
    forms: frozenset[str]
    likenesses: Sequence[float]

    def holds(self, term: Term) -> bool:
        """Say whether the term itself stands in the text."""
        if term.token.form in self.forms:
            return True
        return term.token.kind is not Kind.CODE and bool(term.stems) and self.stems.issuperset(term.stems)

    def names_another(self, series: str) -> bool:
        """Say whether the text names a code of this series; that of the question was looked for before."""
        return any(_series(form) == series for form in self.forms)


class _Bags:
    """Makes bags; a table of how like the terms are to every word of the candidates is computed once for all."""

    def __init__(self, terms: Sequence[Term], candidates: Sequence[Candidate], vocabulary: Vocabulary) -> None:
        words = sorted(word for word in words_of("", candidates) if vocabulary.stem(word))
        cosines = vocabulary.likeness([term.token.parts[-1] for term in terms], words)
        self._likenesses = _LIKE_MOST * ((cosines - _LIKE_FROM) / (_LIKE_TO - _LIKE_FROM)).clip(0, 1)
        self._columns = {word: at for at, word in enumerate(words)}
        self._vocabulary = vocabulary

    def of(self, text: str) -> _Bag:
        found = tokens(text)
        forms = {token.form for token in found}
        for token, following in pairwise(found):
            if token.form.isalpha() and len(token.form) <= _SHORT and following.form[0].isdigit():
                forms.add(token.form + following.form)
        words = {part for token in found for part in token.parts}
        columns = [self._columns[word] for word in words if word in self._columns]
        likenesses: Any = self._likenesses[:, columns].max(axis=1, initial=0).tolist()
        stems = frozenset(map(self._vocabulary.stem, words)) - {""}
        return _Bag(stems, frozenset(forms), likenesses)


def _match(terms: Sequence[Term], places: Sequence[tuple[float, _Bag]]) -> tuple[tuple[float, ...], float]:
    """Return how much each term speaks for a sentence, and how far that can be trusted; all 0 to 1.

    Args:
        terms: of the question.
        places: the sentence and what stands around it, the nearest first, each with what a term in it counts for.
    """
    shares: list[float] = []
    trust = 1.0
    for row, term in enumerate(terms):
        share = next((share for share, bag in places if bag.holds(term)), 0.0)
        if term.token.kind is Kind.CODE:
            trust *= _trust_in_code(term, share, places[0][1], places[1][1])
        elif not share and term.is_unknown and (term.token.kind is Kind.NAME or term.is_label):
            trust *= _UNKNOWN_NAME
        if share < 1 and term.token.kind in {Kind.WORD, Kind.NAME}:
            share = max(share, *(share * bag.likenesses[row] for share, bag in places))
        shares.append(share)
    return tuple(shares), trust


def _look_for_values(question: str, terms: Sequence[Term], judged: Sequence[Sentence]) -> None:
    """Note which sentences give a value of a kind that the question asks for."""
    kinds = expected(question)
    if not kinds:
        return
    deciding = any(kind.decides for kind in kinds)
    asked = frozenset(token.form for token in tokens(question))
    heavy = max((term.weight for term in terms), default=0) / 4
    for sentence in judged:
        given = [kind for kind in kinds if kind.is_given(_without(sentence.text, asked, kind))]
        sentence.gives = any(kind.decides or not deciding for kind in given)
        sentence.trust *= 1 if sentence.gives else _NO_VALUE
        of_things = [
            share for share, term in zip(sentence.found, terms, strict=True) if not term.asks and term.weight >= heavy
        ]
        if not of_things or max(of_things) >= _IN_PASSAGE:  # a value of the right kind, and of the right thing
            sentence.found = tuple(
                max(share, _AS_VALUE) if any(kind in given for kind in term.asks) else share
                for share, term in zip(sentence.found, terms, strict=True)
            )


def _trust_in_code(term: Term, share: float, sentence: _Bag, context: _Bag) -> float:
    series = _series(term.token.form)
    about_another = series is not None and (
        (share < 1 and sentence.names_another(series)) or (share < _IN_CONTEXT and context.names_another(series))
    )
    return _OTHER_CODE if about_another or not share else 1


def _series(form: str) -> str | None:
    """Return what the codes of one series share (``k`` of ``k20``); ``None`` for other words."""
    found = _SERIES.fullmatch(form)
    return found.group(1) if found else None


def _sentences(candidate: int, lines: Sequence[str]) -> list[Sentence]:
    found: list[Sentence] = []
    for number, line in enumerate(lines):
        before = None
        for said in sentences(line):
            before = Sentence(candidate, number, len(found), said, before=before)
            found.append(before)
    return found


def _without(text: str, asked: frozenset[str], kind: ValueKind) -> str:
    """A person whom the question names is not the person whom it asks for."""
    if kind.name != "person":
        return text
    return " ".join("" if token.form in asked else token.text for token in tokens(text))
