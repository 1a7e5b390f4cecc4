"""Archives that mean well, and archives that do not."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard

from worker.documents.archives import Archive, ArchiveBounds, ArchiveError, Entry, EntryError, is_archive

BOUNDS = ArchiveBounds(entries=10, entry_bytes=1_000_000, total_bytes=2_000_000, ratio=200)
NOISE = bytes((n * 7919) >> 3 & 0xFF for n in range(50_000))


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def tarred(*entries: tuple[str | tarfile.TarInfo, bytes], mode: str = "w", **options: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:  # type: ignore[call-overload]  # any mode
        for name, content in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tar_gz(*entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    return gzip.compress(tarred(*entries), mtime=0)  # the same bytes always: they are in names of tests


def tar_zst(*entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    return zstandard.compress(tarred(*entries))


def opened(content: bytes, name: str = "box.zip", bounds: ArchiveBounds = BOUNDS) -> Archive:
    return Archive(name, io.BytesIO(content), bounds)


def listed(content: bytes, name: str = "box.zip", bounds: ArchiveBounds = BOUNDS) -> dict[str, Entry]:
    with opened(content, name, bounds) as archive:
        return {entry.name: entry for entry in archive.entries()}


def read(content: bytes, name: str = "box.zip", bounds: ArchiveBounds = BOUNDS) -> dict[str, bytes | str]:
    """The bytes of every entry, or the code of the error that kept them."""
    with opened(content, name, bounds) as archive:
        return dict(_read(archive))


def _read(archive: Archive) -> Iterator[tuple[str, bytes | str]]:
    for entry in list(archive.entries()):
        if entry.error is not None:
            yield entry.name, entry.error.code
            continue
        try:
            with archive.open(entry.path) as file:
                yield entry.name, file.read()
        except EntryError as error:
            yield entry.name, error.error.code


def refusal(content: bytes, name: str = "box.zip", bounds: ArchiveBounds = BOUNDS) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught, opened(content, name, bounds) as archive:
        list(archive.entries())
    return caught.value


FORMATS = pytest.mark.parametrize(
    ("make", "name"),
    [(zipped, "box.zip"), (tarred, "box.tar"), (tar_gz, "box.tar.gz"), (tar_gz, "b.TGZ"), (tar_zst, "box.tar.zst")],
)
Make = Callable[..., bytes]


@FORMATS
def test_files_come_out_with_the_archives_name_in_front(make: Make, name: str) -> None:
    content = make(("manuals/a.txt", b"alpha"), ("./b.txt", NOISE), ("c.txt", b""))

    assert read(content, name) == {f"{name}/manuals/a.txt": b"alpha", f"{name}/b.txt": NOISE, f"{name}/c.txt": b""}


def test_folders_are_no_entries() -> None:
    folder = tarfile.TarInfo("manuals")
    folder.type = tarfile.DIRTYPE

    assert list(read(zipped(("manuals/", b""), ("a.txt", b"x")))) == ["box.zip/a.txt"]
    assert list(read(tarred((folder, b""), ("a.txt", b"x")), "box.tar")) == ["box.tar/a.txt"]


@FORMATS
def test_system_files_are_left_out_and_counted(make: Make, name: str) -> None:
    content = make(("__MACOSX/._a.txt", b"x"), (".DS_Store", b"x"), ("a/.git/config", b"x"), ("a/Thumbs.db", b"x"))
    with opened(content, name) as archive:
        assert list(archive.entries()) == []
        assert archive.skipped == {"macos": 1, "hidden": 2, "system": 1}


@pytest.mark.parametrize(
    "bad", ["../evil.txt", "/etc/passwd", "a/../../b.txt", "C:\\evil.txt", "..\\evil.txt", "\\\\host\\evil", "a\0b.txt"]
)
def test_a_name_that_points_outside_is_refused_and_the_others_are_read(bad: str) -> None:
    safe = bad.replace("\0", "#")
    contents = [(zipped((safe, b"x"), ("good.txt", b"good")).replace(b"a#b.txt", b"a\0b.txt"), "box.zip")]
    if "\0" not in bad:
        contents.append((tarred((bad, b"x"), ("good.txt", b"good")), "box.tar"))
    for content, name in contents:
        found = read(content, name)
        assert found.pop(f"{name}/good.txt") == b"good"
        assert list(found.values()) == ["unsafe_name"]
        assert "\0" not in "".join(found)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_a_device_and_a_pipe_are_refused(kind: bytes) -> None:
    special = tarfile.TarInfo("special")
    special.type, special.linkname = kind, "/etc/passwd"
    assert read(tarred((special, b""), ("a.txt", b"x")), "box.tar") == {
        "box.tar/special": "not_a_file",
        "box.tar/a.txt": b"x",
    }

    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert read(zipped((link, b"/etc/passwd"))) == {"box.zip/link": "not_a_file"}


def encrypted(content: bytes, name: bytes) -> bytes:
    changed = bytearray(content)
    changed[changed.index(name) - 30 + 6] |= 1  # the flag in the local header
    changed[changed.index(name, changed.index(b"PK\x01\x02")) - 46 + 8] |= 1  # and in the directory
    return bytes(changed)


def test_an_encrypted_entry_is_refused_alone() -> None:
    content = encrypted(zipped(("secret.txt", b"x" * 50), ("open.txt", b"open")), b"secret.txt")

    assert read(content) == {"box.zip/secret.txt": "encrypted", "box.zip/open.txt": b"open"}


def test_an_archive_that_is_locked_as_a_whole_says_so_once() -> None:
    error = refusal(encrypted(zipped(("secret.txt", b"x" * 50)), b"secret.txt"))

    assert error.error.code == "encrypted"


def test_an_entry_that_grows_too_much_is_refused_unread() -> None:
    content = zipped(("bomb.txt", b"0" * 900_000), ("good.txt", NOISE))

    assert read(content, bounds=BOUNDS._replace(ratio=50)) == {
        "box.zip/bomb.txt": "too_large",
        "box.zip/good.txt": NOISE,
    }


@pytest.mark.parametrize("claimed", [1_000, len(NOISE) + 10])
def test_an_entry_whose_header_lies_about_its_size_is_refused(claimed: int) -> None:
    content = bytearray(zipped(("large.txt", NOISE)))
    at = content.index(b"PK\x01\x02") + 24
    assert int.from_bytes(content[at : at + 4], "little") == len(NOISE)
    content[at : at + 4] = claimed.to_bytes(4, "little")

    assert read(bytes(content)) == {"box.zip/large.txt": "corrupt"}


@FORMATS
def test_an_entry_over_the_file_bound_is_refused(make: Make, name: str) -> None:
    content = make(("large.txt", NOISE), ("good.txt", b"good"))

    found = read(content, name, BOUNDS._replace(entry_bytes=len(NOISE) - 1))

    assert found == {f"{name}/large.txt": "too_large", f"{name}/good.txt": b"good"}
    assert read(content, name, BOUNDS._replace(entry_bytes=len(NOISE)))[f"{name}/large.txt"] == NOISE


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_unpacks_without_bound_is_refused_unread(compression: int) -> None:
    content = zipped(("bomb.txt", b"0" * 100_000), compression=compression)

    assert read(content) == {"box.zip/bomb.txt": "unsupported_compression"}


@pytest.mark.parametrize(("mode", "name"), [("w:bz2", "box.tar.bz2"), ("w:xz", "box.txz")])
def test_a_tar_that_unpacks_without_bound_is_refused_and_says_what_to_make_instead(mode: str, name: str) -> None:
    content = tarred(("a.txt", b"x"), mode=mode)

    assert is_archive(name, content)
    error = refusal(content, name)
    assert error.error.code == "unsupported_compression"
    assert ".tar.gz" in str(error)


@pytest.mark.parametrize("name", ["a" * 5_000, "../" + "b" * 20_000, "é" * 128, "/".join(["n" * 200] * 6)])
@pytest.mark.parametrize(("make", "archive"), [(zipped, "box.zip"), (tarred, "box.tar")])
def test_a_name_without_end_is_refused_and_shortened(make: Make, archive: str, name: str) -> None:
    (entry,) = listed(make((name, b"x")), archive).values()

    assert entry.error is not None
    assert entry.error.code == "name_too_long"
    assert entry.name[:20] in str(entry.error.message)
    assert len(entry.name) <= 1_024


@FORMATS
def test_an_archive_over_the_total_is_refused_whole(make: Make, name: str) -> None:
    content = make(*((f"{n}.txt", NOISE[n : n + 20_000]) for n in range(3)))

    error = refusal(content, name, BOUNDS._replace(total_bytes=55_000))

    assert error.error.code == "archive_too_large"
    assert "more than 55,000 bytes: split it" in str(error)
    assert len(listed(content, name, BOUNDS._replace(total_bytes=80_000))) == 3


@FORMATS
def test_an_archive_with_too_many_entries_is_refused(make: Make, name: str) -> None:
    assert len(listed(make(*((f"{n}.txt", b"x") for n in range(10))), name)) == 10
    error = refusal(make(*((f"{n}.txt", b"x") for n in range(11))), name)

    assert error.error.code == "archive_too_large"
    assert "more than 10 files" in str(error)


def test_opening_more_than_the_total_is_refused_even_if_nothing_was_listed() -> None:
    content = zipped(("a.txt", NOISE[:1_000]), ("b.txt", NOISE[:1_000]))
    with opened(content, bounds=BOUNDS._replace(total_bytes=1_500)) as archive:
        for _ in range(3):  # the same file again counts once
            archive.open(("0",)).close()
        with pytest.raises(ArchiveError, match=r"more than 1,500 bytes"):
            archive.open(("1",))


@FORMATS
def test_an_archive_that_takes_too_long_is_refused(make: Make, name: str) -> None:
    with pytest.raises(ArchiveError) as caught, opened(make(("a.txt", b"x")), name, BOUNDS._replace(seconds=0)) as box:
        list(box.entries())

    assert caught.value.error.code == "archive_too_slow"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"plain text", b"\x1f\x8b\x08", bytes(100)])
@pytest.mark.parametrize("name", ["box.zip", "box.tar", "box.tgz", "box.tar.zst"])
def test_what_is_no_archive_is_refused(content: bytes, name: str) -> None:
    assert refusal(content, name).error.code == "corrupt"


@FORMATS
def test_an_archive_cut_short_is_refused_at_every_length(make: Make, name: str) -> None:
    content = make(("a.txt", NOISE[:700]), ("b.txt", NOISE[:300]))
    whole = len(content.rstrip(b"\0")) if name == "box.tar" else len(content)  # the rest is padding
    for length in range(0, whole, 7):
        with pytest.raises(ArchiveError), opened(content[:length], name) as archive:
            list(archive.entries())


def test_a_damaged_entry_of_a_zip_fails_alone() -> None:
    content = bytearray(zipped(("a.txt", NOISE[:500]), ("b.txt", b"beta")))
    at = content.index(b"a.txt") + 5 + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"

    assert read(bytes(content)) == {"box.zip/a.txt": "corrupt", "box.zip/b.txt": b"beta"}


def test_a_stored_entry_with_a_changed_byte_fails_its_checksum() -> None:
    content = zipped(("a.txt", b"alpha"), compression=zipfile.ZIP_STORED).replace(b"alpha", b"alphb")

    assert read(content) == {"box.zip/a.txt": "corrupt"}


def test_a_gzip_with_a_wrong_checksum_is_refused_though_all_its_headers_are_good() -> None:
    content = bytearray(tar_gz(("a.txt", b"alpha")))
    content[-8] ^= 1

    assert refusal(bytes(content), "box.tgz").error.code == "corrupt"


def test_a_gzip_of_several_members_is_read_to_the_last() -> None:
    tar = tarred(("a.txt", NOISE), ("b.txt", b"beta"))
    halves = [tar[:30_000], tar[30_000:]]
    content = b"".join(gzip.compress(half) for half in halves)

    assert read(content, "box.tar.gz") == {"box.tar.gz/a.txt": NOISE, "box.tar.gz/b.txt": b"beta"}


def test_zstandard_frames_one_after_the_other_are_read_to_the_last() -> None:
    tar = tarred(("a.txt", NOISE), ("b.txt", b"beta"))
    content = zstandard.compress(tar[:30_000]) + zstandard.compress(tar[30_000:])

    assert read(content, "box.tzst")["box.tzst/b.txt"] == b"beta"


@pytest.mark.parametrize("first", [True, False])
def test_zstandard_that_would_need_too_much_memory_is_refused(first: bool) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = packer.compress(tarred(("a.txt", b"x"))) + packer.flush()
    if not first:
        content = zstandard.compress(tarred(("b.txt", NOISE))[:512]) + content

    assert refusal(content, "box.tar.zst").error.code == ("archive_too_large" if first else "corrupt")


def test_a_name_in_utf8_without_its_flag_is_read_as_utf8() -> None:
    content = zipped(("Prüfung.txt", b"x")).replace(b"\x00\x08", b"\x00\x00")

    assert list(read(content)) == ["box.zip/Prüfung.txt"]


def test_a_name_in_the_code_page_of_dos_is_read_as_that() -> None:
    content = zipped(("Pr#fung.txt", b"x")).replace(b"Pr#", b"Pr\x81")

    assert read(content) == {"box.zip/Prüfung.txt": b"x"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_and_names_beyond_ascii_are_read_in_every_dialect_of_tar(form: int) -> None:
    name = "/".join(["folder" * 5] * 5) + "/Prüfung.txt"

    assert read(tarred((name, b"x"), ("b.txt", b"y"), format=form), "box.tar") == {
        f"box.tar/{name}": b"x",
        "box.tar/b.txt": b"y",
    }


def test_a_tar_name_that_is_no_utf8_is_read_as_western() -> None:
    content = tarred(("Prüfung.txt", b"x"), format=tarfile.USTAR_FORMAT, encoding="latin-1")

    assert read(content, "box.tar") == {"box.tar/Prüfung.txt": b"x"}


def test_a_name_that_stands_twice_is_taken_once() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped(("a.txt", b"first"), ("a.txt", b"second"))
    with opened(content) as archive:
        first, second = archive.entries()
        with archive.open(first.path) as file:
            assert file.read() == b"first"
    assert second.error is not None
    assert second.error.code == "duplicate_name"


@pytest.mark.parametrize("other", ["README.TXT", "Readme.txt"])
def test_names_that_differ_only_by_case_clash(other: str) -> None:
    assert read(zipped(("readme.txt", b"1"), (other, b"2"))) == {
        "box.zip/readme.txt": b"1",
        f"box.zip/{other}": "name_clash",
    }


def test_names_that_differ_only_by_how_an_accent_is_written_clash() -> None:
    found = read(tarred(("caf\u00e9.txt", b"1"), ("cafe\u0301.txt", b"2")), "box.tar")

    assert list(found.values()) == [b"1", "name_clash"]


@FORMATS
def test_entries_open_in_any_order_also_in_an_archive_that_was_not_listed(make: Make, name: str) -> None:
    content = make(*((f"{n}.txt", bytes([n]) * 100 * n) for n in range(5)))
    paths = [entry.path for entry in listed(content, name).values()]
    with opened(content, name) as archive:
        for at in (3, 0, 4, 4, 1, 2):
            with archive.open(paths[at]) as file:
                assert file.read() == bytes([at]) * 100 * at


@pytest.mark.parametrize("path", [(), ("99",), ("x",), ("-1",), ("7", "7", "7", "7")])
@FORMATS
def test_a_path_that_leads_nowhere_is_an_error_of_that_entry(make: Make, name: str, path: tuple[str, ...]) -> None:
    with opened(make(("a.txt", b"x")), name) as archive, pytest.raises(EntryError) as caught:
        archive.open(path)

    assert caught.value.error.code == "corrupt"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("box.zip", zipped(("word/document.xml", b"x")), True),
        ("letter.docx", zipped(("word/document.xml", b"x")), False),
        ("book.epub", zipped(("a", b"x")), False),
        ("box.zip", b"%PDF-1.7", False),
        ("box", zipped(("a", b"x")), False),
        ("box.zip", zipped(), True),
        ("BOX.TAR", tarred(("a", b"x")), True),
        ("box.tar", tarred(), True),
        ("box.tar", b"just text" * 100, False),
        ("box.tar.gz", tar_gz(("a", b"x")), True),
        ("notes.txt.gz", tar_gz(("a", b"x")), False),
        ("box.tgz", zipped(("a", b"x")), False),
        ("box.tzst", tar_zst(("a", b"x")), True),
    ],
    ids=[  # bytes would be in the name otherwise, and a gzip says when it was made: two processes disagree on that
        *("zip", "docx", "epub", "no zip", "no name", "empty zip"),
        *("tar", "empty tar", "no tar", "tar.gz", "gz", "zip named tgz", "tzst"),
    ],
)
def test_an_archive_is_one_by_its_name_and_by_its_bytes(name: str, content: bytes, expected: bool) -> None:
    assert is_archive(name, content[:512]) is expected


def test_a_file_above_a_megabyte_goes_to_disk_and_comes_back_whole() -> None:
    content = NOISE * 30
    bounds = BOUNDS._replace(entry_bytes=2_000_000)
    with opened(zipped(("a.bin", content)), bounds=bounds) as archive, archive.open(("0",)) as file:
        assert file.read() == content
        assert vars(file)["_rolled"]  # no public name says where it is


def test_the_smallest_zip_there_is_holds_nothing() -> None:
    with Archive("empty.zip", io.BytesIO(b"PK\x05\x06" + bytes(18)), BOUNDS) as archive:
        assert list(archive.entries()) == []
