"""Preparing: a file is measured, known by type, refused for a reason, and its text is UTF-8 and says so."""

import hashlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_extract import HANDBOOK, docx, paragraph
from worker.documents.anythingllm_types import SUPPORTED_BY_ANYTHINGLLM, accepted_by_anythingllm
from worker.documents.extract import SUPPORTED_EXTENSIONS, sniffing
from worker.documents.preparing import Prepared, prepare
from worker.engines.base import DocumentRejectedError

TEXT = "Gr\u00f6\u00dfe: \u00a35 \u2013 \u201cquoted\u201d caf\u00e9, and so on"


def prepared(content: bytes, name: str = "notes.txt") -> Prepared:
    return prepare(io.BytesIO(content), name, max_bytes=10_000_000)


def text_of(content: bytes, name: str = "notes.txt") -> str:
    with prepared(content, name) as found:
        written = found.file.read()
    assert len(written) == found.size
    return written.decode("utf-8")


def refusal(content: bytes, name: str, max_bytes: int = 1_000_000) -> DocumentRejectedError:
    with pytest.raises(DocumentRejectedError) as caught:
        prepare(io.BytesIO(content), name, max_bytes=max_bytes)
    assert name in caught.value.message
    return caught.value


# What comes out


def test_a_document_is_measured_and_given_back_as_it_is() -> None:
    content = docx(paragraph("Hello"))
    file = io.BytesIO(content)

    found = prepare(file, "letter.docx", max_bytes=len(content))

    assert (found.size, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (found.media_type, found.extension, found.charset) == (sniffing.DOCX, ".docx", None)
    assert found.file is file
    assert file.tell() == 0
    found.close()
    assert not file.closed


def test_the_digest_is_that_of_the_file_as_it_came() -> None:
    content = TEXT.encode("cp1252")
    with prepared(content) as found:
        assert found.sha256 == hashlib.sha256(content).hexdigest()
        assert found.size == len(TEXT.encode())


@pytest.mark.parametrize(
    ("encoding", "charset"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", None),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
    ],
)
def test_text_of_any_encoding_becomes_utf8_without_a_mark(encoding: str, charset: str | None) -> None:
    text = "Gr\u00f6\u00dfe und Ma\u00df der Pumpe\r\nin a caf\u00e9 near the harbour"
    assert text_of(text.encode(encoding)) == text
    if charset is not None:
        with prepared(text.encode(encoding)) as found:
            assert found.charset == charset


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_ascii_as_utf16_without_a_mark_is_not_taken_for_utf8_with_zeros(encoding: str) -> None:
    assert text_of("plain words".encode(encoding)) == "plain words"


def test_utf8_is_given_back_without_a_copy() -> None:
    file = io.BytesIO(TEXT.encode())
    assert prepare(file, "notes.txt", max_bytes=1_000).file is file


def test_what_cannot_be_decoded_becomes_the_replacement_character() -> None:
    page = "<meta charset=utf-8>Gr\u00f6\u00dfe ".encode() + b"\xff end"
    assert text_of(page, "page.html") == "<meta charset=utf-8>Gr\u00f6\u00dfe \ufffd end"


def test_a_large_text_is_converted_in_blocks_and_no_character_is_cut_at_their_ends() -> None:
    text = "".join(chr(0x430 + n % 32) + ("x" if n % 7 else " \u20ac") for n in range(2_000_000))
    content = text.encode("utf-16")
    tracemalloc.start()
    try:
        with prepared(content, "long.txt") as found:
            peak = tracemalloc.get_traced_memory()[1]
            assert found.file.read().decode() == text
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000  # of 9 MB


# Declarations


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        ("<html><head><meta charset='iso-8859-1'></head><body>Gr\u00f6\u00dfe", "latin-1"),
        (
            "<meta http-equiv=Content-Type content='text/html; charset=windows-1251'>\u0421\u044a\u0435\u0448\u044c",
            "cp1251",
        ),
        (
            "<?xml version='1.0' encoding='iso-8859-2'?><html><meta charset=\"ISO-8859-2\">\u0142\u00f3d\u017a",
            "iso-8859-2",
        ),
        ("<meta charset='shift_jis'>\u3053\u3093\u306b\u3061\u306f", "shift_jis"),
        ("<meta charset='iso-2022-jp'>\u3053\u3093\u306b\u3061\u306f", "iso-2022-jp"),
        ("<meta charset='utf-16'>Gr\u00f6\u00dfe", "utf-16"),
        ("<meta charset='latin1'>Gr\u00f6\u00dfe: it lies", "utf-8"),
    ],
)
def test_a_web_page_is_decoded_as_it_declares_and_then_declares_utf8(page: str, encoding: str) -> None:
    body = page.rpartition(">")[2]

    written = text_of(page.encode(encoding), "page.html")

    assert written.endswith(f">{body}")
    assert encoding.lower() not in written.lower() or encoding == "utf-8"
    assert "utf-8" in written
    assert "latin1" not in written


def test_a_page_that_says_latin_1_is_read_as_browsers_do() -> None:
    page = "<meta charset='iso-8859-1'>5 \u2013 6".encode("cp1252")
    assert text_of(page, "page.html") == "<meta charset='utf-8'>5 \u2013 6"


def test_xml_is_decoded_as_it_declares_and_then_declares_utf8() -> None:
    document = '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n<a b="encoding=\'x\'">Gr\u00f6\u00dfe</a>'

    assert text_of(document.encode("latin-1"), "data.xml") == document.replace("ISO-8859-1", "utf-8")


@pytest.mark.parametrize(
    "declared", ["no-such-charset", "hex", "zip", "rot13", "utf-16", "utf-7", "unicode_escape", "idna"]
)
def test_a_declaration_that_cannot_be_true_is_not_followed(declared: str) -> None:
    page = f"<meta charset='{declared}'>Gr\u00f6\u00dfe".encode("cp1252")

    assert text_of(page, "page.html") == "<meta charset='utf-8'>Gr\u00f6\u00dfe"


def test_a_text_about_declarations_is_left_alone() -> None:
    text = "Write <meta charset='iso-8859-1'> at the top."
    assert text_of(text.encode(), "notes.md") == text


def test_mail_and_rtf_are_left_alone_because_they_declare_their_parts_themselves() -> None:
    for name, content in (("m.eml", b"Subject: x\n\nGr\xf6\xdfe"), ("d.rtf", b"{\\rtf1\\ansi Gr\xf6\xdfe}")):
        with prepared(content, name) as found:
            assert found.file.read() == content
            assert found.charset is None


# What it is


@pytest.mark.parametrize(
    ("content", "name", "extension"),
    [
        (b"%PDF-1.7\n...", "notes.txt", ".pdf"),
        (b"%PDF-1.7\n...", "scan", ".pdf"),
        (docx(paragraph("x")), "renamed.bin", ".docx"),
        (b"plain words", "README", ".txt"),
        (b"print('hello')", "script.py", ".txt"),
        (b"key: value", "conf.yaml", ".txt"),
        (b"plain words", "folder.d/notes.TXT", ".txt"),
        (b"# Title", "guide.md", ".md"),
        (b"# Title", "guide.markdown", ".md"),
        (b"* heading", "plan.org", ".org"),
        (b"= heading", "plan.adoc", ".adoc"),
        (b"Title\n=====", "guide.rst", ".rst"),
        (b"<p>x", "page.htm", ".html"),
        (b"<!doctype html><p>x", "page", ".html"),
        (b"<a>x</a>", "data.xml", ".txt"),
        (b"a,b\n1,2", "t.CSV", ".csv"),
        (b"a\tb\n1\t2", "t.tsv", ".txt"),
        (b'{"a": 1}', "data.json", ".json"),
        (b"Subject: x\n\ny", "m.eml", ".eml"),
        (b"{\\rtf1 x}", "old.doc", ".doc"),
    ],
)
def test_the_extension_is_what_anythingllm_must_see(content: bytes, name: str, extension: str) -> None:
    with prepared(content, name) as found:
        assert found.extension == extension


def test_anythingllm_is_given_only_what_it_reads() -> None:
    assert accepted_by_anythingllm(sniffing.PDF)
    assert accepted_by_anythingllm(sniffing.TEXT)
    for media_type in (
        sniffing.DOC,
        sniffing.XLS,
        sniffing.PPT,
        sniffing.MSG,
        sniffing.MAIL,
        sniffing.RTF,
        sniffing.ODS,
    ):
        assert not accepted_by_anythingllm(media_type)
    assert set(SUPPORTED_BY_ANYTHINGLLM.values()) <= SUPPORTED_EXTENSIONS


@pytest.mark.parametrize(
    "path", sorted(set(HANDBOOK.rglob("*.*")) - set(HANDBOOK.rglob("*.zip"))), ids=lambda path: path.name
)
def test_every_document_of_the_handbook_is_prepared_under_its_own_ending(path: Path) -> None:
    with path.open("rb") as file, prepare(file, path.name, max_bytes=10_000_000) as found:
        assert found.extension == path.suffix


# Refusals


def test_a_file_without_bytes_is_empty_and_one_of_blanks_has_no_text() -> None:
    assert refusal(b"", "a.txt").code == "empty"
    for blanks in (b" \n\t\r\n", "\u00a0\u2003\ufeff\u200b".encode(), "  \n ".encode("utf-16"), b"\xef\xbb\xbf"):
        assert refusal(blanks, "a.txt").code == "no_text"
    assert text_of(b" " * 200_000 + b".") == " " * 200_000 + "."


def test_a_file_over_the_bound_is_refused_and_one_at_it_is_taken() -> None:
    error = refusal(b"x" * 101, "a.txt", max_bytes=100)
    assert error.code == "too_large"
    assert "101 bytes, at most 100" in error.message
    assert prepare(io.BytesIO(b"x" * 100), "a.txt", max_bytes=100).size == 100


def box(kind: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + kind + bytes(12)


def tiny_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "x")
    return out.getvalue()


REFUSED = [
    (b"\x7fELF\x02\x01\x01" + bytes(60), "a program"),
    (b"MZ\x90\x00\x03" + bytes(60), "a program"),
    (b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(9), "a program"),
    (b"\0asm\1\0\0\0", "a program"),
    (b"\x89PNG\r\n\x1a\n" + bytes(20), "an image"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(20), "an image"),
    (b"GIF89a\1\0\1\0" + bytes(20), "an image"),
    (b"II*\0\x08\0\0\0" + bytes(20), "an image"),
    (b"RIFF\0\0\0\0WEBPVP8 " + bytes(20), "an image"),
    (box(b"heic"), "an image"),
    (box(b"isom"), "a video"),
    (b"\x1aE\xdf\xa3\x9fB\x86\x81\1", "a video"),
    (b"RIFF\0\0\0\0AVI LIST" + bytes(20), "a video"),
    (b"RIFF\0\0\0\0WAVEfmt " + bytes(20), "audio"),
    (b"ID3\4\0\0\0\0\0\0", "audio"),
    (b"OggS\0\2" + bytes(20), "audio"),
    (b"fLaC\0\0\0\x22" + bytes(20), "audio"),
    (tiny_zip(), "an archive"),
    (b"\x1f\x8b\x08" + bytes(20), "an archive"),
    (b"BZh91AY&SY\0\1", "an archive"),
    (b"\xfd7zXZ\0\0\4", "an archive"),
    (b"7z\xbc\xaf\x27\x1c\0\4", "an archive"),
    (b"Rar!\x1a\x07\1\0", "an archive"),
    (b"(\xb5/\xfd\4\0", "an archive"),
    (b"a.txt".ljust(257, b"\0") + b"ustar\x0000", "an archive"),
    (b"SQLite format 3\0\x10\0", "a database"),
    (b"\0\1\0\0Standard Jet DB\0\1", "a database"),
    (b"wOF2\0\1\0\0" + bytes(20), "a font"),
]


@pytest.mark.parametrize(("content", "what"), REFUSED)
@pytest.mark.parametrize("name", ["notes.txt", "data"])
def test_what_holds_no_text_is_refused_and_named_in_words(content: bytes, what: str, name: str) -> None:
    error = refusal(content, name)
    assert error.code == "unsupported_type"
    assert f"is {what};" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "MZ. Smith wrote this", "BMW builds cars", "ID3 is a format", "GIF89a is a format", "RIFF is a format",
        "II. Chapter", "8BPSK modulation", "abc moov", "MThd text", "AC1015 is a part", "#EXTM3U", "%!PS",
        "OggS and fLaC", "PK is short",
    ],
)  # fmt: skip
def test_a_text_that_begins_like_another_file_is_a_text(text: str) -> None:
    assert text_of(text.encode(), "notes") == text


def test_a_zip_with_a_directory_of_millions_is_refused_without_being_read() -> None:
    single = tiny_zip()
    at, end = single.index(b"PK\x01\x02"), single.index(b"PK\x05\x06")
    count = 100_000
    ending = bytearray(single[end:])
    ending[12:16] = ((end - at) * count).to_bytes(4, "little")
    content = single[:at] + single[at:end] * count + bytes(ending)
    tracemalloc.start()
    try:
        error = refusal(content, "bundle", max_bytes=10**9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.code == "unsupported_type"
    assert peak < 1_000_000


@given(st.binary(min_size=1, max_size=300), st.sampled_from([*sorted(SUPPORTED_EXTENSIONS), "", ".xyz"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_prepared_or_refused_and_text_is_utf8(content: bytes, ending: str) -> None:
    try:
        found = prepared(content, f"file{ending}")
    except DocumentRejectedError as error:
        assert error.code in {"unsupported_type", "no_text"}  # noqa: PT017 - being refused is allowed, only how is asserted
        return
    with found:
        written = found.file.read()
        assert found.size == len(written)
        if found.charset is not None:
            written.decode("utf-8")
