"""Extraction: what a file is, what it says, and why it says nothing. Every file here is a real one of its format."""

import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.documents.extract import SUPPORTED_EXTENSIONS, Extracted, sniff
from worker.documents.extract.blocks import Outline, clean
from worker.documents.extract.decoding import decode
from worker.documents.extract.lines import without_running_lines
from worker.documents.extract.reading import extract
from worker.documents.extract.tables import table_lines
from worker.engines.base import DocumentRejectedError

HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
SLIDE = (
    '<p:sld xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>'
)
SHAPE = (
    '<p:sp><p:nvSpPr><p:cNvPr id="1" name=""/><p:cNvSpPr/><p:nvPr>{placeholder}</p:nvPr></p:nvSpPr><p:spPr/>'
    "<p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
)
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
OOXML_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
OOXML_ROOT = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="word/document.xml"/></Relationships>'
)


def read(content: bytes | str, name: str) -> Extracted:
    content = content.encode() if isinstance(content, str) else content
    return extract(content, name, sniff(content, name))


def texts(content: bytes | str, name: str) -> list[str]:
    return [block.text for block in read(content, name).blocks]


def handbook(path: str) -> Extracted:
    return read((HANDBOOK / path).read_bytes(), path)


def docx(body: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as package:
        package.writestr("[Content_Types].xml", OOXML_TYPES)
        package.writestr("_rels/.rels", OOXML_ROOT)
        package.writestr(
            "word/document.xml",
            '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
            f"<w:body>{body}</w:body></w:document>",
        )
    return file.getvalue()


def pptx(*slides: tuple[str, str, str]) -> bytes:
    """A presentation of slides, each a title, a text and speaker notes; empty strings leave a part out."""
    file = io.BytesIO()
    relation = '<Relationship Id="r{number}" Type="' + OFFICE + '/{kind}" Target="{target}"/>'
    relations = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{0}</Relationships>'
    )
    with zipfile.ZipFile(file, "w") as package:
        package.writestr("[Content_Types].xml", OOXML_TYPES.replace("/word/document.xml", "/ppt/presentation.xml"))
        package.writestr("_rels/.rels", OOXML_ROOT.replace("word/document.xml", "ppt/presentation.xml"))
        ids = "".join(f'<p:sldId id="{255 + n}" r:id="r{n}"/>' for n in range(1, len(slides) + 1))
        package.writestr(
            "ppt/presentation.xml",
            '<p:presentation xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
            f'xmlns:r="{OFFICE}"><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>',
        )
        targets = [
            relation.format(number=n, kind="slide", target=f"slides/slide{n}.xml") for n in range(1, len(slides) + 1)
        ]
        package.writestr("ppt/_rels/presentation.xml.rels", relations.format("".join(targets)))
        noted = 0
        for number, (title, text, notes) in enumerate(slides, start=1):
            shapes = SHAPE.format(placeholder='<p:ph type="title"/>', text=title) if title else ""
            shapes += SHAPE.format(placeholder='<p:ph type="body" idx="1"/>', text=text)
            package.writestr(f"ppt/slides/slide{number}.xml", SLIDE.format(shapes=shapes))
            if notes:
                noted += 1  # PowerPoint numbers notes on their own, whichever slide they belong to
                target = f"../notesSlides/notesSlide{noted}.xml"
                package.writestr(
                    f"ppt/slides/_rels/slide{number}.xml.rels",
                    relations.format(relation.format(number=1, kind="notesSlide", target=target)),
                )
                shape = SHAPE.format(placeholder='<p:ph type="body" idx="1"/>', text=notes)
                package.writestr(
                    f"ppt/notesSlides/notesSlide{noted}.xml", SLIDE.format(shapes=shape).replace("p:sld", "p:notes")
                )
    return file.getvalue()


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def refusal(content: bytes, name: str) -> DocumentRejectedError:
    with pytest.raises(DocumentRejectedError) as caught:
        read(content, name)
    return caught.value


# What a file is


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [
        (b"%PDF-1.7\n...", "notes.txt", "application/pdf"),
        (b"plain words", "notes.txt", "text/plain"),
        (b"plain words", "README", "text/plain"),
        (b"MZ. Smith wrote this", "letter.txt", "text/plain"),
        (b"<!DOCTYPE html><p>x", "page", "text/html"),
        ("Gr\u00fc\u00dfe".encode("utf-16-le"), "wide.txt", "text/plain"),
        (b"a,b\n1,2", "folder/T.CSV", "text/csv"),
        (b"{\\rtf1 x}", "old.doc", "application/rtf"),
        (docx(""), "renamed.bin", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ],
)
def test_the_content_says_what_a_file_is_and_the_name_only_where_it_does_not(
    content: bytes, name: str, media_type: str
) -> None:
    assert sniff(content, name) == media_type


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(60), "notes.txt"),
        (b"MZ\x90\x00\x03" + bytes(60), "report.pdf"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "scan.pdf"),
        (b"PK\x03\x04" + bytes(60), "stuff.zip"),
        (b"\x1f\x8b\x08" + bytes(60), "stuff.gz"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40), "photo"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg"),
        (bytes(range(256)), "data.txt"),
        (bytes(range(256)), "data"),
    ],
)
def test_programs_images_and_archives_are_refused_whatever_their_name(content: bytes, name: str) -> None:
    with pytest.raises(DocumentRejectedError) as caught:
        sniff(content, name)
    assert caught.value.code == "unsupported_type"
    assert name in caught.value.message


class CountingFile(io.BytesIO):
    """Counts the bytes that are read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [
        (b"words " * 1_000_000, "notes", "text/plain"),
        (b"%PDF-1.7\n" + bytes(6_000_000), "scan.pdf", "application/pdf"),
        (
            docx(f"<!-- {'x' * 6_000_000} -->"),
            "letter.docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
    ],
)
def test_only_the_beginning_of_a_file_and_the_directory_of_a_container_are_read(
    content: bytes, name: str, media_type: str
) -> None:
    file = CountingFile(content)
    file.seek(99)

    assert sniff(file, name) == media_type
    assert file.taken < 80_000


@pytest.mark.parametrize(
    ("stream", "media_type"),
    [
        ("WordDocument", "application/msword"),
        ("Workbook", "application/vnd.ms-excel"),
        ("__substg1.0_1000001F", "application/vnd.ms-outlook"),
        ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ],
)
@pytest.mark.parametrize("before", [600, 1024 * 1024 - 10])
def test_old_office_documents_are_told_apart_wherever_their_directory_is(
    stream: str, media_type: str, before: int
) -> None:
    content = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(before) + stream.encode("utf-16-le") + bytes(50)

    assert sniff(io.BytesIO(content), "renamed") == media_type


@given(st.binary(max_size=300), st.sampled_from([*sorted(SUPPORTED_EXTENSIONS), "", ".xyz"]))
@settings(max_examples=100, deadline=None)
def test_no_bytes_make_sniffing_fail_in_another_way(content: bytes, ending: str) -> None:
    try:
        assert "/" in sniff(content, f"file{ending}")
    except DocumentRejectedError as error:
        assert error.code == "unsupported_type"  # noqa: PT017 - being refused is allowed, only how is asserted


# What it says


def test_a_row_of_a_table_names_its_columns_in_every_format() -> None:
    expected = ["Part: K-1; Price: 2.50", "Part: K-2; Price: 3.00"]
    rows = [["Part", "Price"], ["K-1", "2.50"], ["K-2", "3.00"]]
    cells = "".join("<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) + "</w:tr>" for row in rows)
    html = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    assert texts("\n".join(",".join(row) for row in rows), "t.csv") == expected
    assert texts("\n".join(";".join(row) for row in rows), "t.csv") == expected
    assert texts("\n".join("\t".join(row) for row in rows), "t.tsv") == expected
    assert texts("\n".join(f"{part:<12}{price}" for part, price in rows), "t.txt") == expected
    assert texts("|Part|Price|\n|-|-|\n|K-1|2.50|\n|K-2|3.00|", "t.md") == expected
    assert texts(f"<html><body><table>{html}</table></body></html>", "t.html") == expected
    assert texts(docx(f"<w:tbl>{cells}</w:tbl>"), "t.docx") == expected
    assert texts(json.dumps([{"Part": "K-1", "Price": "2.50"}, {"Part": "K-2", "Price": "3.00"}]), "t.json") == expected


def test_a_title_above_the_header_of_a_table_is_a_line_and_not_the_header() -> None:
    cells = [["Prices 2025", "", ""], ["Part", "Price", ""], ["K-1", "2025-02-01 00:00:00", ""], ["", "", ""]]
    assert table_lines(cells) == ["Prices 2025", "Part: K-1; Price: 2025-02-01"]


def test_a_table_without_a_header_keeps_its_rows_as_they_are() -> None:
    assert table_lines([["1", "2"], ["3", "4"]]) == ["1; 2", "3; 4"]


def test_markdown_keeps_its_nested_lists_numbers_and_headings() -> None:
    content = "# Guide\n\nWrapped\nline.\n\n## Steps\n\n- a\n- b\n  - c\n\n3. open\n4. close\n\n> *said* `so`\n"
    extracted = read(content, "guide.md")
    assert extracted.title == "Guide"
    assert [(block.text, block.heading) for block in extracted.blocks] == [
        ("Wrapped line.", "Guide"),
        ("a", "Guide > Steps"),
        ("b", "Guide > Steps"),
        ("c", "Guide > Steps"),
        ("3. open", "Guide > Steps"),
        ("4. close", "Guide > Steps"),
        ("said so", "Guide > Steps"),
    ]


def test_a_document_without_a_title_is_known_by_its_file_name() -> None:
    (block,) = read("a,b\n1,2", "service/error_codes-2024.csv").blocks
    assert block.heading == "error codes 2024"


def test_a_heading_with_nothing_below_it_is_not_lost() -> None:
    assert texts("# Guide\n\n## Empty\n\n## Full\n\nText.\n\n### Last", "guide.md") == ["Empty", "Text.", "Last"]
    assert texts("# Only a title", "guide.md") == ["Only a title"]


def test_web_pages_lose_their_scripts_and_keep_their_lists_breaks_and_odd_signs() -> None:
    page = (
        "<html><head><title>FAQ | Site</title><meta name=description content=x><script>bad()</script></head><body>"
        "<h1>FAQ</h1><p>Mon 9-5.<br>Tue\nclosed.</p><ul><li>One<ul><li>two</li></ul></li></ul>"
        "<dl><dt>Term</dt><dd>meaning</dd></dl><p>a_b * c &lt;d&gt; # 1. e</p><p>1. not a list</p></body></html>"
    )
    extracted = read(page, "faq.html")
    assert extracted.title == "FAQ"
    assert [block.text for block in extracted.blocks] == [
        "Mon 9-5.\nTue closed.",
        "One",
        "two",
        "Term meaning",
        "a_b * c <d> # 1. e",
        "1. not a list",
    ]


def test_word_documents_keep_headings_paragraphs_and_tables() -> None:
    extracted = handbook("manuals/installation-guide.docx")
    found = [block for block in extracted.blocks if block.heading == f"{extracted.title} > Foundation"]
    assert extracted.title == "Installation guide for K series pumps"
    assert [block.text[:40] for block in found] == [
        "Cast the foundation in concrete of class",
        "Model: K20; Foundation, length x width x",
        "Model: K40; Foundation, length x width x",
        "Model: K60; Foundation, length x width x",
        "Fill the base frame of a K60 with non-sh",
    ]


def test_plain_text_is_read_by_the_ends_of_its_lines() -> None:
    content = (
        "Visiting hours\n==============\n\n"
        "The house is open every day but Monday, and in winter it closes an hour\nearlier than in summer.\n\n"
        "Getting here\n\n"
        "1. Take the ferry from the old pier next to the station\n   in the harbour\n2. Walk\n\n"
        "Phone: 555 0101\nMail: desk@example.org\n"
    )
    assert [(block.text, block.heading) for block in read(content, "visit.txt").blocks] == [
        (
            "The house is open every day but Monday, and in winter it closes an hour earlier than in summer.",
            "Visiting hours",
        ),
        ("1. Take the ferry from the old pier next to the station in the harbour", "Visiting hours > Getting here"),
        ("2. Walk", "Visiting hours > Getting here"),
        ("Phone: 555 0101", "Visiting hours > Getting here"),
        ("Mail: desk@example.org", "Visiting hours > Getting here"),
    ]


def test_a_number_at_the_end_of_a_sentence_begins_no_list() -> None:
    first = "Work on the controllers with the cover open is for electricians who passed training level"
    content = f"{first}\n2. Nobody works alone on a pump that is hot.\n"
    assert texts(content, "rules.txt") == [f"{first} 2. Nobody works alone on a pump that is hot."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_decoded_whatever_its_encoding(encoding: str) -> None:
    text = "Price: \u00a35 \u2013 \u201cquoted\u201d caf\u00e9, and so on"
    assert decode(text.encode(encoding)) == text


def test_text_of_another_script_is_decoded_by_what_fits_best() -> None:
    text = "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u0431\u0443\u043b\u043e\u043a"
    assert decode(text.encode("cp1251")) == text
    polish = (
        "Ma\u0142a, \u017c\u00f3\u0142ta \u0142\u00f3d\u017a p\u0142ynie po jeziorze, a na brzegu czeka stara babcia."
    )
    assert decode(polish.encode("cp1250")) == polish


def test_a_web_page_is_decoded_as_it_says() -> None:
    page = "<html><head><meta charset='iso-8859-1'></head><body><p>Gr\u00f6\u00dfe</p></body></html>"
    assert texts(page.encode("latin-1"), "page.html") == ["Gr\u00f6\u00dfe"]


def test_a_mail_is_its_header_its_body_and_the_attachments_that_hold_text() -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "Gr\u00fc\u00dfe", "a@example.org", "b@example.org"
    mail.set_content("Dear B,\n\nthe price is 5 \u20ac.\n", charset="iso-8859-15")
    mail.add_attachment(b"Part,Price\nK-1,2\n", maintype="text", subtype="csv", filename="list.csv")
    mail.add_attachment(b"\x89PNG\r\n\x1a\n", maintype="image", subtype="png", filename="logo.png")
    assert [(block.text, block.heading) for block in read(mail.as_bytes(), "m.eml").blocks] == [
        ("From: a@example.org; To: b@example.org", "Gr\u00fc\u00dfe"),
        ("Dear B,", "Gr\u00fc\u00dfe"),
        ("the price is 5 \u20ac.", "Gr\u00fc\u00dfe"),
        ("Part: K-1; Price: 2", "Gr\u00fc\u00dfe > list.csv"),
        ("logo.png", "Gr\u00fc\u00dfe"),
    ]


def test_a_pdf_keeps_pages_headings_rows_and_sentences_and_drops_running_headers() -> None:
    extracted = handbook("manuals/k20-operating-manual.pdf")
    assert extracted.title == "Kestrel K20 operating and maintenance manual"
    assert extracted.pages == 2
    by_text = {block.text: block for block in extracted.blocks}
    assert not any("Page 1" in text or "Page 2" in text for text in by_text)
    lift = by_text["Limit Value: K20 suction lift, at most 5.5 m"]
    assert (lift.page, lift.heading) == (1, f"{extracted.title} > 2. Limits of operation")
    still = by_text[
        "If the K20 stands still for longer than two months, drain it and turn the shaft by hand every 4 weeks."
    ]
    assert (still.page, still.heading) == (2, f"{extracted.title} > 4. Maintenance")


def test_running_headers_that_differ_in_their_page_number_are_dropped() -> None:
    bodies = (["Milk is white.", "It is cold."], ["Cream is fat.", "It is rich."], ["Whey is thin.", "It is sour."])
    pages = [[f"Dairy manual - page {number}", *body] for number, body in enumerate(bodies, start=1)]
    assert without_running_lines(pages) == ([*bodies], "Dairy manual")
    alone = [["Dairy manual", *bodies[0]]]
    assert without_running_lines(alone) == (alone, None)  # what stands on the only page runs nowhere


def test_titles_without_numbers_and_the_columns_of_tables_are_known_in_a_pdf() -> None:
    found = {block.text: block.heading for block in handbook("sales/k-series-data-sheet.pdf").blocks}
    title = "K series data sheet: K20, K40 and K60"
    assert found["Property K20 K40 K60: Weight 38 kg 64 kg 142 kg"] == f"{title} > At a glance"
    assert found["Option For Code Extra price: Duplex impeller K60 D4 \u00a3640"] == f"{title} > Options"
    assert title not in found


def test_slides_are_pages_and_speaker_notes_stand_with_their_slide() -> None:
    extracted = handbook("sales/spring-dealer-meeting.pptx")
    assert extracted.pages == 7
    notes = next(block for block in extracted.blocks if block.text.startswith("The test rig cost"))
    slide = next(block for block in extracted.blocks if block.text.startswith("New test rig"))
    assert (notes.page, notes.heading) == (slide.page, slide.heading) == (4, f"{extracted.title} > What is new in 2025")


def test_a_slide_without_a_title_does_not_belong_to_the_one_before_it() -> None:
    deck = read(pptx(("Start", "Hello.", ""), ("Milk", "White.", ""), ("", "", "Said aloud.")), "deck.pptx")
    assert deck.pages == 3
    assert [(block.text, block.page, block.heading) for block in deck.blocks] == [
        ("Hello.", 1, "Start"),
        ("White.", 2, "Start > Milk"),
        ("Said aloud.", 3, "Start"),
    ]


def test_every_sheet_of_a_workbook_is_a_section() -> None:
    extracted = handbook("sales/spare-parts-price-list-2025.xlsx")
    headings = list(dict.fromkeys(block.heading for block in extracted.blocks))
    assert headings == [f"{extracted.title} > {sheet}" for sheet in ("K series", "KS and KD", "Controller", "Terms")]


# Why it says nothing


def test_a_file_that_was_cut_short_is_corrupt_and_the_message_says_what_to_do() -> None:
    path = "service/vibration-survey-harbour-works.pdf"
    error = refusal((HANDBOOK / path).read_bytes(), path)
    assert error.code == "corrupt"
    assert path in error.message
    assert "upload" in error.message
    assert "Traceback" not in error.message


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"not a pdf", "report.pdf", "corrupt"),
        (b"PK\x03\x04" + bytes(40), "report.docx", "corrupt"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old.doc", "corrupt"),
        (b"{broken", "data.json", "corrupt"),
        (b"[" * 100_000, "deep.json", "corrupt"),
        (b"", "empty.txt", "no_text"),
        (b" \n\t\n", "blank.md", "no_text"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le") + bytes(600),
            "x.docx",
            "encrypted",
        ),
    ],
)
def test_a_document_that_cannot_be_read_is_refused_with_its_code(content: bytes, name: str, code: str) -> None:
    error = refusal(content, name)
    assert error.code == code
    assert name in error.message


def test_a_document_with_more_text_than_allowed_is_too_large() -> None:
    with pytest.raises(DocumentRejectedError) as caught:
        extract(b"word " * 100, "long.txt", "text/plain", max_characters=100)
    assert caught.value.code == "too_large"
    assert "long.txt" in caught.value.message


@given(st.binary(max_size=400), st.sampled_from(sorted(SUPPORTED_EXTENSIONS)))
@settings(max_examples=80, deadline=None)
def test_no_bytes_make_extraction_fail_in_another_way(content: bytes, ending: str) -> None:
    try:
        name = f"file{ending}"
        assert extract(content, name, sniff(content, name)).blocks
    except DocumentRejectedError as error:
        assert error.code in {"corrupt", "no_text", "unsupported_type", "encrypted"}  # noqa: PT017 - only how is asserted


# The outline


@given(st.lists(st.tuples(st.integers(0, 4), st.text(min_size=1, max_size=12)), max_size=20))
@settings(max_examples=100, deadline=None)
def test_nothing_written_to_an_outline_is_lost(entries: list[tuple[int, str]]) -> None:
    """Level 0 is text; every heading and every text is found in some block's text or heading, and text in order."""
    outline = Outline(fallback="file")
    for level, text in entries:
        outline.heading(level, text) if level else outline.text(text)
    extracted = outline.finish()
    everything = "\n".join(f"{block.heading}\n{block.text}" for block in extracted.blocks)
    for level, text in entries:
        assert (" ".join(clean(text).split()) if level else clean(text)) in everything
    written = [clean(text) for level, text in entries if not level and clean(text)]
    remaining = iter([block.text for block in extracted.blocks])
    assert all(any(text == other for other in remaining) for text in written)


def test_text_that_no_store_can_hold_is_taken_out() -> None:
    assert clean("a\x00b\ud800c\u200bd\r\ne\x0bf   g\n\n h") == "abcd\ne\nf g\nh"
