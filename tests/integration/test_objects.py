"""Objects of a bucket and files of a shared folder: found, read as listed, and never outside what is allowed."""

import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import MemoryStore, ObjectStore

from worker.sources import ObjectEntry, ObjectSources, SourceError

FILES = {
    "inbox/a.pdf": b"a",
    "inbox/b.txt": b"bb",
    "inbox/manuals/c.pdf": b"ccc",
    "inbox/manuals/old/d.pdf": b"dddd",
    "inbox/50% off #1?.txt": b"odd name",
    "inbox-2/secret.pdf": b"secret",
    "secret.pdf": b"secret",
}


class Place:
    """The same objects in a bucket and in a folder."""

    def __init__(self, url: str, sources: ObjectSources, write: Callable[[str, bytes], object]) -> None:
        self.url, self.sources, self.write = url, sources, write

    async def names(
        self, url: str = "", include: list[str] | None = None, exclude: list[str] | None = None
    ) -> list[str]:
        entries = self.sources.expand(url or f"{self.url}/inbox/", include or (), exclude or ())
        return sorted([entry.name async for entry in entries])

    async def entry(self, path: str) -> ObjectEntry:
        (entry,) = [entry async for entry in self.sources.expand(f"{self.url}/{path}")]
        return entry


def bucket(store: ObjectStore, *, max_entries: int = 1_000) -> Place:
    def opened(url: str) -> ObjectStore:
        assert url == "s3://docs"
        return store

    sources = ObjectSources(["s3://docs/inbox/"], max_entries=max_entries, open_store=opened)
    return Place("s3://docs", sources, lambda path, content: obstore.put(store, path, content))


def folder(root: Path, *, max_entries: int = 1_000) -> Place:
    def write(path: str, content: bytes) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    write("inbox/x", b"")
    (root / "inbox/x").unlink()
    return Place(root.as_uri(), ObjectSources([f"{root.as_uri()}/inbox"], max_entries=max_entries), write)


@pytest.fixture(params=["bucket", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    made = bucket(MemoryStore()) if request.param == "bucket" else folder(tmp_path)
    for path, content in FILES.items():
        made.write(path, content)
    return made


@pytest.fixture
def shared(tmp_path: Path) -> Place:
    made = folder(tmp_path / "share")
    for path, content in FILES.items():
        made.write(path, content)
    return made


async def test_a_prefix_stands_for_everything_below_it(place: Place) -> None:
    below = {path.removeprefix("inbox/"): content for path, content in FILES.items() if path.startswith("inbox/")}

    entries = {entry.name: entry async for entry in place.sources.expand(f"{place.url}/inbox/")}

    assert {name: entry.size for name, entry in entries.items()} == {name: len(below[name]) for name in below}
    for name, entry in entries.items():
        assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=5)
        with place.sources.open(entry) as file:
            assert file.read() == below[name]


async def test_an_entry_s_url_stands_for_it_again(place: Place) -> None:
    for entry in [entry async for entry in place.sources.expand(f"{place.url}/inbox/")]:
        (again,) = [found async for found in place.sources.expand(entry.url)]
        assert again == replace(entry, name=entry.name.rpartition("/")[2])


async def test_a_deeper_prefix_names_from_there(place: Place) -> None:
    assert await place.names(f"{place.url}/inbox/manuals/") == ["c.pdf", "old/d.pdf"]


async def test_patterns_choose_among_the_names(place: Place) -> None:
    assert await place.names(include=["*.pdf"]) == ["a.pdf", "manuals/c.pdf", "manuals/old/d.pdf"]
    assert await place.names(include=["*.pdf"], exclude=["old/"]) == ["a.pdf", "manuals/c.pdf"]
    assert await place.names(include=["manuals/*"], exclude=["manuals/old"]) == ["manuals/c.pdf"]


@pytest.mark.parametrize("path", ["inbox/missing.pdf", "inbox/missing/", "inbox/manuals", "inbox/a.pdf/"])
async def test_what_is_not_there_is_not_found(place: Place, path: str) -> None:
    with pytest.raises(SourceError) as raised:
        await place.names(f"{place.url}/{path}")

    assert (raised.value.code, raised.value.transient) == ("object_not_found", False)


async def test_a_prefix_where_nothing_fits_is_not_found(place: Place) -> None:
    with pytest.raises(SourceError, match="fits: check the URL and the patterns"):
        await place.names(include=["*.docx"])


@pytest.mark.parametrize(
    "path",
    [
        "/secret.pdf",
        "/",
        "",
        "/inbox-2/secret.pdf",
        "/inbox-2/",
        "/inbox",
        "/inbox/../secret.pdf",
        "/inbox/%2e%2e/secret.pdf",
        "/inbox/%2E./secret.pdf",
        "/inbox/..%2fsecret.pdf",
        "/inbox/manuals/../../secret.pdf",
        "/inbox//a.pdf",
        "//inbox/a.pdf",
        "/inbox/./a.pdf",
        "/inbox/%00",
        "/inbox/a.pdf?x",
        "/inbox/a.pdf#x",
        "/inbox/a.pdf\n",
        "/Inbox/a.pdf",
        "/x/inbox/a.pdf",
    ],
)
async def test_no_spelling_leads_outside_of_what_is_allowed(place: Place, path: str) -> None:
    with pytest.raises(SourceError) as raised:
        await place.names(f"{place.url}{path}" or place.url)

    assert raised.value.code == "object_forbidden"


async def test_what_is_encoded_twice_is_a_name_and_no_step_up(place: Place) -> None:
    with pytest.raises(SourceError) as raised:
        await place.names(f"{place.url}/inbox/%252e%252e/secret.pdf")

    assert raised.value.code == "object_not_found"


@pytest.mark.parametrize(
    "url",
    [
        "s3://docs.evil.example/inbox/a.pdf",
        "s3://user@docs/inbox/a.pdf",
        "s3://docs:80/inbox/a.pdf",
        "s3://DOCS/inbox/a.pdf",
        "s3://d\u043ecs/inbox/a.pdf",
        "s3://docs%2f/inbox/a.pdf",
        "s3:/docs/inbox/a.pdf",
        "s3:docs/inbox/a.pdf",
        "S3://docs/inbox/a.pdf",
        "s3a://docs/inbox/a.pdf",
        "gs://docs/inbox/a.pdf",
        "az://docs/inbox/a.pdf",
        "https://docs/inbox/a.pdf",
        "memory:///inbox/a.pdf",
        "file:///etc/passwd",
        "file://docs/inbox/a.pdf",
        "s3://[::1/inbox/a.pdf",
        "s3://docs/inbox/%ff",
        "",
        "s3://docs/inbox/" + "a" * 5_000,
    ],
)
async def test_another_place_is_forbidden_however_alike_it_looks(url: str) -> None:
    place = bucket(MemoryStore())
    place.write("inbox/a.pdf", b"a")

    with pytest.raises(SourceError) as raised:
        await place.names(url or "s3://")

    assert raised.value.code == "object_forbidden"
    assert await place.names("s3://docs/inbox/a.pdf") == ["a.pdf"]  # so that the refusal is not for another reason


async def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(SourceError, match="ask an operator"):
        await ObjectSources([]).expand("s3://docs/inbox/").__anext__()


@pytest.mark.parametrize(
    "url", ["inbox", "https://docs/", "s3://", "s3://docs/../x", "file://host/inbox", "s3://d?x=1"]
)
def test_an_allowed_prefix_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="an allowed prefix cannot be used"):
        ObjectSources([url])


async def test_a_changed_entry_of_another_place_is_forbidden(place: Place) -> None:
    entry = await place.entry("inbox/a.pdf")

    with pytest.raises(SourceError) as raised:
        place.sources.open(replace(entry, url=f"{place.url}/secret.pdf"))

    assert raised.value.code == "object_forbidden"


async def test_an_object_that_changed_since_it_was_listed_is_refused(place: Place) -> None:
    entry = await place.entry("inbox/b.txt")
    place.write("inbox/b.txt", b"cc")  # of the same size

    with pytest.raises(SourceError) as raised:
        place.sources.open(entry)

    assert (raised.value.code, raised.value.transient) == ("source_changed", False)


async def test_an_object_that_is_gone_is_not_found(tmp_path: Path) -> None:
    store = MemoryStore()
    place = bucket(store)
    place.write("inbox/a.pdf", b"a")
    entry = await place.entry("inbox/a.pdf")
    obstore.delete(store, "inbox/a.pdf")

    with pytest.raises(SourceError) as raised:
        place.sources.open(entry)

    assert raised.value.code == "object_not_found"


async def test_an_object_that_changes_while_it_is_read_is_refused() -> None:
    place = bucket(MemoryStore())
    place.write("inbox/big", os.urandom(5_000_000))

    with place.sources.open(await place.entry("inbox/big")) as file:
        assert len(file.read(1_000)) == 1_000
        place.write("inbox/big", os.urandom(5_000_000))
        with pytest.raises(SourceError) as raised:
            file.read()

    assert raised.value.code == "source_changed"


async def test_a_zip_is_read_from_its_place(place: Place, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("inside.bin", content)
    place.write("inbox/x.zip", (tmp_path / "x.zip").read_bytes())

    with place.sources.open(await place.entry("inbox/x.zip")) as file, zipfile.ZipFile(file) as archive:
        assert archive.read("inside.bin") == content


@pytest.mark.parametrize("kind", ["bucket", "folder"])
async def test_a_prefix_of_too_many_objects_is_refused(tmp_path: Path, kind: str) -> None:
    place = bucket(MemoryStore(), max_entries=5) if kind == "bucket" else folder(tmp_path, max_entries=5)
    for number in range(6):
        place.write(f"inbox/{number}.txt", b"x")

    assert len(await place.names(exclude=["5.txt"])) == 5
    with pytest.raises(SourceError) as raised:
        await place.names()
    assert raised.value.code == "too_many_objects"
    for number in range(501):  # looked at, although they do not fit
        place.write(f"inbox/more/{number}", b"x")
    with pytest.raises(SourceError, match="more than 500"):
        await place.names(include=["0.txt"])


async def test_a_page_is_not_the_end_of_a_prefix(place: Place) -> None:
    for number in range(1_234):
        place.write(f"inbox/many/{number}", b"x")
    place.sources._max_entries = 2_000

    assert len(await place.names(f"{place.url}/inbox/many/")) == 1_234


async def test_no_link_of_a_folder_is_followed(shared: Place, tmp_path: Path) -> None:
    inbox, outside = tmp_path / "share/inbox", tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_bytes(b"secret")
    (inbox / "link").symlink_to(outside / "key")
    (inbox / "folder").symlink_to(outside)
    (inbox / "up").symlink_to(tmp_path / "share")
    os.mkfifo(inbox / "pipe")
    before = await shared.names()

    assert {"link", "folder/key", "up/secret.pdf", "pipe"} & set(before) == set()
    for path in ("link", "folder/key", "folder/", "up/secret.pdf", "up/inbox/a.pdf", "pipe", "a.pdf/x"):
        with pytest.raises(SourceError) as raised:
            await shared.names(f"{shared.url}/inbox/{path}")
        assert raised.value.code == "object_not_found"


async def test_a_folder_swapped_for_a_link_after_it_was_listed_is_seen(shared: Place, tmp_path: Path) -> None:
    entry = await shared.entry("inbox/manuals/c.pdf")
    manuals, outside = tmp_path / "share/inbox/manuals", tmp_path / "outside"
    outside.mkdir()
    os.link(manuals / "c.pdf", outside / "c.pdf")  # the very same file, so that only the way to it tells
    manuals.rename(tmp_path / "share/inbox/moved")
    manuals.symlink_to(outside)

    with pytest.raises(SourceError) as raised:
        shared.sources.open(entry)

    assert raised.value.code == "object_not_found"


async def test_the_allowed_folder_itself_may_be_a_link(shared: Place, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "share/inbox")
    sources = ObjectSources([(tmp_path / "alias").as_uri()])

    names = [entry.name async for entry in sources.expand(f"{(tmp_path / 'alias').as_uri()}/", ["manuals/"])]

    assert names == ["manuals/c.pdf", "manuals/old/d.pdf"]


async def test_hidden_files_of_a_folder_are_left_out(shared: Place) -> None:
    shared.write("inbox/.hidden", b"x")
    shared.write("inbox/.git/config", b"x")

    assert not [name for name in await shared.names() if "." in {name[0], name.rpartition("/")[2][0]}]


async def test_a_file_name_that_is_no_utf8_is_found_and_read(shared: Place, tmp_path: Path) -> None:
    (tmp_path / "share/inbox/manuals" / os.fsdecode(b"caf\xe9\n.txt")).write_bytes(b"x")

    (entry,) = [
        entry async for entry in shared.sources.expand(f"{shared.url}/inbox/manuals/", ["*.txt"]) if entry.size == 1
    ]
    with shared.sources.open(entry) as opened:
        assert opened.read() == b"x"

    assert entry.name == "caf\ufffd\ufffd.txt"
    assert entry.url.endswith("/caf%E9%0A.txt")


@pytest.mark.parametrize(
    ("error", "transient"), [(GenericError("secret=1"), True), (PermissionDeniedError("secret=1"), False)]
)
async def test_a_store_that_refuses_says_whether_to_try_again_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, error: Exception, transient: bool
) -> None:
    async def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(obstore, "head_async", failing)
    with pytest.raises(SourceError) as raised:
        await bucket(MemoryStore()).names("s3://docs/inbox/a.pdf")

    assert (raised.value.code, raised.value.transient) == ("object_unreachable", transient)
    assert "secret" not in str(raised.value)


async def test_a_store_that_cannot_be_opened_is_unreachable() -> None:
    def closed(url: str) -> ObjectStore:
        raise GenericError("account must be specified")

    with pytest.raises(SourceError) as raised:
        await ObjectSources(["az://docs/"], open_store=closed).expand("az://docs/a.pdf").__anext__()

    assert raised.value.code == "object_unreachable"


async def test_a_large_folder_does_not_hold_the_event_loop(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    original = os.walk

    def noting(top: Path, *, onerror: Callable[[OSError], object]) -> Iterator[tuple[str | Path, list[str], list[str]]]:
        threads.add(threading.get_ident())
        return original(top, onerror=onerror)

    monkeypatch.setattr(os, "walk", noting)
    await shared.names()

    assert threads
    assert threading.get_ident() not in threads
