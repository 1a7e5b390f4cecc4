"""Workspaces and what stands in them (§2, §4)."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.anythingllm_server.counters import busy
from tests.anythingllm_server.embedding import score_of
from tests.anythingllm_server.embeddings import EmbedderDownError, call_embedder, embed
from tests.anythingllm_server.naming import workspace_slug
from tests.anythingllm_server.records import Workspace
from tests.anythingllm_server.requests import json_of, param, refused, text, world_of
from tests.anythingllm_server.world import World

REFUSAL = "There is no relevant information in this workspace to answer your query."
MODES = ("chat", "query", "automatic")
_LONGEST_NAME = 255
_DEFAULTS: dict[str, Any] = {
    "openAiTemp": None,
    "openAiHistory": 20,
    "openAiPrompt": "Given the following conversation, relevant context, and a follow up question, answer it.",
    "similarityThreshold": 0.25,
    "chatProvider": None,
    "chatModel": None,
    "topN": 4,
    "chatMode": "automatic",
    "agentProvider": None,
    "agentModel": None,
    "queryRefusalResponse": None,
    "vectorSearchMode": "default",
}


def _repaired(kind: Callable[[Any], float], least: float, most: float, otherwise: Any) -> Callable[[Any], Any]:
    """Return a function that makes a number of anything, as the real server does with bad values (§2)."""

    def repair(value: Any) -> Any:
        try:
            number = kind(value)
        except (TypeError, ValueError, OverflowError):
            return otherwise
        return kind(min(max(number, least), most))

    return repair


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


_REPAIRS: dict[str, Callable[[Any], Any]] = {
    "openAiTemp": _repaired(float, 0, 2, None),
    "openAiHistory": _repaired(int, 0, 10_000, 20),
    "similarityThreshold": _repaired(float, 0, 1, 0.25),
    "topN": _repaired(int, 1, 10_000, 4),
    "chatMode": lambda value: value if value in MODES else "automatic",
    "vectorSearchMode": lambda value: value if value in ("default", "rerank") else "default",
}


def _settings(sent: dict[str, Any]) -> dict[str, Any]:
    """Return those settings that a body gives, each repaired."""
    return {name: _REPAIRS[name](sent[name]) if name in _REPAIRS else _text(sent[name]) for name in _given(sent)}


def _given(sent: dict[str, Any]) -> list[str]:
    return [name for name in _DEFAULTS if name in sent]


def workspace_of(request: Request, status: int = 400) -> Workspace:
    """Return the workspace that the path names.

    Raises:
        RefusedError: bare text with ``status``; slugs are case-sensitive (§2).
    """
    workspace = world_of(request).workspaces.get(param(request, "slug"))
    if workspace is None:
        raise refused(status)
    return workspace


def _cut(name: str) -> str:
    """Cut a name as JavaScript does, in whose count an emoji has two characters (§2)."""
    return name.encode("utf-16-le", "replace")[: 2 * _LONGEST_NAME].decode("utf-16-le", "replace")


def _threads(world: World, workspace: Workspace, *names: str) -> list[dict[str, Any]]:
    threads = [thread.told for thread in world.threads if thread.workspace_id == workspace.id]
    return [{name: thread[name] for name in names} for thread in threads]


def _with_documents(world: World, workspace: Workspace) -> dict[str, Any]:
    return {**workspace.told, "documents": [row.told for row in world.rows(workspace)]}


async def new(request: Request) -> Response:
    """``POST /v1/workspace/new``: the same name makes a second workspace (§2)."""
    world, body = world_of(request), await json_of(request)
    name = body.get("name")
    if not name:
        raise refused(400, workspace=None, message="name cannot be null")
    if not isinstance(name, str):
        raise refused(500)
    slug = workspace_slug(name, world.workspaces, world.chance)
    settings = {**_DEFAULTS, **_settings(body)}
    workspace = Workspace(id=world.number(), name=_cut(name), slug=slug, settings=settings)
    world.workspaces.put(slug, workspace)
    return JSONResponse({"workspace": workspace.told, "message": None})


async def every(request: Request) -> Response:
    """``GET /v1/workspaces``: without documents."""
    world = world_of(request)
    told = [
        {**workspace.told, "threads": _threads(world, workspace, "user_id", "slug", "name")}
        for workspace in world.workspaces
    ]
    return JSONResponse({"workspaces": told})


async def one(request: Request) -> Response:
    """``GET /v1/workspace/:slug``: a list, empty for an unknown slug (§2)."""
    world = world_of(request)
    workspace = world.workspaces.get(param(request, "slug"))
    if workspace is None:
        return JSONResponse({"workspace": []})
    told = {**_with_documents(world, workspace), "threads": _threads(world, workspace, "user_id", "slug")}
    return JSONResponse({"workspace": [told]})


async def update(request: Request) -> Response:
    """``POST /v1/workspace/:slug/update``: the slug stays whatever the name becomes (§2)."""
    world, workspace, body = world_of(request), workspace_of(request), await json_of(request)
    changes = _settings(body)
    name = body.get("name")
    renamed = isinstance(name, str) and bool(name)
    if not changes and not renamed:
        return JSONResponse({"workspace": {"id": workspace.id}, "message": "No valid fields to update!"})
    changed = workspace.model_copy(
        update={
            "settings": {**workspace.settings, **changes},
            "name": _cut(str(name)) if renamed else workspace.name,
        }
    )
    world.workspaces.put(workspace.slug, changed)
    return JSONResponse({"workspace": changed.told, "message": None})


async def delete(request: Request) -> Response:
    """``DELETE /v1/workspace/:slug``: its documents stay on disk (§2)."""
    world = world_of(request)
    if world.behaviour.deletion_protection:
        raise refused(403, success=False, error="Workspace deletion is blocked by the system administrator.")
    world.drop_workspace(workspace_of(request))
    return text(200)


async def update_embeddings(request: Request) -> Response:
    """``POST /v1/workspace/:slug/update-embeddings``: deletes, then adds, and success whatever happened (§4)."""
    world, workspace, body = world_of(request), workspace_of(request), await json_of(request)
    adds, deletes = body.get("adds", []), body.get("deletes", [])
    for locations in (deletes, adds):
        if not isinstance(locations, list):
            raise refused(500)
    for location in deletes:
        world.drop_row(workspace, str(location))
    good = [location for location in adds if isinstance(location, str)]
    await embed(world, workspace, good if good == adds else adds[: _first_bad(adds)], "update-embeddings")
    if good != adds:
        raise refused(500)  # what stood before the bad entry is done (§4)
    told = {**_with_documents(world, workspace), "contextWindow": 8192, "currentContextTokenCount": 0}
    return JSONResponse({"workspace": told})


def _first_bad(adds: list[Any]) -> int:
    return next(position for position, location in enumerate(adds) if not isinstance(location, str))


async def update_pin(request: Request) -> Response:
    """``POST /v1/workspace/:slug/update-pin`` (§5)."""
    world, workspace, body = world_of(request), workspace_of(request, 500), await json_of(request)
    row = next((row for row in world.rows(workspace) if row.location == body.get("docPath")), None)
    if row is None:
        raise refused(404)
    world.put_row(row.model_copy(update={"pinned": bool(body.get("pinStatus"))}))
    return JSONResponse({"message": "Pin status updated successfully"})


def _most(world: World, workspace: Workspace, wanted: int) -> int:
    """Return how many passages a search tells: one that reranks looks at 10 to 50, however many are wanted."""
    if workspace.settings["vectorSearchMode"] != "rerank":
        return wanted
    return min(wanted, max(10, min(50, math.ceil(world.vector_count(workspace.slug) * 0.1))))


async def vector_search(request: Request) -> Response:
    """``POST /v1/workspace/:slug/vector-search`` (§5)."""
    world, body = world_of(request), await json_of(request)
    workspace = world.workspaces.get(param(request, "slug"))
    query = body.get("query")
    if workspace is None:
        raise refused(400, message=f"Workspace {param(request, 'slug')} is not a valid workspace.")
    if not isinstance(query, str) or not query:
        raise refused(400, message="Query parameter cannot be empty.")
    if not world.vector_count(workspace.slug):
        return JSONResponse({"results": [], "message": "No embeddings found for this workspace."})
    settings = workspace.settings | _settings(
        {
            theirs: body[ours]
            for ours, theirs in (("topN", "topN"), ("scoreThreshold", "similarityThreshold"))
            if ours in body
        }
    )
    try:
        question = await call_embedder(world, query)
    except EmbedderDownError as error:
        raise refused(500) from error  # only a chat tells why (§10)
    if not world.takes_vectors(workspace.slug):
        raise refused(500)
    seconds = world.behaviour.search_seconds
    seconds += world.behaviour.search_seconds_a_document * len(world.rows(workspace))
    if seconds:
        async with world.searching:
            await asyncio.sleep(seconds)
        busy(world.counters, "search", seconds)
    results = [
        {
            "id": stored.id,
            "text": stored.text,
            "metadata": {
                **{key: stored.facts[key] for key in ("url", "title", "description", "docSource", "chunkSource")},
                "author": stored.facts["docAuthor"],
                "published": stored.facts["published"],
                "wordCount": stored.facts["wordCount"],
                "tokenCount": stored.facts["token_count_estimate"],
            },
            "distance": distance,
            "score": score_of(distance),
        }
        for stored, distance in world.search(workspace.slug, question, _most(world, workspace, settings["topN"]))
        if score_of(distance) >= settings["similarityThreshold"]
    ]
    return JSONResponse({"results": results})
