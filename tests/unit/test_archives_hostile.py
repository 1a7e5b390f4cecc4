"""Archives inside archives, bombs, and bytes that nobody meant: bounds hold, and nothing but our errors comes out."""

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_archives import (
    BOUNDS,
    FORMATS,
    NOISE,
    Make,
    listed,
    opened,
    read,
    refusal,
    tar_gz,
    tar_zst,
    tarred,
    zipped,
)
from worker.documents.archives import ArchiveBounds, ArchiveError, EntryError
from worker.documents.archives.members import Member, Reader

# Archives inside archives


@FORMATS
def test_files_of_an_inner_archive_are_entries_named_through_it(make: Make, name: str) -> None:
    inner = zipped(("deep/a.txt", b"alpha"), ("b.tgz", tar_gz(("c.txt", NOISE))))

    assert read(make(("before.txt", b"1"), ("box/inner.zip", inner), ("after.txt", b"2")), name) == {
        f"{name}/before.txt": b"1",
        f"{name}/box/inner.zip/deep/a.txt": b"alpha",
        f"{name}/box/inner.zip/b.tgz/c.txt": NOISE,
        f"{name}/after.txt": b"2",
    }


def test_an_inner_archive_is_unpacked_once_for_all_its_files_and_only_a_few_stay_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner = [zipped(*((f"{n}.txt", b"x") for n in range(5))) for _ in range(8)]
    content = zipped(*((f"{n}.zip", one) for n, one in enumerate(inner)))
    bounds = BOUNDS._replace(entries=100)
    with opened(content, bounds=bounds) as box:
        paths = [entry.path for entry in box.entries()]
        unpacked: list[str] = []
        original = box._unpacked

        def counted(reader: Reader, member: Member) -> BinaryIO:
            unpacked.append(member.name)
            return original(reader, member)

        monkeypatch.setattr(box, "_unpacked", counted)
        for path in paths:
            box.open(path).close()
            assert len(box._inner) <= 4
        assert len(paths) == 40
        assert sum(name.endswith(".zip") for name in unpacked) == 8


def test_one_bad_inner_archive_is_one_failed_entry() -> None:
    content = zipped(
        ("cut.zip", zipped(("a.txt", NOISE))[:-30]),
        ("cut.tgz", tar_gz(("a.txt", b"x"), ("b.txt", NOISE))[:-30]),
        ("locked.zip", b"PK\x03\x04"),
        ("rare.tar.xz", tarred(("a", b"x"), mode="w:xz")),
        ("good.zip", zipped(("a.txt", b"x"))),
    )

    assert read(content) == {
        "box.zip/cut.zip": "corrupt",
        "box.zip/cut.tgz": "corrupt",
        "box.zip/locked.zip": "corrupt",
        "box.zip/rare.tar.xz": "unsupported_compression",
        "box.zip/good.zip/a.txt": b"x",
    }


def test_a_text_that_is_only_named_as_an_archive_is_a_file() -> None:
    assert read(zipped(("notes.zip", b"not packed"))) == {"box.zip/notes.zip": b"not packed"}


def test_archives_inside_archives_end_at_the_depth_that_is_allowed() -> None:
    content = zipped(("leaf.txt", b"x"))
    for level in (3, 2, 1):
        content = zipped((f"{level}.zip", content), (f"{level}.txt", b"y"))

    found = read(content)

    assert found["box.zip/1.zip/2.zip/3.zip"] == "archive_too_deep"
    assert found["box.zip/1.zip/2.zip/3.txt"] == b"y"
    assert read(content, bounds=BOUNDS._replace(depth=4))["box.zip/1.zip/2.zip/3.zip/leaf.txt"] == b"x"
    assert read(content, bounds=BOUNDS._replace(depth=1))["box.zip/1.zip"] == "archive_too_deep"


def test_an_inner_archive_larger_than_a_file_may_be_is_not_unpacked() -> None:
    content = zipped(("in.zip", zipped(("a.txt", NOISE), compression=zipfile.ZIP_STORED)))

    assert read(content, bounds=BOUNDS._replace(entry_bytes=1_000)) == {"box.zip/in.zip": "too_large"}


def test_the_bounds_of_the_tree_hold_for_what_is_in_inner_archives() -> None:
    content = zipped(*((f"{n}.zip", zipped(*((f"{m}.txt", NOISE[m:9_000]) for m in range(4)))) for n in range(4)))

    assert refusal(content, bounds=BOUNDS._replace(entries=19)).error.code == "archive_too_large"
    assert refusal(content, bounds=BOUNDS._replace(entries=50, total_bytes=100_000)).error.code == "archive_too_large"
    assert len(listed(content, bounds=BOUNDS._replace(entries=20))) == 16


# Bombs


def test_a_nest_whose_every_level_keeps_the_ratio_is_refused_by_the_ratio_of_the_whole() -> None:
    content = zipped(("0.txt", b"0" * 900_000))
    for level in range(2):
        content = zipped(*((f"{level}-{n}.zip", content) for n in range(16)))
    bounds = ArchiveBounds(entries=10_000, entry_bytes=10**6, total_bytes=10**12, ratio=1_100)

    error = refusal(content, bounds=bounds)

    assert error.error.code == "archive_too_large"
    assert "times its size" in str(error)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_tar_that_grows_too_much_is_refused_before_it_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    content = pack(tarred(("a.txt", b"x")) + bytes(30_000_000))
    name = "box.tgz" if pack is gzip.compress else "box.tzst"
    tracemalloc.start()
    try:
        error = refusal(content, name, BOUNDS._replace(total_bytes=10**9))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.error.code == "archive_too_large"
    assert peak < 2_000_000


def test_an_inner_archive_that_grows_too_much_is_one_failed_entry() -> None:
    bomb = gzip.compress(tarred(("a.txt", b"0" * 900_000)))
    content = zipped(("bomb.tgz", bomb), ("noise.bin", os.urandom(50_000)))

    assert read(content, bounds=BOUNDS._replace(ratio=100))["box.zip/bomb.tgz"] == "archive_too_large"


def overlapping(count: int) -> bytes:
    """A zip whose entries all share one body (Fifield 2019, the simplest form)."""
    single = zipped(("00000", b"0" * 100_000))
    directory = single.index(b"PK\x01\x02")
    end = single.index(b"PK\x05\x06")
    entry = single[directory:end]
    entries = b"".join(entry.replace(b"00000", b"%05d" % n) for n in range(count))
    ending = bytearray(single[end:])
    ending[8:12] = count.to_bytes(2, "little") * 2
    ending[12:16] = len(entries).to_bytes(4, "little")
    return single[:directory] + entries + bytes(ending)


def test_entries_that_share_bytes_are_refused() -> None:
    assert len(listed(overlapping(1))) == 1
    error = refusal(overlapping(2))
    assert error.error.code == "corrupt"
    assert "share bytes" in str(error)


def test_a_directory_of_millions_of_entries_is_refused_before_it_is_read() -> None:
    bounds = BOUNDS._replace(entries=1)
    content = overlapping(30_000)
    tracemalloc.start()
    try:
        error = refusal(content, bounds=bounds)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.error.code == "archive_too_large"
    assert peak < 500_000


def pax(records: bytes, size: int | None = None) -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records) if size is None else size
    return header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def test_an_extended_header_of_any_size_is_refused_unread() -> None:
    error = refusal(pax(b"", size=10**9) + bytes(2_000_000), "box.tar")
    assert error.error.code == "corrupt"
    assert "too long" in str(error)


@pytest.mark.parametrize(
    "records", [b"9" * 60_000, b"0 a=b\n", b"5 a=b\n", b"99 a=b\n", b"x a=b\n", b"12 size=1e5\n", b"12 size=-12\n"]
)
def test_a_damaged_extended_header_is_refused_at_once(records: bytes) -> None:
    began = time.monotonic()
    error = refusal(pax(records) + tarred(("a.txt", b"x")), "box.tar")
    assert error.error.code == "corrupt"
    assert time.monotonic() - began < 1


def test_extended_headers_without_end_are_refused() -> None:
    assert refusal(pax(b"6 a=b\n") * 2_000 + tarred(("a.txt", b"x")), "box.tar").error.code == "corrupt"
    assert len(listed(pax(b"6 a=b\n") * 3 + tarred(("a.txt", b"x")), "box.tar")) == 1


def test_a_size_of_exabytes_is_one_refused_entry_or_an_archive_cut_short() -> None:
    error = refusal(pax(b"28 size=1000000000000000000\n") + tarred(("a.txt", b"x")), "box.tar")
    assert error.error.code == "corrupt"


def test_a_sparse_file_is_refused_and_the_next_one_is_read() -> None:
    sparse = tarfile.TarInfo("holes")
    sparse.type = tarfile.GNUTYPE_SPARSE
    records = b"22 GNU.sparse.major=1\n"
    content = tarred((sparse, b""), ("b.txt", b"y"))

    assert read(content, "box.tar") == {"box.tar/holes": "unsupported_compression", "box.tar/b.txt": b"y"}
    assert read(pax(records) + tarred(("a.txt", b"x"), ("b.txt", b"y")), "box.tar") == {
        "box.tar/a.txt": "unsupported_compression",
        "box.tar/b.txt": b"y",
    }


def test_a_gzip_header_with_a_name_without_end_takes_no_longer_than_the_bound() -> None:
    content = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 20_000_000
    began = time.monotonic()

    error = refusal(content, "box.tgz", BOUNDS._replace(seconds=0.3))

    assert error.error.code == "archive_too_slow"
    assert time.monotonic() - began < 3


# Bytes that nobody meant


def samples() -> list[tuple[str, bytes]]:
    entries = [("a.txt", b"alpha" * 50), ("b/c.txt", NOISE[:300]), ("in.zip", zipped(("d.txt", b"x" * 400)))]
    long = [(("n" * 150) + ".txt", b"x"), *entries]
    stream = io.BytesIO()
    with zipfile.ZipFile(_Unseekable(stream), "w", zipfile.ZIP_DEFLATED) as archive:  # data descriptors
        for name, content in entries:
            archive.writestr(name, content)
    wide = io.BytesIO()
    with zipfile.ZipFile(wide, "w") as archive:
        for name, content in entries:
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    return [
        ("box.zip", zipped(*entries)),
        ("box.zip", stream.getvalue()),
        ("box.zip", wide.getvalue()),
        ("box.tar", tarred(*long)),
        ("box.tar", tarred(*long, format=tarfile.GNU_FORMAT)),
        ("box.tgz", tar_gz(*long)),
        ("box.tar.zst", tar_zst(*long)),
    ]


class _Unseekable(io.RawIOBase):
    def __init__(self, into: io.BytesIO) -> None:
        super().__init__()
        self._into = into

    def writable(self) -> bool:
        return True

    def write(self, content: bytes | memoryview, /) -> int:  # type: ignore[override]  # all that zipfile passes
        return self._into.write(content)


SAMPLES = samples()


def take(name: str, content: bytes) -> int:
    """List and open everything; whatever is no error of ours passes through and fails the test."""
    try:
        with opened(content, name, BOUNDS._replace(seconds=10)) as archive:
            taken = 0
            for entry in list(archive.entries()):
                assert len(entry.name) <= 1_000
                assert "\0" not in entry.name
                if entry.error is None:
                    try:
                        with archive.open(entry.path) as file:
                            taken += len(file.read()) == entry.size
                    except EntryError:
                        continue
            return taken
    except ArchiveError:
        return 0


@pytest.mark.parametrize(("name", "content"), SAMPLES)
def test_the_archives_that_are_damaged_below_are_good_before(name: str, content: bytes) -> None:
    assert take(name, content) in {3, 4}


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_archive_gives_files_or_our_errors(sample: tuple[str, bytes], data: st.DataObject) -> None:
    name, content = sample
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        if not changed:
            break
    take(name, bytes(changed))


@given(st.sampled_from(["box.zip", "box.tar", "box.tgz", "box.tzst"]), st.binary(max_size=2_000))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_files_or_our_errors(name: str, content: bytes) -> None:
    magic = {"box.zip": b"PK\x03\x04", "box.tar": b"", "box.tgz": b"\x1f\x8b\x08", "box.tzst": b"(\xb5/\xfd"}[name]
    take(name, magic + content)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_changed_archives_give_files_or_our_errors() -> None:
    chance = random.Random(20261124)  # noqa: S311 - the same bytes in every run
    for _ in range(20_000):
        name, content = chance.choice(SAMPLES)
        changed = bytearray(content)
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(len(changed))
            changed[at] = chance.choice([0, 255, chance.randrange(256), changed[at] ^ 1 << chance.randrange(8)])
        take(name, bytes(changed[: chance.choice([None, chance.randrange(len(changed))])]))


# Memory


MEASURED = """
import resource, sys
from worker.documents.archives import Archive, ArchiveBounds
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bounds = ArchiveBounds(entries=1000, entry_bytes=2 * 10**8, total_bytes=10**9, ratio=200)
with open(sys.argv[1], "rb") as file, Archive(sys.argv[1], file, bounds) as archive:
    taken = 0
    for entry in list(archive.entries()):
        assert entry.error is None, entry
        with archive.open(entry.path) as found:
            while block := found.read(1 << 16):
                taken += len(block)
print(taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["box.zip", "box.tar", "box.tgz", "box.tar.zst"])
def test_an_archive_of_300_megabytes_takes_30_of_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written = write_large(path)

    done = subprocess.run([sys.executable, "-c", MEASURED, path], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    taken, grown = map(int, done.stdout.split())
    assert taken == written
    assert grown < 30_000_000


def write_large(path: Path) -> int:
    """Write an archive of 6 files of 50 MB, half of them noise, and return how many bytes they have."""
    size = 50_000_000
    text = (b"The Kestrel pump must be drained every four weeks. %d\n" * 20_000)[:1_000_000]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as box:
            for number in range(6):
                box.compression = zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED
                with box.open(f"{number}.txt", "w") as entry:
                    for _ in range(size // 1_000_000):
                        entry.write(os.urandom(1_000_000) if number % 2 else os.urandom(500_000) + text[:500_000])
        return 6 * size
    with path.open("wb") as file:
        target: Any = file
        if path.suffix == ".tgz":
            target = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1)
        elif path.suffix == ".zst":
            target = zstandard.ZstdCompressor(3).stream_writer(file)
        with target:
            for number in range(6):
                info = tarfile.TarInfo(f"{number}.txt")
                info.size = size
                target.write(info.tobuf())
                for _ in range(size // 1_000_000):
                    target.write(os.urandom(1_000_000) if number % 2 else os.urandom(500_000) + text[:500_000])
                target.write(bytes(-size % 512))
            target.write(bytes(1024))
    return 6 * size
