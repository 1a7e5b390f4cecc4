"""A look at the bytes refuses what is certain to hold no text, or to be locked, and lets all else through."""

import io
from pathlib import Path

import pytest

from tests.integration.anythingllm_engines import empty_workbook, workbook
from tests.pdfs import scanned_pdf, text_pdf
from worker.documents.extract import sniffing
from worker.documents.extract.reading import extract
from worker.documents.looking import check, is_locked_pdf
from worker.engines.base import DocumentRejectedError

_HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
_DOCUMENTS = {path for path in _HANDBOOK.rglob("*.*") if path.suffix != ".zip"}
_LOCKED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le") + bytes(600)


def code_of(content: bytes, name: str) -> str | None:
    try:
        check(io.BytesIO(content), name, sniffing.sniff(content, name))
    except DocumentRejectedError as error:
        return error.code if name in error.message else error.message
    return None


@pytest.mark.parametrize(
    "path", sorted(set(_HANDBOOK.rglob("*.*")) - set(_HANDBOOK.rglob("*.zip"))), ids=lambda path: path.name
)
def test_a_document_with_text_is_let_through(path: Path) -> None:
    assert code_of(path.read_bytes(), path.name) is None


def test_a_scan_holds_no_text() -> None:
    assert code_of(scanned_pdf(), "scan.pdf") == "no_text"


@pytest.mark.parametrize(
    "content",
    [
        scanned_pdf(packed=b"<< /Font << /F1 5 0 R >> >>"),  # its font is known only once that is unpacked
        scanned_pdf().replace(b"/FlateDecode", b"/LZWDecode"),
        scanned_pdf().replace(b"/N 1 /First", b"/DecodeParms << /Predictor 12 >> /First"),
        scanned_pdf().replace(b"%%EOF", b""),  # cut short
        scanned_pdf().replace(b"\nendstream", b"", 1)[:-40],
        scanned_pdf().replace(b"/Subtype /Image", b"/Subtype /Form"),
        text_pdf("The shop opens at nine."),
        b"%PDF-1.7 garbage %%EOF",
    ],
)
def test_a_pdf_of_which_nothing_is_certain_is_let_through(content: bytes) -> None:
    assert code_of(content, "file.pdf") is None


def test_a_word_that_lies_across_two_blocks_is_seen() -> None:
    scan = scanned_pdf()
    for missing in range(8):
        filler = b"%" + bytes(1024 * 1024 - missing - 1)
        assert code_of(b"%PDF-1.4\n" + filler + b"/Font" + scan, "long.pdf") is None


@pytest.mark.parametrize(("password", "locked"), [(None, False), ("", True), ("secret", True)])
def test_a_pdf_is_known_as_encrypted_and_is_let_through(password: str | None, locked: bool) -> None:
    content = text_pdf("The shop opens at nine.", password=password)
    assert is_locked_pdf(io.BytesIO(content)) is locked
    assert code_of(content, "file.pdf") is None


def test_a_pdf_that_opens_without_its_password_is_read() -> None:
    blocks = extract(text_pdf("The shop opens at nine.", password=""), "file.pdf", sniffing.PDF).blocks
    assert "opens at nine" in blocks[0].text


@pytest.mark.parametrize("name", ["plan.docx", "plan.xlsx", "plan.pptx"])
def test_a_locked_office_document_is_encrypted(name: str) -> None:
    assert code_of(_LOCKED, name) == "encrypted"


def test_a_workbook_without_a_cell_holds_no_text() -> None:
    assert code_of(workbook(Prices="x"), "prices.xlsx") is None
    assert code_of(empty_workbook(), "empty.xlsx") == "no_text"


def test_a_damaged_workbook_is_let_through() -> None:
    assert code_of(workbook(Prices="x")[:-30], "prices.xlsx") is None
