"""The collector: turns one uploaded file at a time into documents, or says why not (§3.1, §3.4, §3.5)."""

import asyncio
import json
import mimetypes
from pathlib import PurePosixPath
from typing import Any

from tests.anythingllm_server.counters import busy
from tests.anythingllm_server.naming import slugify
from tests.anythingllm_server.records import CUSTOM, METADATA_KEYS, StoredDocument, new_id
from tests.anythingllm_server.world import World, new_hex

HOTDIR = "file:///app/collector/hotdir"
_STORAGE = "file:///app/server/storage/documents"
PROCESSING = "A processing error occurred."
ACCEPTED: dict[str, list[str]] = {
    "text/plain": [".txt", ".md", ".org", ".adoc", ".rst"],
    "text/html": [".html"],
    "text/csv": [".csv"],
    "application/json": [".json"],
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": [".docx"],
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": [".pptx"],
    "application/vnd.oasis.opendocument.text": [".odt"],
    "application/vnd.oasis.opendocument.presentation": [".odp"],
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": [".xlsx"],
    "application/pdf": [".pdf"],
    "application/mbox": [".mbox"],
    "application/epub+zip": [".epub"],
    "audio/wav": [".wav"],
    "audio/mpeg": [".mp3"],
    "video/mp4": [".mp4"],
    "image/png": [".png"],
    "image/jpeg": [".jpg"],
    "image/webp": [".webp"],
}
_PLAIN = {".txt", ".md", ".org", ".adoc", ".rst", ".html", ".csv", ".json"}
_PARSED = {".pdf", ".docx", ".pptx", ".odt", ".odp", ".epub"}
_UNREADABLE = {".wav", ".mp3", ".mp4", ".png", ".jpg", ".webp", ".mbox"}  # their readers are not installed here
_TYPES = {extension: media_type for media_type, extensions in ACCEPTED.items() for extension in extensions}
_NEVER_TEXT = {"application/octet-stream", "application/zip", "application/pkcs8", "application/x-msdownload"}
_NEVER_TEXT_KINDS = {"audio", "video", "model", "multipart", "font", "image"}
_KNOWN_TYPES = mimetypes.MimeTypes()  # without the files of the machine, which differ
_LONGEST_FILE_NAME = 255
_XLSX = _TYPES[".xlsx"]


class NotProcessedError(Exception):
    """The collector made no document; the text is the reply's ``error``."""


class CollectorDiedError(NotProcessedError):
    """The collector died while it held this file."""

    def __init__(self) -> None:
        super().__init__("fetch failed")


async def process(world: World, name: str, metadata: dict[str, Any]) -> list[StoredDocument]:
    """Make documents of the file of this name in the hot folder, and store them in the folder for uploads.

    Raises:
        NotProcessedError: there is no document to be had.
    """
    life = world.collector_deaths
    # One at a time (§9). Which bytes stand under the name is decided only when the file's turn comes: two uploads of
    # one name read each other's, and the first to end takes the file away (§3.5).
    async with world.collector:
        if world.collector_deaths > life:
            raise CollectorDiedError  # it held this file, too
        await asyncio.sleep(world.behaviour.collector_seconds)
        busy(world.counters, "collector", world.behaviour.collector_seconds)
        if (content := world.hotdir.get(name)) is None:
            raise NotProcessedError("File does not exist in upload directory.")
        if (poison := world.behaviour.poison.encode()) and poison in content:
            world.hotdir.pop(name, None)
            world.kill_collector()
            raise CollectorDiedError
        try:
            unique = new_hex(world.chance)
            if name.lower().endswith(".xlsx"):
                world.put_folder(_folder_of_sheets(name, unique))  # before it reads the book, and it stays (§10)
            documents = await asyncio.to_thread(_documents, content, name, metadata, unique)
        finally:
            world.hotdir.pop(name, None)
    for document in documents:
        world.put_document(document)
    return documents


def _documents(content: bytes, name: str, metadata: dict[str, Any], unique: str) -> list[StoredDocument]:
    extension = PurePosixPath(name).suffix.lower()
    if name.startswith("__HOTDIR__"):
        raise NotProcessedError("Filename is a reserved filename and cannot be processed.")
    if name.lower() in {*_TYPES, ".env"}:
        raise NotProcessedError("No file extension found. This file cannot be processed.")
    if extension == ".xlsx":
        return _sheets(content, name, metadata, unique)
    number = new_id()
    file = f"{slugify(name)}-{number}.json"
    if len(file) > _LONGEST_FILE_NAME:
        raise NotProcessedError(PROCESSING)
    kind = extension.removeprefix(".") if extension in _PARSED else "a text"
    text = _text(content, name, extension)
    if not text:
        raise NotProcessedError(f"No text content found in {name}.")
    return [_document(name, text, metadata, kind, folder=CUSTOM, file=file, number=number)]


def _document(
    name: str, text: str, metadata: dict[str, Any], kind: str, *, folder: str, file: str, number: str, url: str = ""
) -> StoredDocument:
    # Only these keys are used, of whatever type they are; what counts as empty in JavaScript is filled in (§3.1).
    said = {key: metadata.get(key) for key in METADATA_KEYS}
    return StoredDocument(
        folder=folder,
        name=file,
        id=number,
        url=url or f"{HOTDIR}/{name}",
        title=said["title"] or name,
        doc_author=said["docAuthor"] or "Unknown",
        description=said["description"] or "Unknown",
        doc_source=said["docSource"] or f"{kind} file uploaded by the user.",
        chunk_source=said["chunkSource"] or "",
        content=text,
    )


def _text(content: bytes, name: str, extension: str) -> str:
    """Return the text of a file whose type its extension decides, never its content (§3.1)."""
    if extension in _PARSED:
        return _parsed(content, name, extension)
    if extension in _UNREADABLE:
        raise NotProcessedError(PROCESSING)
    if extension not in _PLAIN and not _looks_like_text(content, name):
        raise NotProcessedError(
            f"File extension {extension} not supported for parsing and cannot be assumed as text file type."
        )
    return content.decode("utf-8", "replace")  # Latin-1 and UTF-16 are not noticed (§3.1)


def _looks_like_text(content: bytes, name: str) -> bool:
    media_type = _KNOWN_TYPES.guess_type(name)[0]
    if media_type is not None:
        return media_type not in _NEVER_TEXT and media_type.split("/")[0] not in _NEVER_TEXT_KINDS
    opening = content[:1024]
    return b"\0" not in opening and sum(byte < 9 or 13 < byte < 32 for byte in opening) <= len(opening) / 10


def _parsed(content: bytes, name: str, extension: str) -> str:
    # Imported by the first document that needs it: a parser's start is not every test's.
    from worker.documents.extract.reading import extract  # noqa: PLC0415 - see above
    from worker.engines.base import DocumentRejectedError  # noqa: PLC0415 - see above

    try:
        extracted = extract(content, name, _TYPES[extension])
    except DocumentRejectedError as error:
        # A damaged ODT is told apart from a damaged PDF or DOCX only by the reply (§3.4).
        refusal = f"No text content found in {name}." if extension in {".odt", ".odp"} else PROCESSING
        raise NotProcessedError(refusal) from error
    lines: list[str] = []
    heading = None
    for block in extracted.blocks:
        if block.heading != heading and (heading := block.heading):
            lines.append(heading.rpartition(" > ")[2])
        lines.append(block.text)
    return "\n".join(lines)


def _folder_of_sheets(name: str, unique: str) -> str:
    return f"{slugify(name).lower()}-{unique}"


def _sheets(content: bytes, name: str, metadata: dict[str, Any], unique: str) -> list[StoredDocument]:
    """One document a sheet, in a folder of the workbook's own, without a UUID in the file's name (§3.1)."""
    folder = _folder_of_sheets(name, unique)
    sheets = {title: text for title, text in _read_workbook(content).items() if text.strip()}
    if not sheets:
        raise NotProcessedError(f"No valid sheets found in {name}.")
    return [
        _document(
            name,
            text,
            {**metadata, "title": metadata.get("title") or f"{name} - Sheet:{title}"},
            "an xlsx",
            folder=folder,
            file=f"sheet-{slugify(title)}.json",
            number=new_id(),
            url=f"{_STORAGE}/{folder}/{slugify(title)}.csv",
        )
        for title, text in sheets.items()
    ]


def _read_workbook(content: bytes) -> dict[str, str]:
    import kreuzberg  # noqa: PLC0415 - a parser's start is not every test's

    try:
        result = kreuzberg.extract_bytes_sync(content, _XLSX)
    except kreuzberg.KreuzbergError:
        return {"Sheet1": content.decode("utf-8", "replace")}  # garbage is read as a sheet of one cell (§3.1)
    names = result.metadata.get("sheet_names") or []
    return {
        names[table.page_number - 1]: "\n".join(",".join(row) for row in table.cells)
        for table in result.tables
        if 0 < table.page_number <= len(names)
    }


def parsed_metadata(sent: object) -> dict[str, Any]:
    """Return what an upload says of its file: no JSON and no object mean nothing was said.

    Raises:
        NotProcessedError: it is the JSON ``null``, which the real collector trips over (§3.1).
    """
    try:
        said = json.loads(sent) if isinstance(sent, str) and sent else {}
    except ValueError:
        return {}
    if said is None:
        raise NotProcessedError(PROCESSING)
    return said if isinstance(said, dict) else {}
