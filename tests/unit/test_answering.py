"""Answering: what is quoted, what is refused, and which of several like things a question means.

The passages are given here, so what is tested is the choice alone; stems are cut off roughly, as PostgreSQL does it
better, and vectors are the real ones.
"""

import re
import subprocess
import sys
from uuid import UUID

import pytest

from worker.engines.base import Answer
from worker.engines.local import embedding
from worker.engines.local.answering import MOST_SENTENCES, REFUSAL, answer
from worker.engines.local.evidence import Term, terms_of, words_of
from worker.engines.local.expectations import expected
from worker.engines.local.lexicon import Vocabulary
from worker.engines.local.search import Candidate, Counts
from worker.engines.local.words import Kind, tokens

COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "at",
        "be",
        "by",
        "do",
        "does",
        "for",
        "from",
        "how",
        "i",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "the",
        "there",
        "to",
        "was",
        "what",
        "when",
        "where",
        "which",
        "who",
        "with",
    ]
)


def stem(word: str) -> str:
    return "" if word in COMMON else re.sub(r"(?:ing|ed|es|s)\Z", "", word) or word


def passage(text: str, heading: str | None = None, document: str = "notes.txt", page: int | None = None) -> Candidate:
    return Candidate(UUID(int=0), 1, document, page, heading, text, score=0.03, cosine=0.0)


def knowledge(question: str, candidates: list[Candidate]) -> tuple[Counts, Vocabulary]:
    words = sorted(words_of(question, candidates))
    vectors = dict(zip(words, embedding.vectors(words), strict=True))
    vocabulary = Vocabulary({word: stem(word) for word in words}, vectors)
    held = [{stem(part) for token in tokens(f"{c.heading} {c.text}") for part in token.parts} for c in candidates]
    counts = [sum({stem(part) for part in token.parts} <= words for words in held) for token in tokens(question)]
    return Counts(1, 60, tuple(counts)), vocabulary


def ask(question: str, *candidates: Candidate) -> Answer:
    counts, vocabulary = knowledge(question, list(candidates))
    return answer(question, counts, list(candidates), vocabulary)


def terms(question: str, *candidates: Candidate) -> dict[str, Term]:
    counts, vocabulary = knowledge(question, list(candidates))
    return {term.token.text: term for term in terms_of(question, counts, vocabulary)}


SCALE = passage("The scale stands in the yard. It weighs up to 900 kg. Ask the porter for the key.", "Yard")


def test_an_answer_quotes_the_passage_word_by_word_and_names_it() -> None:
    cellar = passage(
        "The cellar is damp. The cellar is kept at 12 \u00b0C. Cats are welcome.", "Dairy > Cellar", "d.pdf", 3
    )
    found = ask("At which temperature is the cellar kept?", SCALE, cellar)
    assert not found.refused
    assert "The cellar is kept at 12 \u00b0C." in found.text
    assert all(line in cellar.text for line in found.text.split("\n"))
    (source,) = found.sources
    assert (source.document, source.page, source.heading, source.text) == ("d.pdf", 3, "Dairy > Cellar", cellar.text)
    assert 0 < source.score <= 1


def test_a_question_that_nothing_answers_is_refused_without_sources() -> None:
    found = ask("Who won the tour of France in 2023?", SCALE)
    assert found == Answer(text=REFUSAL, refused=True, sources=())


def test_without_passages_every_question_is_refused() -> None:
    assert ask("How much does the scale weigh?").refused


def test_a_question_of_common_words_alone_is_refused() -> None:
    assert ask("What is it?", SCALE).refused


T5 = passage("The T5 weighs 23 kg. Its motor has 42 Nm.", "Tern T5 manual", "t5.md")
T7 = passage("The T7 weighs 26 kg. Its motor has 75 Nm.", "Tern T7 manual", "t7.md")


@pytest.mark.parametrize(("model", "weight"), [("T5", "23 kg"), ("T7", "26 kg")])
@pytest.mark.parametrize("order", [(T5, T7), (T7, T5)])
def test_the_model_that_is_named_decides_between_like_passages(
    model: str, weight: str, order: tuple[Candidate, Candidate]
) -> None:
    found = ask(f"What does the {model} weigh?", *order)
    assert weight in found.text
    assert [source.heading for source in found.sources] == [f"Tern {model} manual"]


def test_a_model_is_known_by_the_name_of_its_document_alone() -> None:
    first = passage("The motor has 42 Nm.", "Rider's manual", "manuals/tern-t5.pdf")
    second = passage("The motor has 75 Nm.", "Rider's manual", "manuals/tern-t7.pdf")
    found = ask("Which torque does the motor of the T7 have?", first, second)
    assert "75 Nm" in found.text
    assert "42 Nm" not in found.text


def test_a_model_that_no_document_knows_is_refused_however_well_the_rest_fits() -> None:
    assert not ask("What does the T5 weigh?", T5, T7).refused
    assert ask("What does the T9 weigh?", T5, T7).refused


def test_a_name_that_no_document_knows_is_refused() -> None:
    boat = passage("Ship: Astrid; Type: schooner; Built: 1887", "Ships", "ships.csv")
    assert "1887" in ask("When was the ship Astrid built?", boat).text
    assert ask("When was the ship Albatros built?", boat).refused


def test_an_error_number_that_no_document_knows_is_refused() -> None:
    printer = passage("If the printer shows error 52, open the rear flap.", "Printing")
    assert "rear flap" in ask("What does error 52 on the printer mean?", printer).text
    assert ask("What does error 71 on the printer mean?", printer).refused


def test_a_table_row_is_quoted_whole_and_the_rows_of_others_are_not() -> None:
    rows = "Bicycle: City; Day: 14 EUR; Week: 70 EUR\nBicycle: Cargo; Day: 34 EUR; Week: 175 EUR"
    found = ask("What does the cargo bicycle cost for a week?", passage(rows, "Rental prices"))
    assert found.text == "Bicycle: Cargo; Day: 34 EUR; Week: 175 EUR"


def test_a_word_of_like_meaning_will_do() -> None:
    found = ask("How expensive is the ticket for kids?", passage("Tickets for children cost 5 EUR.", "Tickets"), SCALE)
    assert "5 EUR" in found.text


def test_the_kind_of_value_decides_between_sentences_that_share_the_words() -> None:
    battery = passage("The battery can be charged 800 times. The battery is charged in 4 hours.", "Battery")
    assert ask("How long is the battery charged?", battery).text.startswith("The battery is charged in 4 hours.")


def test_a_sentence_that_speaks_of_the_thing_before_it_is_found_with_it() -> None:
    pelican = passage("The cargo bicycle Pelican is new. It carries three children. Come and see.", "News")
    found = ask("How many children does the Pelican carry?", pelican)
    assert "three children" in found.text
    assert "Pelican" in found.text


@pytest.mark.parametrize(("thing", "load", "other"), [("Swan", "90 kg", "180 kg"), ("Pelican", "180 kg", "90 kg")])
@pytest.mark.parametrize("between", ["\n", " "])
def test_what_points_back_speaks_of_the_thing_named_before_it(thing: str, load: str, other: str, between: str) -> None:
    text = f"The Swan is old. It carries 90 kg.{between}The Pelican is new. It carries 180 kg."
    found = ask(f"Which load does the {thing} carry?", passage(text, "News"))
    assert f"{thing} is" in found.text
    assert load in found.text
    assert other not in found.text


def test_a_value_of_the_kind_that_is_asked_for_stands_for_the_word_that_asks() -> None:
    question = "What is the monthly salary of the porter?"
    assert "2,000 EUR" in ask(question, passage("The porter gets 2,000 EUR.", "People")).text
    assert ask(question, passage("The porter gets a warm coat.", "People")).refused


def test_never_more_than_three_sentences_are_quoted() -> None:
    text = " ".join(f"The old tower has {number} bells." for number in range(2, 12))
    found = ask("How many bells does the old tower have?", passage(text, "Tower"))
    assert len(found.text.split(". ")) <= MOST_SENTENCES


def test_the_same_question_gets_the_same_answer() -> None:
    assert ask("What does the T5 weigh?", T5, T7, SCALE) == ask("What does the T5 weigh?", T5, T7, SCALE)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("K-100", Kind.CODE), ("E14", Kind.CODE), ("40", Kind.NUMBER), ("Pelican", Kind.NAME), ("DVDs", Kind.NAME)],
)
def test_a_word_is_known_by_its_looks(text: str, kind: Kind) -> None:
    assert tokens(f"see {text}")[1].kind is kind


def test_codes_are_one_word_however_they_are_joined() -> None:
    assert [token.form for token in tokens("KP-40-310, K20's and 1.5kW")] == ["kp40310", "k20", "and", "15", "kw"]


def test_words_that_ask_are_no_terms_and_light_words_weigh_little() -> None:
    found = terms("How many bicycles may I bring, please?", passage("Two bicycles."))
    assert set(found) == {"bicycles", "bring"}
    assert found["bring"].weight < found["bicycles"].weight


@pytest.mark.parametrize(
    ("question", "kind", "given", "other"),
    [
        ("How heavy is it?", "weight", "It weighs 24 kg.", "It has 24 teeth."),
        ("What does it cost?", "money", "It costs \u00a35.", "It has 5 legs."),
        ("When does it open?", "moment", "From 9:00 on Monday.", "With a key."),
        ("Who repairs it?", "person", "Ask Ines Kaltenbach.", "Ask nicely."),
        ("How long is it?", "length", "Length (m): 49.6", "It is a ship."),
        ("What is the phone number?", "telephone", "0351 555 0170", "Room 12"),
    ],
)
def test_a_question_expects_a_kind_of_value(question: str, kind: str, given: str, other: str) -> None:
    (found,) = [expectation for expectation in expected(question) if expectation.name == kind]
    assert found.is_given(given)
    assert not found.is_given(other)


@pytest.mark.slow
def test_loading_the_model_leaves_the_log_as_it_was_and_loads_nothing_from_the_net() -> None:
    program = (
        "import logging, socket\n"
        "def refuse(*_): raise AssertionError('the net was asked')\n"
        "socket.socket.connect = refuse\n"
        "from worker.engines.local import embedding\n"
        "assert embedding.vectors(['milk']).shape == (1, embedding.DIMENSIONS)\n"
        "root = logging.getLogger()\n"
        "assert (root.handlers, root.level) == ([], logging.WARNING), root.handlers\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
