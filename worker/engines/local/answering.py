"""Choosing what to quote: the sentences that answer a question, or a refusal.

Promise: :func:`answer` is a pure function of what it is given, and quotes only what stands in the passages. It refuses
where the best sentence does not carry enough of the question, as AnythingLLM does in its query mode.
"""

from collections.abc import Sequence
from itertools import pairwise

from worker.documents.passages import is_row
from worker.engines.base import Answer, Source, WorkspaceSettings
from worker.engines.local import embedding
from worker.engines.local.evidence import Sentence, Term, coverage, judge, terms_of
from worker.engines.local.lexicon import Vocabulary
from worker.engines.local.search import Candidate, Counts

REFUSAL = "There is no relevant information in this workspace to answer your query."
"""AnythingLLM's own words, so that reports read the same whichever engine answered."""

MOST_SENTENCES = 3
_AS_IT_IS = WorkspaceSettings()
_LIKENESS = 0.4  # share of the likeness of vectors in how well a sentence fits; the rest is its coverage
_ENOUGH = 0.43  # how well a sentence must fit for an answer
_GIVES_VALUE = 0.06  # what a sentence is worth beyond its fit when the best are chosen
_ALSO = 0.85  # further sentences fit at least so well, in proportion to the best
_ALSO_ROW = 0.95  # so do further rows of tables, which are alike whatever they are about
_NEXT_TO = 0.06  # a sentence beside a chosen one in its paragraph is worth more: they were written to be read together


def answer(
    question: str,
    counts: Counts,
    candidates: Sequence[Candidate],
    vocabulary: Vocabulary,
    settings: WorkspaceSettings = _AS_IT_IS,
) -> Answer:
    """Return the answer that the candidates give, quoted, or a refusal. Blocks for some milliseconds.

    Args:
        question: as it was asked.
        counts: of its tokens, in order.
        candidates: passages, best first.
        vocabulary: knows the words of question and candidates.
        settings: ``top_n`` bounds the passages that are quoted, ``refusal`` is what a refusal says.
    """
    refusal = Answer(text=settings.refusal or REFUSAL, refused=True)
    terms = terms_of(question, counts, vocabulary)
    judged = judge(question, terms, candidates, vocabulary)
    if not judged:
        return refusal
    set_likeness(question, judged, candidates)
    chosen = choose(terms, judged, settings.top_n or MOST_SENTENCES)
    together = [sentence for sentence in chosen if sentence.candidate == chosen[0].candidate]
    if fit(terms, together) < _ENOUGH:
        return refusal
    return _quoted(terms, chosen, candidates)


def set_likeness(question: str, judged: Sequence[Sentence], candidates: Sequence[Candidate]) -> None:
    """Compare the vectors of question and sentences, each with the heading right above it."""
    asked, *said = embedding.vectors(
        [question, *(f"{_nearest_heading(candidates[sentence.candidate])} {sentence.text}" for sentence in judged)]
    )
    for sentence, vector in zip(judged, said, strict=True):
        sentence.likeness = max(float(asked @ vector), 0.0)


def fit(terms: Sequence[Term], together: Sequence[Sentence]) -> float:
    """Return how well sentences of one passage fit the question, 0 to 1; the first of them is the best."""
    likeness = max(sentence.likeness for sentence in together)
    return together[0].trust * ((1 - _LIKENESS) * coverage(terms, together) + _LIKENESS * likeness)


def choose(terms: Sequence[Term], judged: Sequence[Sentence], most_passages: int = MOST_SENTENCES) -> list[Sentence]:
    """Return the sentences to quote, best first: 1 to ``MOST_SENTENCES``, of at most ``most_passages`` passages."""
    worth = [fit(terms, [sentence]) + (_GIVES_VALUE if sentence.gives else 0) for sentence in judged]
    best = max(range(len(judged)), key=lambda at: (worth[at], -at))
    chosen = [judged[best]]
    if chosen[0].before is not None and chosen[0].points_back:
        chosen.append(chosen[0].before)
    while len(chosen) < MOST_SENTENCES:
        passages = {sentence.candidate for sentence in chosen}
        left = [
            at
            for at, sentence in enumerate(judged)
            if sentence not in chosen
            and (sentence.candidate in passages or len(passages) < most_passages)
            and _is_understood(sentence, chosen)
        ]
        gained = {at: worth[at] + (_NEXT_TO if _is_beside(judged[at], chosen) else 0) for at in left}
        enough = [at for at in left if gained[at] >= (_ALSO_ROW if is_row(judged[at].text) else _ALSO) * worth[best]]
        if not enough:
            break
        chosen.append(judged[max(enough, key=lambda at: (gained[at], -at))])
    return chosen


def _is_understood(sentence: Sentence, chosen: Sequence[Sentence]) -> bool:
    """What points back ("it costs") would seem to speak of another thing if nothing before it is quoted."""
    return not sentence.points_back or any(
        (sentence.candidate, sentence.line) == (other.candidate, other.line) and other.order < sentence.order
        for other in chosen
    )


def _is_beside(sentence: Sentence, chosen: Sequence[Sentence]) -> bool:
    return any(
        (sentence.candidate, sentence.line) == (other.candidate, other.line) and abs(sentence.order - other.order) == 1
        for other in chosen
    )


def _quoted(terms: Sequence[Term], chosen: Sequence[Sentence], candidates: Sequence[Candidate]) -> Answer:
    """Put the sentences together, those of a passage in its own order, and name the passages."""
    passages = list(dict.fromkeys(sentence.candidate for sentence in chosen))
    paragraphs, sources = [], []
    for number in passages:
        of_passage = sorted((s for s in chosen if s.candidate == number), key=lambda sentence: sentence.order)
        paragraphs.append(_joined(of_passage))
        found = candidates[number]
        score = round(max(fit(terms, [sentence]) for sentence in of_passage), 4)
        sources.append(
            Source(document=found.document, page=found.page, heading=found.heading, text=found.text, score=score)
        )
    return Answer(text="\n".join(paragraphs), refused=False, sources=tuple(sources))


def _joined(of_passage: Sequence[Sentence]) -> str:
    text = of_passage[0].text
    for before, sentence in pairwise(of_passage):
        text += (" " if sentence.line == before.line else "\n") + sentence.text
    return text


def _nearest_heading(candidate: Candidate) -> str:
    return (candidate.heading or "").rpartition(" > ")[2]
