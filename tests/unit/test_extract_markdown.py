"""Markdown is read in time that grows with its length, and text without marks as the library would read it."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from worker.documents.extract.markdown import _inline, _parser
from worker.documents.extract.reading import extract

SECTION = (
    "## Pump 4\n\nThe **pump** seal of a valve is checked when pressure falls below `4 bar`,\nand [see](http://h/x) "
    "for the rest &amp; more.\n\n- one entry\n- another *one*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nPlain text follows "
    "and goes on for a while, so that\nmost of it is text.\n\n1. first\n2. second\n\n"
)


def seconds(text: str) -> float:
    began = time.process_time()
    extract(text.encode(), "x.md", "text/markdown")
    return time.process_time() - began


@pytest.mark.parametrize(
    "piece",
    [
        "<!-- a\n",
        "<!-- ",
        "x <!--",
        "x <!-- a --",
        "<!-- a --> <!--",
        "![",
        "[",
        "[a](",
        "**a ",
        "` `` ",
        "<a b='",
        "> ",
    ],
)
def test_marks_without_an_end_take_no_longer_than_their_length(piece: str) -> None:
    text = f"Text.\n\n{piece * (80_000 // len(piece))}"

    assert seconds(text) < 1.5  # comments took 8 s, and four times as long for twice the text


def test_a_long_title_that_is_mostly_blank_is_read_at_once() -> None:
    assert seconds(f"---\ntitle: a{' ' * 80_000}b\n---\nText.") < 1
    assert extract(b"---\ntitle: 'A title'  \n---\nText.", "x.md", "text/markdown").title == "A title"


def test_four_tenths_of_a_megabyte_are_read_in_seconds() -> None:
    assert seconds(SECTION * (400_000 // len(SECTION))) < 2.5  # about 1 s; it was 3 on the same machine


def test_a_comment_is_left_out_and_one_without_an_end_is_text() -> None:
    text = "<!-- a\nb -->\n\nShown <!-- c --> here.\n\n<div>d <!-- e --> f</div>\n\n<!-- no end"

    blocks = [block.text for block in extract(text.encode(), "x.md", "text/markdown").blocks]

    assert blocks == ["Shown here.", "d f", "<!-- no end"]


@given(
    st.lists(
        st.sampled_from(
            ["a", " ", "  ", "\n", "\t", "*", "_", "[", "]", "(b)", "<b>", "<", "&", "amp;", "`", "~~", "!", "1. "]
        ),
        max_size=14,
    ).map("".join)
)
@example("a \n b")
@example("a  \nb")
@example("a [b")
def test_text_without_marks_is_read_as_the_library_reads_it(text: str) -> None:
    ours = _parser(markup=True).parse(text)
    theirs = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)

    assert [token.type for token in ours] == [token.type for token in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert _inline(mine) == _inline(other)
