"""A link in an uploaded folder is not followed unless its uploader says so."""

from pathlib import Path

import pytest

from worker.files import FileSource, NoFilesError, UnreadableFileError, find_files, look_for_files, open_file


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


def test_links_are_read_where_they_lead_if_that_is_asked_for(folder: Path) -> None:
    found = look_for_files([folder], follow=True)

    assert {"plain.txt", "notes.txt"} <= set(names(found.files))
    assert found.links == []


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
