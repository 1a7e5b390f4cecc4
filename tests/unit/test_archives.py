"""Zips that mean well, and zips that do not."""

import io
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.documents.archives import ArchiveBounds, ArchiveEntry, ArchiveError, is_zip_archive, read_zip

BOUNDS = ArchiveBounds(entries=10, entry_bytes=1_000_000, total_bytes=2_000_000, ratio=200)


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def read(content: bytes, bounds: ArchiveBounds = BOUNDS) -> dict[str, ArchiveEntry]:
    return {entry.name: entry for entry in read_zip("box.zip", content, bounds)}


def test_files_come_out_with_the_archives_name_in_front() -> None:
    found = read(zipped(("manuals/", b""), ("manuals/a.txt", b"alpha"), ("b.txt", b"beta")))

    assert {name: entry.content for name, entry in found.items()} == {
        "box.zip/manuals/a.txt": b"alpha",
        "box.zip/b.txt": b"beta",
    }


def test_system_files_are_left_out() -> None:
    assert read(zipped(("__MACOSX/._a.txt", b"x"), (".DS_Store", b"x"), ("a/.git/config", b"x"))) == {}


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/passwd", "a/../../b.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_a_name_that_points_outside_is_refused_and_the_others_are_read(name: str) -> None:
    found = read(zipped((name, b"x"), ("good.txt", b"good")))

    assert found["box.zip/good.txt"].content == b"good"
    (evil,) = [entry for entry in found.values() if entry.error is not None]
    assert evil.error is not None
    assert (evil.error.code, evil.content) == ("unsafe_name", b"")


def test_a_link_is_refused() -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16

    entry = read(zipped((link, b"/etc/passwd")))["box.zip/link"]

    assert entry.error is not None
    assert entry.error.code == "not_a_file"


def test_an_encrypted_entry_is_refused() -> None:
    content = bytearray(zipped(("secret.txt", b"x" * 50)))
    content[6] |= 1  # the flag in the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and in the directory

    entry = read(bytes(content))["box.zip/secret.txt"]

    assert entry.error is not None
    assert entry.error.code == "encrypted"


def test_an_entry_that_grows_too_much_is_refused_after_reading_no_more_than_the_bound() -> None:
    found = read(zipped(("bomb.txt", b"0" * 900_000), ("good.txt", b"good")), BOUNDS._replace(ratio=50))

    bomb = found["box.zip/bomb.txt"]
    assert bomb.error is not None
    assert (bomb.error.code, bomb.content) == ("too_large", b"")
    assert found["box.zip/good.txt"].content == b"good"


def test_an_entry_over_the_file_bound_is_refused_whatever_its_header_says() -> None:
    found = read(zipped(("large.txt", bytes(range(256)) * 8)), BOUNDS._replace(entry_bytes=1_000))

    large = found["box.zip/large.txt"]
    assert large.error is not None
    assert large.error.code == "too_large"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_unpacks_without_bound_is_refused_unread(compression: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("bomb.txt", b"0" * 100_000)

    entry = read(out.getvalue())["box.zip/bomb.txt"]

    assert entry.error is not None
    assert entry.error.code == "unsupported_compression"


@pytest.mark.parametrize("name", ["a" * 5_000, "../" + "b" * 20_000])
def test_a_name_without_end_is_refused_and_shortened(name: str) -> None:
    (entry,) = read(zipped((name, b"x"))).values()

    assert entry.error is not None
    assert entry.error.code == "name_too_long"
    assert len(entry.name) <= 1_000


def test_an_archive_over_the_total_is_refused_whole() -> None:
    content = zipped(*((f"{n}.txt", bytes(range(256)) * 4) for n in range(3)))

    with pytest.raises(ArchiveError, match="more than 2,500 bytes: split it"):
        read(content, BOUNDS._replace(total_bytes=2_500))


def test_an_archive_with_too_many_entries_is_refused_before_any_is_read() -> None:
    with pytest.raises(ArchiveError, match="holds 11 files, at most 10"):
        read(zipped(*((f"{n}.txt", b"x") for n in range(11))))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"plain text"])
def test_what_is_no_zip_is_refused(content: bytes) -> None:
    with pytest.raises(ArchiveError) as caught:
        read(content)

    assert caught.value.error.code == "corrupt"


def test_a_damaged_entry_fails_alone() -> None:
    content = bytearray(zipped(("a.txt", b"alpha " * 100), ("b.txt", b"beta")))
    at = content.index(b"a.txt") + 5 + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"

    found = read(bytes(content))

    assert found["box.zip/a.txt"].error is not None
    assert found["box.zip/b.txt"].content == b"beta"


def test_a_name_in_utf8_without_its_flag_is_read_as_utf8() -> None:
    content = zipped(("Prüfung.txt", b"x")).replace(b"\x00\x08", b"\x00\x00")

    assert list(read(content)) == ["box.zip/Prüfung.txt"]


def test_a_name_that_stands_twice_is_taken_once() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped(("a.txt", b"first"), ("a.txt", b"second"))

    entries = list(read_zip("box.zip", content, BOUNDS))

    assert entries[0].content == b"first"
    assert entries[1].error is not None
    assert entries[1].error.code == "duplicate_name"


def test_documents_that_are_zips_themselves_are_not_archives() -> None:
    content = zipped(("word/document.xml", b"x"))

    assert is_zip_archive("box.zip", content)
    assert not is_zip_archive("letter.docx", content)
    assert not is_zip_archive("box.zip", b"%PDF-1.7")


@given(st.binary(max_size=2_000))
def test_whatever_the_bytes_are_the_answer_is_files_or_an_archive_error(content: bytes) -> None:
    try:
        entries = list(read_zip("box.zip", b"PK\x03\x04" + content, BOUNDS))
    except ArchiveError:
        return
    assert all(entry.error is None or entry.content == b"" for entry in entries)
