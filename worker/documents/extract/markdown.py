"""Markdown as blocks: Markdown files, and the Markdown that office documents and web pages are turned into."""

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from worker.documents.extract.blocks import Outline
from worker.documents.extract.tables import table_lines

_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:(.+)$", re.MULTILINE | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_SOFT_BREAK = re.compile(r" ?\n[ \t]*")
_QUOTES = frozenset("\"'")
_LINE_TAG = re.compile(r"<(?:br|/p|/div|/li|/tr|/h[1-6])\b[^<>]*>", re.IGNORECASE)


def read_markdown(text: str, outline: Outline, *, markup: bool = True) -> None:
    """Write the blocks of a Markdown text to ``outline``.

    Args:
        text: CommonMark with tables.
        outline: where the blocks go.
        markup: HTML in the text is markup, as in files that people write; ``False``: it is text.
    """
    if markup and (matter := _FRONT_MATTER.match(text)):
        text = text[matter.end() :]
        if (title := _TITLE.search(matter.group(1))) and outline.title is None:
            outline.title = _unquoted(title[1].strip()) or None
    tokens = iter(_parser(markup=markup).parse(text))
    lists = _Lists()
    for token in tokens:
        match token.type:
            case "heading_open":
                outline.heading(int(token.tag[1]), _inline(next(tokens)))
            case "table_open":
                for line in table_lines(_cells(tokens)):
                    outline.text(line)
            case "inline":
                outline.text(lists.number() + _inline(token))
            case "fence" | "code_block":
                outline.text(token.content)
            case "html_block":
                outline.text(_without_tags(token.content))
            case _:
                lists.note(token)


def _parser(*, markup: bool) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": markup}).enable(["table", "strikethrough"])
    parser.core.ruler.at("inline", _parse_inline)
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign] # where links lead is not read
    return parser


def _parse_inline(state: StateCore) -> None:
    """The library's rule, except for text without marks: looking for them is most of what parsing costs."""
    for token in state.tokens:
        if token.type == "inline":
            token.children = []
            if _has_marks(token.content):
                state.md.inline.parse(token.content, state.md, state.env, token.children)
            else:
                token.children.append(Token("text", "", 0, content=_SOFT_BREAK.sub(" ", token.content)))


def _has_marks(text: str) -> bool:
    """Whether something in it is perhaps not just text: a mark that can be the first or the last of its kind."""
    return (
        "\\" in text
        or "  \n" in text
        or ("[" in text and "]" in text)
        or ("<" in text and ">" in text)
        or ("&" in text and ";" in text)
        or any(text.find(mark, text.find(mark) + 1) > 0 for mark in "`*_~" if mark in text)
    )


def _unquoted(title: str) -> str:
    title = title[1:] if title[:1] in _QUOTES else title
    return (title[:-1] if title[-1:] in _QUOTES else title).strip()


class _Lists:
    """Knows the number of a list entry, for lists that are numbered."""

    def __init__(self) -> None:
        self._next: list[int | None] = []  # of the lists that are open; None where entries have marks
        self._entry = ""

    def note(self, token: Token) -> None:
        match token.type:
            case "ordered_list_open":
                self._next.append(int(token.attrGet("start") or 1))
            case "bullet_list_open":
                self._next.append(None)
            case "ordered_list_close" | "bullet_list_close":
                self._next.pop()
            case "list_item_open" if (number := self._next[-1]) is not None:
                self._entry, self._next[-1] = f"{number}. ", number + 1

    def number(self) -> str:
        """Return the number that stands before the next text; once, for an entry may hold several paragraphs."""
        entry, self._entry = self._entry, ""
        return entry


def _cells(tokens: Iterator[Token]) -> list[list[str]]:
    rows: list[list[str]] = []
    for token in tokens:
        match token.type:
            case "tr_open":
                rows.append([])
            case "inline":
                rows[-1].append(_inline(token))
            case "table_close":
                break
    return rows


def _inline(token: Token) -> str:
    return "".join(_pieces(token.children or ()))


def _pieces(children: Sequence[Token]) -> Iterator[str]:
    for child in children:
        match child.type:
            case "softbreak":
                yield " "
            case "hardbreak":
                yield "\n"
            case "text" | "code_inline":
                yield child.content
            case "image" if child.content != "SVG Image":  # what the parser calls a drawing without a name
                yield child.content
            case "html_inline" if _LINE_TAG.match(child.content):
                yield "\n"


def _without_tags(html: str) -> str:
    return _TAG.sub("", _LINE_TAG.sub("\n", _without_comments(html)))


def _without_comments(html: str) -> str:
    """What begins like a comment and has no end is text. A pattern would look for the end at each beginning again."""
    kept, at = list[str](), 0
    while (begin := html.find("<!--", at)) >= 0 and (end := html.find("-->", begin + 4)) >= 0:
        kept.append(html[at:begin])
        at = end + 3
    return "".join([*kept, html[at:]])
