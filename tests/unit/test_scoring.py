"""Scoring: what counts as said, and the text folding that decides it."""

import unicodedata
from typing import Literal, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.engines.base import Answer
from worker.questions.question_set import Question
from worker.questions.scoring import Reason, contains, normalise, score

# Words that no rule for numbers, units or plurals touches, in several scripts.
WORDS = st.sampled_from(
    ["Kestrel", "pump", "Öldruck", "façade", "ΑΝΤΛΙΑ", "насос", "valve", "straße", "İzmir", "ﬁlter"]
)
NUMBERS = st.sampled_from(["45 Nm", "1,200", "3.5 bar", "\u221220 °C", "50 %", "12 x 8", "M8", "ISO VG 220", "0,125"])
PARTS = st.one_of(WORDS, NUMBERS)
SENTENCES = st.lists(WORDS, max_size=6).map(" ".join)
Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS: tuple[Form, ...] = get_args(Form)
# All that the rules of numbers react to, close together.
NUMERIC = st.text(alphabet="0125 .,'*_-x\u00d7°C%²½m€\u00a0\u0661扭$(", max_size=16)


def answer(text: str) -> Answer:
    return Answer(text=text, refused=False)


REFUSAL = Answer(text="The documents do not say.", refused=True)


def question(*fragments: str, answerable: bool = True) -> Question:
    return Question(id="q", text="x?", expected_fragments=fragments, answerable=answerable)


@pytest.mark.parametrize(
    ("spellings", "normal"),
    [
        (["1,200", "1 200", "1200", "1'200", "1\u202f200", "1\u00a0200", "1200.0", "1,200.00"], "1200"),
        (["1,200,000", "1.200.000", "1 200 000"], "1200000"),
        (["1,234.56", "1.234,56", "1 234,56", "1234,560"], "1234.56"),
        (["3,5", "3.5", "3.50", "\uff13\uff0e\uff15"], "3.5"),
        (["0,125", "0.125", ".125"], "0.125"),
        (["1.200", "1,2"], "1.2"),
        (["12.50", "12,5"], "12.5"),
        (["3.0", "3,00", "3"], "3"),
        (["1,2,3", "1, 2, 3"], "1, 2, 3"),
        (["12.05.2024"], "12.05.2024"),
        (["v1.10"], "v1.10"),
        (["45Nm", "45 Nm", "45\u00a0Nm", "45  nm"], "45 nm"),
        (["20°C", "20 °C", "20° C", "20 ℃", "20 ºC"], "20 °c"),
        (["90 ° bend", "90° bend"], "90° bend"),
        (["50 %", "50%"], "50%"),
        (["12 €", "12€"], "12€"),
        (["20 - 25", "20\u201325", "20-25"], "20-25"),
        (["4 x 4", "4x4", "4 \u00d7 4"], "4\u00d74"),
        (["10²", "10^2"], "10^2"),
        (["5 m²", "5m2"], "5 m2"),
        (["5½"], "5 1/2"),
        (["\u0663\u066b\u0665"], "3.5"),
        (["KX-200b"], "kx-200b"),
        (["it\u2019s", "it's"], "it's"),
        (["so\u00adft\u200bware", "SOFTWARE"], "software"),
        (["Straße", "STRASSE"], "strasse"),
        (["**45** Nm", "45 *Nm*", "__45 Nm__", "_**45 Nm**_", "45 Nm*"], "45 nm"),
        (["2*3"], "2*3"),
        (["max_flow"], "max_flow"),
        (["a \u2014 b", "a - b"], "a - b"),
        (["  a \t\n b "], "a b"),
    ],
)
def test_spellings_of_the_same_text_become_one(spellings: list[str], normal: str) -> None:
    assert {spelling: normalise(spelling) for spelling in spellings} == dict.fromkeys(spellings, normal)


@given(st.one_of(st.text(max_size=30), NUMERIC))
@example("1.0 200")  # as "1 200" it would read as 1200 the second time
@example("0 \u00d7.0")
@example("2扭²m")
def test_a_normal_text_is_its_own_normal_form(text: str) -> None:
    once = normalise(text)

    assert normalise(once) == once


@given(st.lists(PARTS, min_size=1, max_size=3), SENTENCES, SENTENCES, st.sampled_from(FORMS))
def test_a_fragment_is_found_whatever_its_case_white_space_and_unicode_form(
    parts: list[str], before: str, after: str, form: Form
) -> None:
    fragment = " ".join(parts)
    written = unicodedata.normalize(form, fragment).upper().replace(" ", "\u00a0\n")

    assert contains(f"{before} {written} {after}", fragment)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("45", "5"),
        ("14.5", "4.5"),
        ("5.5", "5"),
        ("1,200", "200"),
        ("1 200", "200"),
        ("1200", "1,20"),
        ("-5", "5"),
        ("at \u22125 °C", "5 °C"),
        ("20-5", "-5"),
        ("M8", "8"),
        ("M80", "M8"),
        ("KX-200b", "KX-200"),
        ("10²", "10"),
        ("category", "cat"),
        ("bobcat", "cat"),
        ("as", "a"),
        ("45 Nmx", "45 Nm"),
        ("anything", ""),
        ("anything", "\u200b"),
    ],
)
def test_a_fragment_is_not_found_inside_a_longer_number_or_word(text: str, fragment: str) -> None:
    assert not contains(text, fragment)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("It takes 45Nm.", "45 Nm"),
        ("It takes 45Nm.", "45"),
        ("from 20-25 bar", "20"),
        ("from 20-25 bar", "25"),
        ("(\u22125 °C)", "-5"),
        ("5, or 6.", "5"),
        ("items 1,2,5", "5"),
        ("two bolts", "bolt"),
        ("the filter\u2019s age", "filter"),
        ("M8x20", "M8"),
        ("M8x20", "20"),
        ("\u2018Kestrel\u2019", "kestrel"),
        ("拧紧扭矩为45牛米", "扭矩"),
        ("拧紧扭矩为45牛米", "45"),
        ("서울에서", "서울"),
        ("costs $10", "$10"),
    ],
)
def test_a_fragment_is_found_where_it_stands_on_its_own(text: str, fragment: str) -> None:
    assert contains(text, fragment)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_whole_number_is_found_in_another_only_if_they_are_equal(wanted: int, said: int) -> None:
    assert contains(f"value {said} set", str(wanted)) == (wanted == said)


def test_all_fragments_in_the_answer_pass() -> None:
    verdict = score(question("45 Nm", "M8"), answer("Tighten the M8 bolts to 45Nm."))

    assert verdict.passed
    assert (verdict.value, verdict.found, verdict.missing) == (1.0, ("45 Nm", "M8"), ())
    assert verdict.reason is Reason.ALL_FOUND


def test_a_missing_fragment_fails_and_the_value_is_the_share_found() -> None:
    verdict = score(question("45 Nm", "M8", "crosswise", "cold"), answer("Tighten the M8 bolts to 45Nm."))

    assert not verdict.passed
    assert (verdict.value, verdict.found, verdict.missing) == (0.5, ("45 Nm", "M8"), ("crosswise", "cold"))
    assert verdict.reason is Reason.FRAGMENTS_MISSING


@pytest.mark.parametrize("fragments", [(), ("documents",)])
def test_a_refusal_of_an_answerable_question_fails_whatever_its_words(fragments: tuple[str, ...]) -> None:
    verdict = score(question(*fragments), REFUSAL)

    assert (verdict.passed, verdict.value, verdict.reason) == (False, 0.0, Reason.REFUSED)
    assert (verdict.found, verdict.missing) == ((), fragments)


def test_an_unanswerable_question_passes_only_by_a_refusal() -> None:
    refused, answered = (score(question(answerable=False), said) for said in (REFUSAL, answer("It costs 12 €.")))

    assert (refused.passed, refused.value, refused.reason) == (True, 1.0, Reason.REFUSED_RIGHTLY)
    assert (answered.passed, answered.value, answered.reason) == (False, 0.0, Reason.ANSWERED_UNANSWERABLE)


def test_without_expected_fragments_any_answer_passes() -> None:
    verdict = score(question(), answer("Yes."))

    assert (verdict.passed, verdict.value, verdict.reason) == (True, 1.0, Reason.ANSWERED)


@pytest.mark.parametrize("fragments", [(), ("45 Nm",)])
@pytest.mark.parametrize("text", ["", " \n", "\u200b"])
def test_an_empty_answer_fails(text: str, fragments: tuple[str, ...]) -> None:
    verdict = score(question(*fragments), answer(text))

    assert (verdict.passed, verdict.value, verdict.reason) == (False, 0.0, Reason.EMPTY_ANSWER)


@given(st.lists(PARTS, min_size=1, max_size=6, unique_by=normalise), SENTENCES, SENTENCES)
def test_a_longer_answer_never_scores_lower(fragments: list[str], text: str, more: str) -> None:
    asked = question(*fragments)
    short, long = score(asked, answer(f"{text} x")), score(asked, answer(f"{text} x {more}"))

    assert short.value <= long.value
    assert set(short.found) <= set(long.found)


@given(st.lists(PARTS, min_size=1, max_size=6, unique_by=normalise), SENTENCES)
def test_found_and_missing_are_the_expected_fragments_and_the_value_is_their_share(
    fragments: list[str], text: str
) -> None:
    verdict = score(question(*fragments), answer(f"{text} x"))

    assert sorted([*verdict.found, *verdict.missing]) == sorted(fragments)
    assert verdict.value == pytest.approx(len(verdict.found) / len(fragments))
    assert verdict.passed == (verdict.missing == ())
