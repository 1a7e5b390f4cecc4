"""What things are called on the AnythingLLM server, so that they can be found again and never collide.

Two uploads of one file name in flight read each other's content, on the whole server; so every try at every document
has a name of its own, in ASCII, with the extension that decides how the server reads it. A document's key stands in its
``chunkSource``, its name for people in ``title`` and ``docSource``: these three come back with every answer.
"""

import re
from typing import Final
from uuid import UUID

import orjson

from worker.documents.anythingllm_types import accepted_by_anythingllm, extension_for
from worker.engines.base import Document, DocumentRejectedError

FOLDER: Final = re.compile(r"job-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-\d+-\d+(?:-\d+)?)?")
"""The folders of jobs; nobody else's folder looks like that."""

_OF_PARTS: Final = re.compile(r"job-[0-9a-f-]{36}-\d+-\d+(?:-\d+)?")
_MARK: Final = re.compile(r"job://([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/\d+)")
_LOCATION: Final = re.compile(
    r"job-(?P<job>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-(?P<part_of>\d+)-\d+(?:-\d+)?/|/(?P=job)-(?P<position>\d+)-)"
)
_OF_SHEETS: Final = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d{1,9}-\d{1,9}(?:-\d{1,9})?\.xlsx-[0-9a-f]{4}(?=[/\\])"
)
_SEVERAL: Final = frozenset({"xlsx"})


def extension_of(document: Document) -> str:
    """Return the extension, without a dot, that makes the server read a document as what it is.

    Raises:
        DocumentRejectedError: it would be read as something else (``unsupported_type``).
    """
    if not accepted_by_anythingllm(document.media_type):
        raise DocumentRejectedError(
            "unsupported_type",
            f"{document.name} is {document.media_type}, which AnythingLLM does not read: save it as PDF or docx",
        )
    return extension_for(document.media_type, document.name)[1:]


def makes_several(document: Document) -> bool:
    """Return whether the server makes more than one document of this file."""
    return extension_of(document) in _SEVERAL


def folder_of_job(job_id: UUID) -> str:
    """Return the folder of a job's documents."""
    return f"job-{job_id}"


def folder_of_item(job_id: UUID, position: int, attempt: int, attempt_try: int = 1) -> str:
    """Return the folder of one try at a file that becomes several documents.

    Their names on the server are those of its parts (a workbook's sheets), so two such files in one folder would
    overwrite each other's.
    """
    return f"{folder_of_job(job_id)}-{position}-{attempt}" + (f"-{attempt_try}" if attempt_try > 1 else "")


def folder_of(location: str) -> str:
    """Return the folder that a stored document's location names."""
    return location.rpartition("/")[0]


def has_parts(folder: str) -> bool:
    """Return whether a folder holds the parts of one file, whose names are used in other folders too."""
    return _OF_PARTS.fullmatch(folder) is not None


def folder_of_sheets(url: str) -> str | None:
    """Return the folder that the server made of a workbook before it moved the sheets to ours; only they name it."""
    found = _OF_SHEETS.search(url)
    return found[0] if found else None


def folder_for(document: Document, attempt_try: int) -> str:
    """Return the folder that a document is uploaded into by this try."""
    if makes_several(document):
        return folder_of_item(document.job_id, document.position, document.attempt, attempt_try)
    return folder_of_job(document.job_id)


def file_name(document: Document, attempt_try: int) -> str:
    """Return the name that a document is uploaded under, used by no other upload.

    Args:
        document: what is uploaded.
        attempt_try: how often this attempt has tried, from 1.
    """
    tried = f"-{attempt_try}" if attempt_try > 1 else ""
    return f"{document.job_id}-{document.position}-{document.attempt}{tried}.{extension_of(document)}"


def attempt_of(name: str, document: Document) -> int:
    """Return by which attempt a document that the server calls ``name`` was uploaded; 0 where that cannot be told."""
    found = re.match(rf"{document.job_id}-{document.position}-(\d+)(?:-\d+)?\.", name)
    return int(found[1]) if found else 0


def chunk_source(key: str) -> str:
    """Return what marks a document as the one with this key."""
    return f"job://{key}"


def key_of_mark(mark: str) -> str | None:
    """Return the key of the document that is marked so; ``None`` for a mark that is none of ours."""
    found = _MARK.fullmatch(mark)
    return None if found is None else found[1]


def key_of(location: str) -> str | None:
    """Return the key of the document at a location, or of whose parts one is there; ``None`` if it is none of ours."""
    found = _LOCATION.match(location)
    return None if found is None else f"{found['job']}/{found['position'] or found['part_of']}"


def metadata(document: Document, mark: str | None = None) -> str:
    """Return what is said of a document when it is uploaded, as JSON; ``mark`` takes the place of its key."""
    name = document.name.encode("utf-8", "replace").decode()  # names of old archives may hold what is no character
    said = {"title": name, "docSource": name, "chunkSource": chunk_source(mark or document.key)}
    if document.metadata is not None:
        more = {"docAuthor": document.metadata.author, "description": document.metadata.description}
        said |= {name: value for name, value in more.items() if value is not None}
    return orjson.dumps(said).decode()
