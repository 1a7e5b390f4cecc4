"""A link in an uploaded folder is not followed unless its uploader says so."""

from pathlib import Path

import pytest

from worker.files import (
    FileSource,
    NoFilesError,
    UnreadableFileError,
    find_files,
    look_for_files,
    open_file,
    store_files,
)
from worker.settings import load_settings
from worker.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("not for the workspace")
    folder = tmp_path / "upload"
    (folder / "deep").mkdir(parents=True)
    (folder / "plain.txt").write_text("a document")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "deep" / "same.txt").symlink_to("../plain.txt")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "whole").symlink_to(tmp_path)
    return folder


def names(files: list[FileSource]) -> list[str]:
    return [file.name for file in files]


def test_links_in_a_folder_are_left_out_and_named(folder: Path) -> None:
    found = look_for_files([folder])

    assert names(found.files) == ["plain.txt"]
    left_out = sorted(str(link.relative_to(folder)) for link in found.links)
    assert left_out == ["deep/same.txt", "gone.txt", "loop.txt", "notes.txt"]
    assert found.folders == [folder / "whole"]


def test_links_are_read_where_they_lead_if_that_is_asked_for(folder: Path) -> None:
    found = look_for_files([folder], follow=True)

    assert {"plain.txt", "notes.txt"} <= set(names(found.files))
    assert found.links == []
    assert found.folders == [folder / "whole"]  # never: a folder may lead to itself


def test_a_link_to_a_folder_that_is_excluded_was_not_meant(folder: Path) -> None:
    assert look_for_files([folder], exclude=["whole"]).folders == []
    assert look_for_files([folder], include=["*.txt"]).folders == [folder / "whole"]


def test_a_link_that_is_named_itself_is_followed(folder: Path) -> None:
    (source,) = find_files([folder / "notes.txt"])

    assert isinstance(source.content, Path)
    with open_file(source.name, source.content, follow=source.follow) as file:
        assert file.read() == b"not for the workspace"


def test_a_folder_with_nothing_but_links_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("/etc/passwd")

    with pytest.raises(NoFilesError, match="1 symbolic links, which are not followed"):
        find_files([tmp_path])


def test_a_file_that_became_a_link_since_it_was_found_is_not_read(folder: Path) -> None:
    (source,) = find_files([folder])
    assert isinstance(source.content, Path)
    source.content.unlink()
    source.content.symlink_to("/etc/passwd")

    with pytest.raises(UnreadableFileError) as caught:
        open_file(source.name, source.content, follow=source.follow)

    assert caught.value.error.code == "not_a_file"
    assert "--follow-symlinks" in caught.value.error.message


@pytest.mark.parametrize("depth", ["deep", "deep/er"])
def test_a_folder_that_became_a_link_since_its_file_was_found_is_not_passed(tmp_path: Path, depth: str) -> None:
    folder, elsewhere = tmp_path / "upload", tmp_path / "elsewhere"
    for place in (folder / "deep" / "er", elsewhere / "er"):
        place.mkdir(parents=True)
        (place / "a.txt").write_text(place.parent.name)
        (place.parent / "a.txt").write_text(place.parent.name)
    (source,) = [one for one in find_files([folder]) if one.name == f"{depth}/a.txt"]
    (folder / "deep").rename(tmp_path / "moved")
    (folder / "deep").symlink_to(elsewhere)

    assert isinstance(source.content, Path)
    with pytest.raises(UnreadableFileError) as caught:
        open_file(source.name, source.content, follow=source.follow, place=source.place)

    assert caught.value.error.code == "not_a_file"


async def test_such_a_file_fails_alone_when_it_is_stored(folder: Path, tmp_path: Path) -> None:
    (folder / "deep" / "b.txt").write_text("another")
    files = find_files([folder])
    (folder / "deep").rename(tmp_path / "moved")
    (folder / "deep").symlink_to(tmp_path / "moved")

    stored = await store_files(files, Storage(str(tmp_path / "storage")), load_settings())

    assert [(one.name, one.error and one.error.code) for one in stored] == [
        ("deep/b.txt", "not_a_file"),
        ("plain.txt", None),
    ]


def test_a_folder_is_read_below_one_that_can_only_be_passed_and_through_a_link_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "shut" / "folder").mkdir(parents=True)
    (tmp_path / "shut" / "folder" / "a.txt").write_text("a document")
    (tmp_path / "link").symlink_to(tmp_path / "shut")
    (tmp_path / "shut").chmod(0o711)

    (source,) = find_files([tmp_path / "link" / "folder"])

    assert isinstance(source.content, Path)
    with open_file(source.name, source.content, follow=source.follow, place=source.place) as file:
        assert file.read() == b"a document"
