"""Scoring: does an answer hold what the question set expects of it?

Promise: :func:`score` is a pure function of question and answer, the same tomorrow as today; every verdict comes with a
reason code and with the fragments found and missing, as the question set wrote them. How text and numbers are folded
before they are compared is told in :mod:`worker.questions.normalising`.

A fragment counts as found where it stands on its own. A number is never found inside a longer one (``5`` in ``45``,
``4.5`` in ``14.5``, ``5`` in ``-5``), but each end of a range is (``20`` in ``20-25``). A word begins where a word of
the answer begins and ends where it ends, give or take a plural ending (``bolt`` in ``bolts``, but no ``cat`` in
``category``).
"""

import re
from enum import StrEnum
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from worker.engines.base import Answer
from worker.questions.normalising import LETTER, WORD, normalise
from worker.questions.question_set import Question

__all__ = ["Reason", "Score", "contains", "normalise", "score"]


class Reason(StrEnum):
    """Why an answer passed or not; the code stands in records and exports."""

    ALL_FOUND = "all_found"
    FRAGMENTS_MISSING = "fragments_missing"
    ANSWERED = "answered"
    EMPTY_ANSWER = "empty_answer"
    REFUSED = "refused"
    REFUSED_RIGHTLY = "refused_rightly"
    ANSWERED_UNANSWERABLE = "answered_unanswerable"


class Score(BaseModel):
    """The verdict on one answer.

    Attributes:
        passed: the answer is what the question set asks for.
        value: 0 to 1, the share of expected fragments found; without fragments 1 for a pass and 0 for a fail.
        found, missing: the expected fragments, in the question's own order and spelling.
        reason: why, as a code.
    """

    model_config = ConfigDict(frozen=True)

    passed: bool
    value: float = Field(ge=0, le=1)
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    reason: Reason


def score(question: Question, answer: Answer) -> Score:
    """Judge an answer by its question.

    An unanswerable question passes only if the engine refused. An answerable one fails if the engine refused; otherwise
    it passes if every expected fragment is in the answer's text, or, where none is expected, if there is any text.
    """
    expected = question.expected_fragments
    if not question.answerable:
        reason = Reason.REFUSED_RIGHTLY if answer.refused else Reason.ANSWERED_UNANSWERABLE
        return Score(passed=answer.refused, value=float(answer.refused), reason=reason)
    if answer.refused:
        return Score(passed=False, value=0, missing=expected, reason=Reason.REFUSED)
    text = normalise(answer.text)
    if not text:
        return Score(passed=False, value=0, missing=expected, reason=Reason.EMPTY_ANSWER)
    if not expected:
        return Score(passed=True, value=1, reason=Reason.ANSWERED)
    found = tuple(fragment for fragment in expected if _pattern(normalise(fragment)).search(text))
    missing = tuple(fragment for fragment in expected if fragment not in found)
    reason = Reason.FRAGMENTS_MISSING if missing else Reason.ALL_FOUND
    return Score(passed=not missing, value=len(found) / len(expected), found=found, missing=missing, reason=reason)


def contains(text: str, fragment: str) -> bool:
    """Say whether ``fragment`` stands in ``text``, by the rules at the top of this module; an empty one never does."""
    wanted = normalise(fragment)
    return bool(wanted) and _pattern(wanted).search(normalise(text)) is not None


@lru_cache(maxsize=4096)  # a question set is asked again and again; its fragments are few
def _pattern(fragment: str) -> re.Pattern[str]:
    return re.compile(_before(fragment) + re.escape(fragment) + _after(fragment))


def _before(fragment: str) -> str:
    """Return what must not stand before the fragment, for it to begin where a number or word of the answer begins."""
    if re.match(r"[0-9]", fragment):
        # A dash is a minus sign unless it follows a word, a number or a unit, where it makes a range.
        return rf"(?<!{WORD})(?<![0-9][.,])(?<!(?<!{WORD})(?<![%°])-)"
    if re.match(r"-[0-9]", fragment):
        return rf"(?<!{WORD})(?<![%°])"
    return rf"(?<!{WORD})" if re.match(WORD, fragment) else ""


def _after(fragment: str) -> str:
    """Return what must not stand behind the fragment, for it to end where a number or word of the answer ends."""
    if re.search(r"[0-9]\Z", fragment):
        return rf"(?!{WORD})(?![.,][0-9])(?!\^)"
    if re.search(rf"{LETTER}{{3}}\Z", fragment):
        return rf"(?:'?s|es)?(?!{WORD})"  # a plural or a genitive; on shorter words it would turn "a" into "as"
    return rf"(?!{WORD})" if re.search(rf"{WORD}\Z", fragment) else ""
