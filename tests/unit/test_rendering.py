"""Markdown of a document's blocks: their order, their headings, their pages."""

from pathlib import Path

import pytest

from worker.documents.extract import sniffing
from worker.documents.extract.blocks import Block, Extracted
from worker.documents.extract.reading import extract
from worker.documents.rendering import as_markdown

_HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
_DAMAGED = "vibration-survey-harbour-works.pdf"
_REAL = [path for path in sorted(_HANDBOOK.rglob("*.*")) if path.suffix in {".pdf", ".docx"} and path.name != _DAMAGED]


def of(*blocks: Block, title: str = "Pumps") -> str:
    return as_markdown(Extracted(title, blocks, None, 0))


def test_headings_stand_above_what_they_are_of_once() -> None:
    text = of(
        Block("Intro.", heading="Pumps"),
        Block("Oil weekly.", heading="Pumps > Care > Oil"),
        Block("And filter.", heading="Pumps > Care > Oil"),
        Block("Seals.", heading="Pumps > Care > Seals"),
        Block("Call us.", heading="Pumps > Contact"),
        Block("The end."),
    )
    assert text.split("\n\n") == [
        "# Pumps",
        "Intro.",
        "## Care",
        "### Oil",
        "Oil weekly.",
        "And filter.",
        "### Seals",
        "Seals.",
        "## Contact",
        "Call us.",
        "The end.\n",
    ]


def test_a_page_is_marked_where_it_begins() -> None:
    assert of(Block("a", 1), Block("b", 1), Block("c", 3), title="") == "[Page 1]\n\na\n\nb\n\n[Page 3]\n\nc\n"


@pytest.mark.parametrize("path", _REAL, ids=lambda path: path.name)
def test_nothing_is_lost_of_a_real_document(path: Path) -> None:
    content = path.read_bytes()
    extracted = extract(content, path.name, sniffing.sniff(content, path.name))
    text = as_markdown(extracted)
    at = 0
    for block in extracted.blocks:
        at = text.index(block.text, at)
    for page in range(1, (extracted.pages or 0) + 1):
        assert f"[Page {page}]" in text
