"""Passages: bounded, complete, in order, each within one page and one section."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.documents.extract import Block, Extracted
from worker.documents.passages import AIM, LONGEST, Passage, is_row, passages, sentences

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=30)
LINES = st.lists(WORDS | st.sampled_from(["Stop.", "Really?", "x;", "Part: K-1;", "No. 5"]), min_size=1, max_size=300)
TEXTS = st.lists(LINES.map(" ".join), min_size=1, max_size=3).map("\n".join) | st.text("ab", min_size=1, max_size=4_000)
BLOCKS = st.lists(
    st.builds(
        Block,
        text=TEXTS,
        page=st.none() | st.integers(1, 3),
        heading=st.none() | st.sampled_from(["Milk", "Milk > Cream"]),
    ),
    min_size=1,
    max_size=12,
)


def document(blocks: list[Block]) -> Extracted:
    return Extracted("Title", tuple(blocks), None, 0)


def letters(texts: list[str]) -> str:
    return "".join("".join(texts).split())


@given(BLOCKS)
@settings(max_examples=100, deadline=None)
def test_no_passage_is_longer_than_its_bound_and_none_is_empty(blocks: list[Block]) -> None:
    for passage in passages(document(blocks)):
        assert 0 < len(passage.text) <= LONGEST


@given(BLOCKS)
@settings(max_examples=100, deadline=None)
def test_the_passages_one_after_another_are_the_text_of_the_document(blocks: list[Block]) -> None:
    made = passages(document(blocks))
    assert letters([passage.text for passage in made]) == letters([block.text for block in blocks])


@pytest.mark.slow
@given(BLOCKS)
@settings(max_examples=100, deadline=None)
def test_a_passage_knows_the_page_and_heading_of_all_its_text(blocks: list[Block]) -> None:
    """The places change in the passages exactly where they change in the blocks, and in the same order."""

    def changes(places: list[tuple[int | None, str | None]]) -> list[tuple[int | None, str | None]]:
        return [place for before, place in zip([None, *places], places, strict=False) if place != before]

    made = passages(document(blocks))
    assert changes([(p.page, p.heading) for p in made]) == changes([(b.page, b.heading) for b in blocks])


@given(BLOCKS)
@settings(max_examples=50, deadline=None)
def test_the_same_document_gives_the_same_passages(blocks: list[Block]) -> None:
    assert passages(document(blocks)) == passages(document(blocks))


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_the_sentences_of_a_text_are_its_text(text: str) -> None:
    assert letters(sentences(text)) == letters([text])


def test_short_blocks_of_a_section_share_a_passage_until_it_is_full() -> None:
    blocks = [Block(f"Rule {number}: " + "word " * 40 + "end.", None, "Rules") for number in range(20)]
    made = passages(document(blocks))
    assert 1 < len(made) < len(blocks)
    assert all(len(passage.text) > AIM / 2 for passage in made[:-1])


def test_a_long_paragraph_is_parted_between_sentences() -> None:
    text = " ".join(f"Sentence number {number} says little about nothing in particular." for number in range(60))
    made = passages(document([Block(text)]))
    assert len(made) > 1
    assert all(passage.text.endswith(".") and passage.text.startswith("Sentence") for passage in made)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["word after word. " * 200_000, "Dr. " * 500_000, "x" * 3_000_000])
def test_the_time_for_a_paragraph_without_end_grows_no_faster_than_its_length(text: str) -> None:
    began = time.process_time()
    made = passages(document([Block(text)]))
    assert letters([passage.text for passage in made]) == letters([text])
    assert time.process_time() - began < 10  # seconds; some minutes if every piece were copied with all that follows it


@pytest.mark.parametrize("text", ["x" * 5_000, "word " * 999 + "end", "x" * 1_300 + " y"])
def test_a_sentence_without_end_is_cut_between_words_or_else_anywhere(text: str) -> None:
    made = passages(document([Block(text)]))
    assert all(len(passage.text) <= LONGEST for passage in made)
    assert letters([passage.text for passage in made]) == letters([text])


def test_a_long_table_row_is_parted_between_fields() -> None:
    row = "; ".join(f"Column {number}: value {number} with some more words in it" for number in range(60))
    made = passages(document([Block(row)]))
    assert len(made) > 1
    assert all(passage.text.startswith("Column") for passage in made)


def test_a_passage_never_crosses_into_the_next_section() -> None:
    made = passages(document([Block("Milk is white.", 1, "Milk"), Block("Cream is fat.", 1, "Cream")]))
    assert made == [Passage("Milk is white.", 1, "Milk"), Passage("Cream is fat.", 1, "Cream")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It draws 3.2 A. The motor stops.", ["It draws 3.2 A.", "The motor stops."]),
        ("Dr. Smith said no. Then he left.", ["Dr. Smith said no.", "Then he left."]),
        ("See No. 5 for more. Done!", ["See No. 5 for more.", "Done!"]),
        ("J. Smith came. (He left.) Why?", ["J. Smith came.", "(He left.)", "Why?"]),
        ("1. Open the valve. Wait.", ["1. Open the valve.", "Wait."]),
        ("At 8 a.m. on Monday it opens.", ["At 8 a.m. on Monday it opens."]),
        ("One line.\nAnother one", ["One line.", "Another one"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_table_row_is_one_sentence_whatever_its_cells_say() -> None:
    row = "Code: E01; Name: Dry running; What to do: Check the tank. Then start again."
    assert is_row(row)
    assert sentences(row) == [row]
    assert not is_row("A remark: this is prose; it has no fields.")
