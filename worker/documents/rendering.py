"""A document's text as Markdown, for a reader that keeps no headings and no pages of its own.

Promise: :func:`as_markdown` is pure and loses nothing: the blocks stand in it in their order, each below the headings
above it, and behind a mark of the page that it begins on, where the format has pages.
"""

from collections.abc import Iterator

from worker.documents.extract.blocks import SEPARATOR, Block, Extracted

_DEEPEST = 6


def as_markdown(extracted: Extracted) -> str:
    """Return the text of a document as Markdown; its title is the heading of level 1."""
    return "\n\n".join(_paragraphs(extracted.title, extracted.blocks)) + "\n"


def _paragraphs(title: str, blocks: tuple[Block, ...]) -> Iterator[str]:
    above: list[str] = []
    page: int | None = None
    if title:
        above = [title]
        yield f"# {title}"
    for block in blocks:
        if block.page is not None and block.page != page:
            page = block.page
            yield f"[Page {page}]"
        headings = block.heading.split(SEPARATOR) if block.heading else []
        common = next((at for at, (old, new) in enumerate(zip(above, headings, strict=False)) if old != new), None)
        common = min(len(above), len(headings)) if common is None else common
        for level, heading in enumerate(headings[common:], common + 1):
            if heading:
                yield f"{'#' * min(level, _DEEPEST)} {heading}"
        above = headings or above[:1]
        yield block.text
