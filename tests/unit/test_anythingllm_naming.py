"""Names on the AnythingLLM server: found again, never shared, and read as what they are."""

import dataclasses
import io
import json
from uuid import UUID

import pytest

from tests.anythingllm_server.collector import ACCEPTED
from worker.documents.anythingllm_types import SUPPORTED_BY_ANYTHINGLLM
from worker.documents.extract import sniffing
from worker.engines.anythingllm import naming
from worker.engines.base import Document, DocumentMetadata, DocumentRejectedError

JOB = UUID("0198c0de-0000-7000-8000-000000000001")
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PLAIN = Document(
    job_id=JOB,
    position=3,
    attempt=2,
    name="handbücher/Kestrel 😀.txt",
    file=io.BytesIO(),
    size=0,
    sha256="0" * 64,
    media_type="text/plain",
)


def test_every_try_of_every_attempt_has_a_name_of_its_own_in_ascii() -> None:
    names = {
        naming.file_name(dataclasses.replace(PLAIN, attempt=attempt, position=position), number)
        for attempt in range(1, 4)
        for position in range(3)
        for number in range(1, 4)
    }
    assert len(names) == 27
    assert all(name.isascii() and name.endswith(".txt") for name in names)
    assert naming.file_name(PLAIN, 1) == f"{JOB}-3-2.txt"
    assert naming.file_name(PLAIN, 2) == f"{JOB}-3-2-2.txt"


def test_what_marks_a_document_is_the_same_for_every_attempt() -> None:
    marks = {json.loads(naming.metadata(dataclasses.replace(PLAIN, attempt=at)))["chunkSource"] for at in (1, 2, 3)}
    assert marks == {f"job://{JOB}/3"}
    assert json.loads(naming.metadata(PLAIN))["title"] == PLAIN.name


def test_author_and_description_are_sent_where_they_are_known() -> None:
    told = dataclasses.replace(PLAIN, metadata=DocumentMetadata(author="Ann Kestrel"))
    assert json.loads(naming.metadata(told))["docAuthor"] == "Ann Kestrel"
    assert json.loads(naming.metadata(told)).keys() == {"title", "docSource", "chunkSource", "docAuthor"}
    assert "docAuthor" not in json.loads(naming.metadata(PLAIN))


@pytest.mark.parametrize(
    ("media_type", "name", "extension"),
    [
        (sniffing.PDF, "named.txt", "pdf"),
        (sniffing.TEXT, "report.pdf", "txt"),
        (sniffing.TEXT, "tool.py", "txt"),
        (sniffing.TEXT, "plan.ORG", "org"),
        (sniffing.TEXT, "no ending", "txt"),
        (sniffing.MARKDOWN, "README", "md"),
        (sniffing.XML, "feed.xml", "txt"),
        (sniffing.TSV, "table.tsv", "txt"),
        (sniffing.XLSX, "book.zip", "xlsx"),
    ],
)
def test_the_extension_follows_the_content_not_the_name(media_type: str, name: str, extension: str) -> None:
    assert naming.extension_of(dataclasses.replace(PLAIN, media_type=media_type, name=name)) == extension


@pytest.mark.parametrize("media_type", sorted(SUPPORTED_BY_ANYTHINGLLM))
def test_what_is_sent_has_an_ending_that_the_server_reads(media_type: str) -> None:
    name = naming.file_name(dataclasses.replace(PLAIN, media_type=media_type, name="x.exe"), 1)
    assert any(name.endswith(ending) for endings in ACCEPTED.values() for ending in endings), name


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        (sniffing.RTF, "letter.rtf"),
        (sniffing.DOC, "letter.txt"),  # whatever it is called
        (sniffing.XLS, "book.xls"),
        (sniffing.ODS, "book.ods"),
        (sniffing.MSG, "letter.msg"),
        (sniffing.MAIL, "letter.eml"),
        ("application/octet-stream", "tool.exe"),
        ("application/octet-stream", "tool.txt"),
    ],
)
def test_what_the_server_would_misread_is_refused_with_its_name(media_type: str, name: str) -> None:
    with pytest.raises(DocumentRejectedError, match=name) as caught:
        naming.extension_of(dataclasses.replace(PLAIN, media_type=media_type, name=name))
    assert caught.value.code == "unsupported_type"


def test_workbooks_have_folders_of_their_own_and_other_files_share_the_jobs() -> None:
    book = dataclasses.replace(PLAIN, media_type=XLSX)
    folders = {naming.folder_for(dataclasses.replace(book, attempt=at), number) for at in (1, 2) for number in (1, 2)}
    assert folders == {f"job-{JOB}-3-1", f"job-{JOB}-3-1-2", f"job-{JOB}-3-2", f"job-{JOB}-3-2-2"}
    assert naming.folder_for(PLAIN, 5) == f"job-{JOB}"
    assert all(naming.FOLDER.fullmatch(folder) for folder in {*folders, f"job-{JOB}"})


@pytest.mark.parametrize("folder", ["custom-documents", "job-17", f"job-{JOB}-mine", f"xjob-{JOB}", "job-"])
def test_nobody_elses_folder_is_taken_for_a_jobs(folder: str) -> None:
    assert naming.FOLDER.fullmatch(folder) is None
