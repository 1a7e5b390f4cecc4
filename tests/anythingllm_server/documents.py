"""What there is of documents: lists, folders, removal (§3.6)."""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.anythingllm_server.collector import ACCEPTED
from tests.anythingllm_server.records import CUSTOM, METADATA_KEYS, StoredDocument
from tests.anythingllm_server.requests import json_of, param, refused, text, world_of
from tests.anythingllm_server.world import World

_MOST = 1000


def _item(world: World, document: StoredDocument) -> dict[str, Any]:
    pinned = [
        workspace.id
        for workspace in world.workspaces
        if any(row.pinned and row.location == document.location for row in world.rows(workspace))
    ]
    return {
        "name": document.name,
        "type": "file",
        **document.facts,
        "cached": document.location in world.cached,
        "canWatch": False,
        "pinnedWorkspaces": pinned,
        "watched": False,
    }


async def documents(request: Request) -> Response:
    """``GET /v1/documents``: everything, or ``?folder=`` a page of one folder."""
    world = world_of(request)
    if "folder" in request.query_params:
        told = _folder(request, request.query_params["folder"], default="100")
        code = 200 if told["error"] is None else 404
        return JSONResponse({**told, "code": code}, code)
    items = [
        {
            "name": folder.name,
            "type": "folder",
            "items": [_item(world, document) for document in world.documents_in(folder.name)],
        }
        for folder in world.folders
    ]
    return JSONResponse({"localFiles": {"name": "documents", "type": "folder", "items": items}})


async def folder(request: Request) -> Response:
    """``GET /v1/documents/folder/:F``: all of one folder."""
    told = _folder(request, param(request, "folder"), default="all")
    return JSONResponse(told, 200 if told["error"] is None else 404)


def _folder(request: Request, name: str, default: str) -> dict[str, Any]:
    world = world_of(request)
    if name not in world.folders:
        return {
            "folder": name,
            "documents": [],
            "totalCount": 0,
            "hasMore": False,
            "error": f"Folder {name} does not exist",
        }
    found = world.documents_in(name)
    offset = _whole(request.query_params.get("offset", "0"), 0)
    limit = request.query_params.get("limit", default)
    most = len(found) if limit == "all" else min(_whole(limit, 100), _MOST)
    return {
        "folder": name,
        "documents": [_item(world, document) for document in found[offset : offset + most]],
        "totalCount": len(found),
        "hasMore": offset + most < len(found),
        "error": None,
    }


def _whole(sent: str, otherwise: int) -> int:
    return int(sent) if re.fullmatch(r"\d{1,9}", sent) else otherwise


async def document(request: Request) -> Response:
    """``GET /v1/document/:name``: by the name without its folder."""
    world, name = world_of(request), param(request, "name")
    if "/" not in name:
        for folder_ in world.folders:
            if (found := world.document(f"{folder_.name}/{name}")) is not None:
                return JSONResponse({"document": _item(world, found)})
    raise refused(404)


async def accepted_file_types(request: Request) -> Response:
    """``GET /v1/document/accepted-file-types``: the collector's own answer, so a check of the collector (§1)."""
    if world_of(request).collector_is_down:
        raise refused(404)
    return JSONResponse({"types": ACCEPTED})


async def metadata_schema(_request: Request) -> Response:
    """``GET /v1/document/metadata-schema``."""
    return JSONResponse({"schema": dict.fromkeys(("url", *METADATA_KEYS, "published"), "string")})


async def create_folder(request: Request) -> Response:
    """``POST /v1/document/create-folder``."""
    world, name = world_of(request), (await json_of(request)).get("name")
    if not isinstance(name, str) or not name:
        raise refused(500, success=False, message="Failed to create folder: no name was given")
    name = re.sub(r"(\.\./)+", "", name)
    if name in world.folders:
        raise refused(500, success=False, message="Folder by that name already exists")
    world.put_folder(name)
    return JSONResponse({"success": True, "message": None})


async def move_files(request: Request) -> Response:
    """``POST /v1/document/move-files``: what is embedded stays where it is, and that is no error."""
    world, files = world_of(request), (await json_of(request)).get("files")
    if not isinstance(files, list):
        raise refused(500, success=False, message="Failed to move files.")
    embedded = [move for move in files if world.is_embedded(str(move.get("from")))]
    movable = [move for move in files if move not in embedded]
    for move in movable:
        to_folder, _, name = str(move.get("to")).partition("/")
        if world.document(str(move.get("from"))) is None or to_folder not in world.folders:
            raise refused(500, success=False, message="Failed to move some files.")
        if (taken := world.take_document(str(move["from"]))) is not None:
            world.put_document(taken.model_copy(update={"folder": to_folder, "name": name}))
    message = f"{len(embedded)}/{len(files)} files not moved. Unembed them from all workspaces." if embedded else None
    return JSONResponse({"success": True, "message": message})


async def remove_documents(request: Request) -> Response:
    """``DELETE /v1/system/remove-documents``: success also for what is not there; one row a workspace."""
    world, names = world_of(request), (await json_of(request)).get("names")
    if not isinstance(names, list):
        return text(500)
    for name in names:
        world.drop_document(str(name))
    return JSONResponse({"success": True, "message": "Documents removed successfully"})


async def remove_folder(request: Request) -> Response:
    """``DELETE /v1/document/remove-folder``: success also for what is not there, and for the folder of uploads."""
    world, name = world_of(request), (await json_of(request)).get("name")
    if isinstance(name, str) and name != CUSTOM and name in world.folders:
        for found in world.documents_in(name):
            world.drop_document(found.location)
        world.folders.pop(name)
    return JSONResponse({"success": True, "message": "Folder removed successfully"})
