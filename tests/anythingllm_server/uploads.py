"""Ways in for documents (§3.1 to §3.3): files, files into a folder, text, and links, which are refused."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.anythingllm_server import collector
from tests.anythingllm_server.behaviour import FaultKind
from tests.anythingllm_server.collector import NotProcessedError
from tests.anythingllm_server.counters import Upload, add
from tests.anythingllm_server.embeddings import embed
from tests.anythingllm_server.naming import file_name, slugify
from tests.anythingllm_server.records import CUSTOM, METADATA_KEYS, StoredDocument, new_id
from tests.anythingllm_server.requests import json_of, param, refused, world_of
from tests.anythingllm_server.world import World

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


async def upload(request: Request) -> Response:
    """``POST /v1/document/upload``."""
    return await _upload(request, "upload", folder=None)


async def upload_to_folder(request: Request) -> Response:
    """``POST /v1/document/upload/:folderName``."""
    return await _upload(request, "upload-to-folder", folder=param(request, "folder"))


async def _upload(request: Request, route: str, folder: str | None) -> Response:
    world = world_of(request)
    async with _form(request) as form:
        name, content = await _file(form)
        slugs = _slugs(form.getlist("addToWorkspaces"))
        try:
            metadata = collector.parsed_metadata(form.get("metadata"))
            documents = await _process(world, route, name, content, metadata)
        except NotProcessedError as error:
            add(world.counters.refused_uploads, str(error))
            raise refused(500, success=False, error=str(error), documents=[]) from error
    if folder is not None:
        documents = _move(world, documents, folder)
    _count(world, name, metadata, documents)
    told = [{**document.uploaded, **({"name": document.name} if folder else {})} for document in documents]
    await _add_to_workspaces(world, slugs, documents[:1], route)  # only the first of several is embedded (§3.1)
    return JSONResponse({"success": True, "error": None, "documents": told})


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """Lend the multipart form, its files closed at the end; or refuse as multer does (§3.4)."""
    content_type = request.headers.get("content-type", "")
    boundary = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or boundary is None:
        raise refused(500)
    broken = refused(500, success=False, error="Invalid file upload. Unexpected end of form")
    if f"--{boundary.group(1)}--".encode() not in (await request.body())[-500:]:
        raise broken
    try:
        form = await request.form(max_files=20, max_fields=50, max_part_size=64 * 2**20)
    except (HTTPException, MultipartParseError) as error:
        raise broken from error
    try:
        yield form
    finally:
        await form.close()


async def _file(form: FormData) -> tuple[str, bytes]:
    """Return the name and the bytes of the one file there may be."""
    files = [(field, value) for field, value in form.multi_items() if isinstance(value, UploadFile)]
    if any(field != "file" for field, _ in files) or len(files) > 1:
        raise refused(500, success=False, error="Invalid file upload. Unexpected field")
    if not files or not (name := file_name(files[0][1].filename or "")):
        raise refused(500)
    return name, await files[0][1].read()


def _slugs(sent: list[Any]) -> list[str]:
    if len(sent) > 1:
        raise refused(
            422,
            success=False,
            error="addToWorkspaces must be a string of comma-separated workspace slugs. Got object",
        )
    return [slug.strip().lower() for slug in str(sent[0]).split(",")] if sent else []


async def _process(
    world: World, route: str, name: str, content: bytes, metadata: dict[str, Any]
) -> list[StoredDocument]:
    world.hotdir[name] = b""
    await asyncio.sleep(world.behaviour.write_seconds)  # the file is there before its content is (§3.5)
    world.hotdir[name] = content
    if world.collector_is_down:
        raise NotProcessedError(
            f"Document processing API is not online. Document {name} will not be processed automatically."
        )
    if world.draw(FaultKind.UPLOAD_CLASH, route):
        world.hotdir.pop(name, None)
        raise NotProcessedError("File does not exist in upload directory.")
    return await collector.process(world, name, metadata)


def _move(world: World, documents: list[StoredDocument], folder: str) -> list[StoredDocument]:
    """Move documents to a folder; one of the same name there is overwritten (§3.2: sheets of two workbooks)."""
    if "/" in folder:
        raise refused(500)  # the documents stay behind (§3.2)
    moved = []
    for document in documents:
        taken = world.take_document(document.location) or document
        moved.append(taken.model_copy(update={"folder": folder}))
        world.put_document(moved[-1])
    return moved


def _count(world: World, name: str, metadata: dict[str, Any], documents: list[StoredDocument]) -> None:
    add(world.counters.uploaded, name)
    world.counters.uploads.append(
        Upload(file=name, metadata=metadata, locations=[document.location for document in documents])
    )


async def _add_to_workspaces(world: World, slugs: list[str], documents: list[StoredDocument], route: str) -> None:
    """Embed like ``update-embeddings`` does: silent where it fails; an unknown slug is ignored (§4)."""
    for slug in slugs:
        if (workspace := world.workspaces.get(slug)) is not None:
            await embed(world, workspace, [document.location for document in documents], route)


async def raw_text(request: Request) -> Response:
    """``POST /v1/document/raw-text`` (§3.3): no file, so no clash of names."""
    world = world_of(request)
    body = await json_of(request)
    metadata, content = body.get("metadata") or {}, body.get("textContent")
    if not isinstance(metadata, dict) or not metadata.get("title"):
        raise refused(
            422,
            success=False,
            error="You are missing required metadata key:value pairs in your request. Required metadata key:values are "
            "'title'",
            documents=[],
        )
    if not content:
        raise refused(422, success=False, error="The 'textContent' key cannot have an empty value.", documents=[])
    title = metadata["title"]
    if not isinstance(title, str):
        raise refused(500)
    slugs = _slugs([body["addToWorkspaces"]] if body.get("addToWorkspaces") else [])
    if world.collector_is_down:
        error = "Document processing API is not online. Document will not be processed automatically."
        add(world.counters.refused_uploads, error)
        raise refused(500, success=False, error=error, documents=[])
    async with world.collector:
        await asyncio.sleep(world.behaviour.collector_seconds)
    stem = PurePosixPath(slugify(title).lower()).stem  # the last part behind a dot is cut off (§3.3)
    number = new_id()
    said = {key: metadata.get(key) for key in METADATA_KEYS}
    document = StoredDocument(
        folder=CUSTOM,
        name=f"raw-{stem}-{number}.json",
        id=number,
        url=f"file://{stem}.txt",
        title=f"{stem}.txt",
        doc_author=said["docAuthor"] or "no author specified",
        description=said["description"] or "no description found",
        doc_source=said["docSource"] or "no source set",
        chunk_source=said["chunkSource"] or "no chunk source specified",
        content=str(content),
    )
    world.put_document(document)
    _count(world, title, metadata, [document])
    await _add_to_workspaces(world, slugs, [document], "raw-text")
    return JSONResponse({"success": True, "error": None, "documents": [document.uploaded]})


async def upload_link(request: Request) -> Response:
    """``POST /v1/document/upload-link`` (§3.3): nothing here goes out to the web, so every link is a bad one."""
    link = (await json_of(request)).get("link")
    raise refused(500, success=False, error=f"No URL content found at {link}.", documents=[])
