"""Write ``examples/handbook``: the shared folder of a fictional pump maker, Kestrel Pumps Ltd of Sheffield.

The folder is what an analyst uploads in the examples and what ``examples/questions.csv`` asks about: 27 files of the
kinds a real company keeps (PDF, DOCX, XLSX, PPTX, HTML, Markdown, CSV, text, mail) and a ZIP of five more. Three pump
models share most of their documents' wording and differ in the values, so that finding the right passage takes more
than a keyword. One of the 27, ``CUT_SHORT``, is broken on purpose, as by an interrupted copy: a valid PDF that ends too
early. What it says stands nowhere else, and no question that can be answered depends on it.

The content is data: ``examples/handbook_source`` holds one Markdown text a document, at the document's own path.
``NAME.pdf.md`` becomes ``NAME.pdf``, ``NAME.md`` stays Markdown, and a folder called ``NAME.zip`` becomes that archive.
Here are only the writers, one a format. With the same versions of the libraries, every run writes the same bytes.

Run it after changing a text (needs the dependency group ``handbook``)::

    uv run --group handbook python examples/make_handbook.py
"""

import csv
import io
import re
import shutil
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_string, policy
from email.message import EmailMessage
from html import escape
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal

from docx import Document
from docx.shared import Cm
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from openpyxl import Workbook
from openpyxl.styles import Font
from pptx import Presentation
from pptx.util import Inches
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Flowable, Frame, PageTemplate, Paragraph, Spacer, Table

SOURCES = Path(__file__).with_name("handbook_source")
HANDBOOK = Path(__file__).with_name("handbook")
COMPANY = "Kestrel Pumps Ltd"
WRITTEN_AT = datetime(2025, 3, 3, 9, 0, tzinfo=UTC)
CUT_SHORT, CUT_AT = "service/vibration-survey-harbour-works.pdf", 0.4
MAX_BYTES = 600_000

MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """One piece of a document: its kind, and its text in rows (one cell a row, except in a table)."""

    kind: Literal["heading", "paragraph", "bullets", "steps", "table", "note"]
    rows: tuple[tuple[str, ...], ...]
    level: int = 0

    @property
    def text(self) -> str:
        """The first cell: all there is in a heading, a paragraph or a note."""
        return self.rows[0][0]

    @property
    def items(self) -> list[tuple[str, str]]:
        """The entries of a list, each with its marker."""
        return [(f"{n}." if self.kind == "steps" else "•", row[0]) for n, row in enumerate(self.rows, start=1)]


def read(source: str) -> list[Block]:
    """Return the blocks of a Markdown text; anything the writers do not know is a ``ValueError``."""
    return [_block(node) for node in SyntaxTreeNode(MARKDOWN.parse(source)).children]


def _block(node: SyntaxTreeNode) -> Block:
    match node.type:
        case "heading":
            return Block("heading", ((_text(node),),), level=int(node.tag[1]))
        case "paragraph":
            return Block("paragraph", ((_text(node),),))
        case "blockquote":
            return Block("note", ((_text(node),),))
        case "bullet_list" | "ordered_list":
            kind: Literal["bullets", "steps"] = "bullets" if node.type == "bullet_list" else "steps"
            return Block(kind, tuple((_text(item),) for item in node.children))
        case "table":
            lines = [line for part in node.children for line in part.children]
            return Block("table", tuple(tuple(_text(cell) for cell in line.children) for line in lines))
        case other:
            raise ValueError(f"no writer knows what to do with {other} (line {node.map}); use a simpler form")


def _text(node: SyntaxTreeNode) -> str:
    return "".join(" " if leaf.type == "softbreak" else leaf.content for leaf in node.walk() if not leaf.children)


def write_markdown(source: str) -> bytes:
    return source.encode()


def write_html(source: str) -> bytes:
    title = escape(read(source)[0].text)
    style = "body{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto}td,th{border:1px solid #999;padding:3px 8px}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title} | {COMPANY}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n{MARKDOWN.render(source)}</main>\n"
        f"<footer><p>{COMPANY}, 14 Foundry Lane, Sheffield</p></footer>\n</body>\n</html>\n"
    ).encode()


def write_csv(source: str) -> bytes:
    (table,) = read(source)
    out = io.StringIO()
    csv.writer(out).writerows(table.rows)
    return out.getvalue().encode()


def write_text(source: str) -> bytes:
    return "\n\n".join(_plain(block) for block in read(source)).encode() + b"\n"


def _plain(block: Block) -> str:
    match block.kind:
        case "heading":
            return f"{block.text}\n{('=' if block.level == 1 else '-') * len(block.text)}"
        case "bullets" | "steps":
            entries = ((marker.replace("•", "-") + " ", text) for marker, text in block.items)
            return "\n".join(textwrap.fill(m + text, 88, subsequent_indent=" " * len(m)) for m, text in entries)
        case "table":
            widths = [max(map(len, column)) for column in zip(*block.rows, strict=True)]
            return "\n".join("   ".join(map(str.ljust, row, widths)).rstrip() for row in block.rows)
        case _:
            return textwrap.fill(block.text, 88)


def write_mail(source: str) -> bytes:
    draft = message_from_string(source)
    mail = EmailMessage(policy=policy.SMTP)
    for name, value in draft.items():
        mail[name] = value
    mail.set_content(draft.get_payload())
    return mail.as_bytes()


BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=10, leading=14, spaceAfter=6)
CELL = ParagraphStyle("cell", parent=BODY, fontSize=9, leading=11, spaceAfter=0)
ITEM = ParagraphStyle("item", parent=BODY, leftIndent=14, spaceAfter=3)
NOTE = ParagraphStyle("note", parent=BODY, backColor=colors.whitesmoke, borderPadding=4, spaceBefore=6, spaceAfter=10)
HEADINGS = [
    ParagraphStyle(
        f"h{level}", fontName="Helvetica-Bold", fontSize=size, leading=size * 1.25, spaceBefore=size * 0.7,
        spaceAfter=size * 0.4, keepWithNext=True,
    )
    for level, size in enumerate((19, 14, 11), start=1)
]  # fmt: skip
GRID = [("GRID", (0, 0), (-1, -1), 0.4, colors.grey), ("BACKGROUND", (0, 0), (-1, 0), colors.lightgrey)]


class _Pages(BaseDocTemplate):
    """A4 pages with a footer, and an outline made from the headings."""

    def __init__(self, out: io.BytesIO, title: str) -> None:
        super().__init__(out, title=title, author=COMPANY, invariant=1, pagesize=A4)
        frame = Frame(22 * mm, 22 * mm, A4[0] - 44 * mm, A4[1] - 42 * mm)
        self.addPageTemplates(PageTemplate(frames=[frame], onPage=self._footer))

    def _footer(self, canvas: Canvas, _: BaseDocTemplate) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(22 * mm, 12 * mm, f"{COMPANY} - {self.title}")
        canvas.drawRightString(A4[0] - 22 * mm, 12 * mm, f"Page {canvas.getPageNumber()}")

    def afterFlowable(self, flowable: Flowable) -> None:  # noqa: N802  (the library calls it by this name)
        if isinstance(flowable, Paragraph) and flowable.style in HEADINGS:
            key = f"h{self.canv.getPageNumber()}-{self.frame._y:.0f}"  # noqa: SLF001  (no public name for the place)
            self.canv.bookmarkPage(key)
            self.canv.addOutlineEntry(flowable.getPlainText(), key, HEADINGS.index(flowable.style))


def write_pdf(source: str) -> bytes:
    blocks = read(source)
    out = io.BytesIO()
    pages = _Pages(out, blocks[0].text)
    pages.build([flowable for block in blocks for flowable in _flowables(block)])
    return out.getvalue()


def _flowables(block: Block) -> list[Flowable]:
    match block.kind:
        case "heading":
            return [Paragraph(escape(block.text), HEADINGS[block.level - 1])]
        case "bullets" | "steps":
            return [Paragraph(escape(text), ITEM, bulletText=marker) for marker, text in block.items]
        case "table":
            longest = [min(max(map(len, column)), 45) + 4 for column in zip(*block.rows, strict=True)]
            widths = [(A4[0] - 48 * mm) * size / sum(longest) for size in longest]
            cells = [[Paragraph(escape(cell), CELL) for cell in row] for row in block.rows]
            return [Table(cells, colWidths=widths, repeatRows=1, style=GRID), Spacer(0, 8)]
        case _:
            return [Paragraph(escape(block.text), NOTE if block.kind == "note" else BODY)]


def write_docx(source: str) -> bytes:
    blocks = read(source)
    document = Document()
    document.core_properties.title, document.core_properties.author = blocks[0].text, COMPANY
    document.core_properties.comments = ""
    for block in blocks:
        match block.kind:
            case "heading":
                document.add_heading(block.text, block.level)
            case "bullets":
                for (text,) in block.rows:
                    document.add_paragraph(text, style="List Bullet")
            case "steps":  # written out: the template's numbered style would count on from list to list
                for marker, text in block.items:
                    document.add_paragraph(f"{marker} {text}").paragraph_format.left_indent = Cm(0.6)
            case "table":
                table = document.add_table(rows=0, cols=len(block.rows[0]), style="Light Grid Accent 1")
                for row in block.rows:
                    for cell, text in zip(table.add_row().cells, row, strict=True):
                        cell.text = text
                document.add_paragraph()
            case _:
                document.add_paragraph(block.text, style="Intense Quote" if block.kind == "note" else None)
    out = io.BytesIO()
    document.save(out)
    return _dated(out)


def write_xlsx(source: str) -> bytes:
    """A sheet for each heading of level 2: its paragraphs first, then its table, numbers as numbers."""
    title, *blocks = read(source)
    book = Workbook()
    book.remove(book.worksheets[0])
    book.properties.title, book.properties.creator = title.text, COMPANY
    for block in blocks:
        if block.kind == "heading":
            sheet = book.create_sheet(block.text)
            continue
        for number, row in enumerate(block.rows):
            sheet.append([float(cell) if re.fullmatch(r"\d+(\.\d+)?", cell) else cell for cell in row])
            if block.kind == "table" and number == 0:
                for cell in sheet[sheet.max_row]:
                    cell.font = Font(bold=True)
        if block.kind == "table":
            for letter, column in zip("ABCDEFGH", zip(*block.rows, strict=True), strict=False):
                sheet.column_dimensions[letter].width = max(map(len, column)) + 2
    out = io.BytesIO()
    book.save(out)
    return _dated(out)


def write_pptx(source: str) -> bytes:
    """A slide for each heading: bullets in its body or a table under its title, notes in the speaker's notes."""
    show = Presentation()
    show.core_properties.author = COMPANY
    for block in read(source):
        match block.kind:
            case "heading":
                slide = show.slides.add_slide(show.slide_layouts[0 if block.level == 1 else 1])
                slide.shapes.title.text = block.text
            case "note":
                slide.notes_slide.notes_text_frame.text = block.text
            case "table":
                body = slide.placeholders[1]
                body.element.getparent().remove(body.element)
                size = len(block.rows), len(block.rows[0])
                grid = slide.shapes.add_table(*size, Inches(0.5), Inches(1.7), Inches(9), Inches(0.4 * size[0])).table
                for y, row in enumerate(block.rows):
                    for x, text in enumerate(row):
                        grid.cell(y, x).text = text
            case _:
                slide.placeholders[1].text_frame.text = "\n".join(row[0] for row in block.rows)
    show.core_properties.title = show.slides[0].shapes.title.text
    out = io.BytesIO()
    show.save(out)
    return _dated(out)


def _dated(office_file: io.BytesIO) -> bytes:
    """Return the same Office file with ``WRITTEN_AT`` for every time in it; the libraries put in the present one."""
    now = rb"\g<1>" + WRITTEN_AT.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    with zipfile.ZipFile(office_file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["docProps/core.xml"] = re.sub(rb"(<dcterms:\w+ [^>]*>)[^<]+", now, parts["docProps/core.xml"])
    return zipped(parts)


def zipped(members: dict[str, bytes]) -> bytes:
    """Return a ZIP of the members in the order given, each dated ``WRITTEN_AT``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, WRITTEN_AT.timetuple()[:6])
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same on every system
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


WRITERS: dict[str, Callable[[str], bytes]] = {
    ".csv": write_csv, ".docx": write_docx, ".eml": write_mail, ".html": write_html, ".md": write_markdown,
    ".pdf": write_pdf, ".pptx": write_pptx, ".txt": write_text, ".xlsx": write_xlsx,
}  # fmt: skip


def handbook() -> dict[str, bytes]:
    """Return the whole folder: the path inside it and the bytes of every file."""
    written: dict[PurePosixPath, bytes] = {}
    for source in sorted(SOURCES.rglob("*.md")):
        path = PurePosixPath(source.relative_to(SOURCES).as_posix())
        target = path.with_suffix("") if path.with_suffix("").suffix in WRITERS else path
        written[target] = WRITERS[target.suffix](source.read_text(encoding="utf-8"))
    files: dict[str, bytes] = {}
    for archive, members in groupby(written, key=_archive):
        if archive is None:
            files |= {str(path): written[path] for path in members}
        else:
            files[str(archive)] = zipped({str(path.relative_to(archive)): written[path] for path in members})
    files[CUT_SHORT] = files[CUT_SHORT][: int(len(files[CUT_SHORT]) * CUT_AT)]
    return files


def _archive(path: PurePosixPath) -> PurePosixPath | None:
    return next((parent for parent in path.parents if parent.suffix == ".zip"), None)


def main() -> None:
    files = handbook()
    if (size := sum(map(len, files.values()))) > MAX_BYTES:
        sys.exit(f"the handbook has {size:,} bytes, more than {MAX_BYTES:,}; shorten a text in {SOURCES.name}")
    shutil.rmtree(HANDBOOK, ignore_errors=True)  # a document whose text is gone must go as well
    for name, content in files.items():
        target = HANDBOOK / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    print(f"wrote {len(files)} files, {size:,} bytes, to {HANDBOOK}")


if __name__ == "__main__":
    main()
