"""The ASGI application: every route by name, the rules for paths, and the door for the tests."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.anythingllm_server import chat, documents, threads, uploads, workspaces
from tests.anythingllm_server.behaviour import Behaviour
from tests.anythingllm_server.counters import Counters
from tests.anythingllm_server.embeddings import EmbedderDownError, call_embedder
from tests.anythingllm_server.faults import Faulty
from tests.anythingllm_server.records import Workspace
from tests.anythingllm_server.requests import Handler, json_of, page, text, world_of
from tests.anythingllm_server.world import World

_V1 = "/api/v1"
_ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/workspace/new", "workspace-new", workspaces.new),
    ("GET", "/workspaces", "workspaces", workspaces.every),
    ("GET", "/workspace/{slug}", "workspace", workspaces.one),
    ("DELETE", "/workspace/{slug}", "workspace-delete", workspaces.delete),
    ("POST", "/workspace/{slug}/update", "workspace-update", workspaces.update),
    ("POST", "/workspace/{slug}/update-embeddings", "update-embeddings", workspaces.update_embeddings),
    ("POST", "/workspace/{slug}/update-pin", "update-pin", workspaces.update_pin),
    ("POST", "/workspace/{slug}/vector-search", "vector-search", workspaces.vector_search),
    ("POST", "/workspace/{slug}/chat", "chat", chat.chat),
    ("POST", "/workspace/{slug}/stream-chat", "stream-chat", chat.stream_chat),
    ("GET", "/workspace/{slug}/chats", "chats", chat.chats),
    ("POST", "/workspace/{slug}/thread/new", "thread-new", threads.new),
    ("POST", "/workspace/{slug}/thread/{thread}/update", "thread-update", threads.update),
    ("DELETE", "/workspace/{slug}/thread/{thread}", "thread-delete", threads.delete),
    ("GET", "/workspace/{slug}/thread/{thread}/chats", "thread-chats", threads.chats),
    ("POST", "/workspace/{slug}/thread/{thread}/chat", "thread-chat", chat.thread_chat),
    ("POST", "/document/upload", "upload", uploads.upload),
    ("POST", "/document/upload/{folder}", "upload-to-folder", uploads.upload_to_folder),
    ("POST", "/document/raw-text", "raw-text", uploads.raw_text),
    ("POST", "/document/upload-link", "upload-link", uploads.upload_link),
    ("GET", "/documents", "documents", documents.documents),
    ("GET", "/documents/folder/{folder}", "documents-folder", documents.folder),
    ("GET", "/document/accepted-file-types", "accepted-file-types", documents.accepted_file_types),
    ("GET", "/document/metadata-schema", "metadata-schema", documents.metadata_schema),
    ("GET", "/document/{name}", "document", documents.document),
    ("POST", "/document/create-folder", "create-folder", documents.create_folder),
    ("POST", "/document/move-files", "move-files", documents.move_files),
    ("DELETE", "/document/remove-folder", "remove-folder", documents.remove_folder),
    ("DELETE", "/system/remove-documents", "remove-documents", documents.remove_documents),
)


async def _ping(_request: Request) -> Response:
    return JSONResponse({"online": True})


async def _auth(_request: Request) -> Response:
    return JSONResponse({"authenticated": True})


async def _vector_count(request: Request) -> Response:
    return JSONResponse({"vectorCount": world_of(request).vector_count()})


async def _models(request: Request) -> Response:
    told = [{"id": workspace.slug, "object": "model", "owned_by": "anythingllm"} for workspace in _spaces(request)]
    return JSONResponse({"object": "list", "data": told})


async def _embeddings(request: Request) -> Response:
    """``POST /v1/openai/embeddings``: the server's embedder (§7)."""
    sent = (await json_of(request)).get("input")
    texts = [sent] if isinstance(sent, str) else sent
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) for each in texts):
        return text(500)
    try:
        await call_embedder(world_of(request), texts[0])  # one call for all of them
    except EmbedderDownError:
        return Response(status_code=500)
    length = world_of(request).behaviour.embedder_dimensions
    vectors = [world_of(request).vector(each)[:length].tolist() for each in texts]
    told = [{"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(vectors)]
    return JSONResponse({"object": "list", "data": told, "model": "hashed-words"})


async def _vector_stores(request: Request) -> Response:
    """``GET /v1/openai/vector_stores``: a cheap count of the rows of each workspace (§7)."""
    world = world_of(request)
    told = [
        {
            "id": workspace.slug,
            "object": "vector_store",
            "name": workspace.name,
            "file_counts": {"total": len(world.rows(workspace))},
            "provider": "LanceDB",
        }
        for workspace in _spaces(request)
    ]
    return JSONResponse({"data": told})


def _spaces(request: Request) -> list[Workspace]:
    return list(world_of(request).workspaces)


async def _control(request: Request) -> Response:
    """The tests' own door: ``GET`` tells, ``POST`` changes the behaviour, ``DELETE`` sets the counters to zero."""
    world = world_of(request)
    if request.method == "DELETE":
        world.counters = Counters()
    if request.method == "POST":
        try:
            world.change(await request.json())
        except (ValueError, TypeError) as error:  # pydantic's errors are ValueErrors
            return JSONResponse({"error": str(error)}, 422)
    return JSONResponse(
        {"behaviour": world.behaviour.model_dump(mode="json"), "counters": world.counters.model_dump(mode="json")}
    )


class _ExactRoute(Route):
    """A route that leaves a path with another method to the routes after it: unknown methods get the page (§1)."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (match, child) if match is Match.FULL else (Match.NONE, {})


class _Paths:
    """Looks at paths as Express does: still encoded; a last slash, and a second one behind ``/api``, are forgiven.

    A double slash elsewhere is another path, and so the page's (§1).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = bytes(scope["raw_path"]).decode("ascii", "replace")
            scope = {**scope, "path": re.sub("^/api/+", "/api/", raw).removesuffix("/") or "/"}
        await self._app(scope, receive, send)


async def _anything(scope: Scope, receive: Receive, send: Send) -> None:
    await page()(scope, receive, send)


def make_app(behaviour: Behaviour, state: Path | None = None) -> ASGIApp:
    """Return the application of one server.

    Args:
        behaviour: how it behaves at first.
        state: the folder that outlives a restart; ``None``: nothing does.

    Raises:
        ValueError: a fault names an unknown route.
    """

    def route(method: str, path: str, name: str, handler: Handler, *, needs_key: bool = True) -> Route:
        return _ExactRoute(path, Faulty(name, handler, needs_key=needs_key), methods=[method], name=name)

    api = [
        route("GET", "/api/ping", "ping", _ping, needs_key=False),
        route("GET", f"{_V1}/auth", "auth", _auth),
        *(route(method, _V1 + path, name, handler) for method, path, name, handler in _ROUTES),
        route("GET", f"{_V1}/system/vector-count", "vector-count", _vector_count),
        route("GET", f"{_V1}/openai/models", "openai-models", _models),
        route("POST", f"{_V1}/openai/embeddings", "openai-embeddings", _embeddings),
        route("GET", f"{_V1}/openai/vector_stores", "openai-vector-stores", _vector_stores),
    ]
    world = World(behaviour, frozenset(each.name for each in api), state)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        world.close()

    door = _ExactRoute("/_control", _control, methods=["GET", "POST", "DELETE"])
    app = Starlette(routes=[door, *api], lifespan=lifespan)
    app.state.world = world
    app.router.default = _anything
    app.router.redirect_slashes = False
    return _Paths(app)
