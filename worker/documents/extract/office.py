"""Everything that kreuzberg parses: PDF, office documents, web pages, e-books, tables.

Promise: no OCR, no cache, no network; its errors come back as :class:`DocumentRejectedError` in our words. Run it where
a crash or a hang of the parser does no harm (:mod:`worker.documents.parsing`).
"""

import re
from collections.abc import Sequence
from typing import Any

import kreuzberg
from kreuzberg import ExtractionConfig, ExtractionResult, PageConfig, PostProcessorConfig

from worker.documents.extract.blocks import Outline
from worker.documents.extract.lines import LineReader, full_width, is_title, without_running_lines
from worker.documents.extract.markdown import read_markdown
from worker.documents.extract.notes import speaker_notes
from worker.documents.extract.refusals import damaged, locked, unsupported
from worker.documents.extract.tables import table_lines

_PAGE = re.compile(r"^\\?<\\?!-- PAGE (\d+) --\\?>$", re.MULTILINE)
_HTML_METADATA = re.compile(r"\A---\n(?:[\w:.-]+: [^\n]*\n)*\n?(?:## [\w:.-]+: [^\n]*\n)?")
# What programs write where nobody named the document.
_NO_TITLE = re.compile(
    r"\W*(?:anonymous|untitled.*|unspecified|unknown|document\d*|powerpoint[ -]presentation|presentation\d*|slide \d+"
    r"|book\d*|normal|title)?\W*\Z",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"\AMicrosoft (?:Word|PowerPoint|Excel) - ")
_FILE_NAME = re.compile(r"\.(?:docx?|pptx?|xlsx?|odt|pdf|indd|tex|rtf)\Z", re.IGNORECASE)
_PROSE = 200  # characters from which an XML element is a paragraph rather than a field
_MAX_FIELDS = 20
# Line breaks that were meant stay apart from those that were not, and signs of the text are no Markdown.
_HTML = {"newline_style": "backslash", "escape_misc": True, "escape_underscores": True, "escape_asterisks": True}


def read_pdf(content: bytes, name: str, outline: Outline) -> int:
    """Write the blocks of a PDF to ``outline`` and return its number of pages."""
    # Plain text keeps the lines of the page; the structure, made from the sizes of the letters, knows the headings.
    result = _parse(content, name, "application/pdf", output_format="plain", pages=PageConfig(extract_pages=True))
    structure = _parse(content, name, "application/pdf", output_format="markdown", include_document_structure=True)
    found = result.pages or []
    pages, running = without_running_lines([page["content"].splitlines() for page in found])
    lines = [line for page in pages for line in page]
    headings = _large_lines(structure, {line.strip() for line in lines})
    top = next((line.strip() for line in lines if line.strip()), "")
    large = next((text for text, level in headings.items() if level == 1), top if top in headings else None)
    outline.title = _title(result) or large or running
    reader = LineReader(outline, full_width(lines), headings, frozenset(" ".join(lines).lower().split()))
    for page, body in zip(found, pages, strict=True):
        reader.page(page["page_number"], body)
    reader.end()
    return max(len(found), 1)


def read_slides(content: bytes, name: str, media_type: str, outline: Outline) -> int | None:
    """Write the blocks of a presentation to ``outline``, a slide a page, and return the number of slides."""
    markers = PageConfig(extract_pages=True, insert_page_markers=True)
    result = _parse(content, name, media_type, output_format="markdown", pages=markers)
    outline.title = _title(result)
    notes = speaker_notes(content)
    before, *parts = _PAGE.split(result.content)
    read_markdown(before, outline, markup=False)
    for number, text in zip(parts[::2], parts[1::2], strict=True):
        outline.leave(2)  # a slide without a title does not belong to the slide before it
        outline.page = int(number)
        if outline.title is None and (first := re.match(r"\s*#+ (.+)", text)):
            outline.title = first.group(1).strip()
        read_markdown(text, outline, markup=False)
        for line in notes.get(outline.page, ()):
            outline.text(line)
    return len(parts) // 2 or None


def read_sheets(content: bytes, name: str, media_type: str, outline: Outline) -> None:
    """Write the rows of every sheet of a workbook, or of a CSV file, to ``outline``."""
    result = _parse(content, name, media_type, output_format="plain")
    outline.title = outline.title or _title(result)
    sheets = result.metadata.get("sheet_names") or []
    for table in result.tables:
        if 0 < table.page_number <= len(sheets):
            outline.heading(2, sheets[table.page_number - 1])
        for line in table_lines(table.cells):
            outline.text(line)


def read_document(content: bytes, name: str, media_type: str, outline: Outline) -> None:
    """Write the blocks of a text document of any other kind to ``outline``."""
    result = _parse(content, name, media_type, output_format="markdown", html_options=_HTML)
    text = result.content
    if media_type == "text/html":
        text = _HTML_METADATA.sub("", text, count=1)
    # A heading at the top says it better than the metadata, where a template or a site often says its own name.
    if outline.title is None and not re.match(r"\s*# \S", text):
        outline.title = _title(result)
    read_markdown(text, outline, markup=False)


def read_elements(content: bytes, name: str, outline: Outline) -> None:
    """Write the blocks of an XML file to ``outline``: the elements that hold text, each with its name."""
    result = _parse(content, name, "application/xml", include_document_structure=True)
    nodes: Sequence[Any] = result.document["nodes"] if result.document else ()
    path: list[str] = []
    fields: list[str] = []

    def end_record() -> None:
        outline.text("; ".join(fields))
        fields.clear()

    for node in nodes:
        kind = node["content"]
        if kind["node_type"] == "group":
            above = _depth(nodes, node)
            if above < len(path) - 1:
                end_record()
            path[above:] = [str(kind.get("heading_text") or "")]
        elif kind["node_type"] not in {"heading", "page_break"} and (text := str(kind.get("text") or "").strip()):
            fields.append(f"{path[-1]}: {text}" if path else text)
            if len(text) > _PROSE or len(fields) >= _MAX_FIELDS:
                end_record()
    end_record()


def _depth(nodes: Sequence[Any], node: Any) -> int:
    depth = 0
    while (parent := node.get("parent")) is not None:
        node, depth = nodes[parent], depth + 1
    return depth


def _parse(content: bytes, name: str, media_type: str, **options: Any) -> ExtractionResult:
    """Run kreuzberg on the bytes.

    Raises:
        DocumentRejectedError: ``encrypted``, ``unsupported_type`` or ``corrupt``.
    """
    config = ExtractionConfig(
        use_cache=False, enable_quality_processing=False, postprocessor=PostProcessorConfig(enabled=False), **options
    )
    try:
        return kreuzberg.extract_bytes_sync(content, media_type, config)
    except (kreuzberg.ValidationError, kreuzberg.MissingDependencyError) as error:
        raise unsupported(name, f"of type {media_type}, which cannot be read") from error
    except (kreuzberg.KreuzbergError, RuntimeError, ValueError, OSError) as error:
        raise (locked(name) if "password" in str(error).lower() else damaged(name)) from error
    except BaseException as error:
        # What a panic of the Rust core becomes is an exception outside Exception, of a class that cannot be imported.
        if type(error).__name__ == "PanicException":
            raise damaged(name) from error
        raise


def _title(result: ExtractionResult) -> str | None:
    title = _PROGRAM.sub("", " ".join(str(result.metadata.get("title") or "").split()))
    return None if _NO_TITLE.match(title) or _FILE_NAME.search(title) else title


def _large_lines(result: ExtractionResult, lines: set[str]) -> dict[str, int]:
    """Return the lines of a PDF that are set larger than the text, with their levels."""
    headings: dict[str, int] = {}
    for node in result.document["nodes"] if result.document else ():
        content = node["content"]
        if content["node_type"] == "heading":
            for line in map(str.strip, content["text"].splitlines()):
                if line in lines and is_title(line):  # not the row of a table in larger letters
                    headings.setdefault(line, content["level"])
    return headings
