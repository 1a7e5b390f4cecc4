"""Threads: conversations of their own (§6)."""

from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.anythingllm_server.chat import history_of
from tests.anythingllm_server.naming import slugify
from tests.anythingllm_server.records import Thread
from tests.anythingllm_server.requests import json_of, param, text, world_of
from tests.anythingllm_server.workspaces import workspace_of


def _thread_of(request: Request) -> Thread | None:
    thread = world_of(request).threads.get(param(request, "thread"))
    return thread if thread is not None and thread.workspace_id == workspace_of(request).id else None


async def new(request: Request) -> Response:
    """``POST .../thread/new``: a slug that is taken is told with 200 and no thread (§6)."""
    world, workspace, body = world_of(request), workspace_of(request), await json_of(request)
    slug = slugify(str(body["slug"])) if body.get("slug") else str(uuid4())
    if slug in world.threads:
        message = "Invalid `prisma.workspace_threads.create()`: Unique constraint failed on the fields: (`slug`)"
        return JSONResponse({"thread": None, "message": message})
    thread = Thread(id=world.number(), name=str(body.get("name") or "Thread"), slug=slug, workspace_id=workspace.id)
    world.threads.put(slug, thread)
    return JSONResponse({"thread": thread.told, "message": None})


async def update(request: Request) -> Response:
    """``POST .../thread/:t/update``."""
    thread = _thread_of(request)
    if thread is None:
        return JSONResponse({"message": "Thread not found"}, 404)
    name = (await json_of(request)).get("name")
    changed = thread.model_copy(update={"name": str(name) if name else thread.name})
    world_of(request).threads.put(thread.slug, changed)
    return JSONResponse({"thread": changed.told, "message": None})


async def delete(request: Request) -> Response:
    """``DELETE .../thread/:t``: ``OK`` also for what is not there."""
    world = world_of(request)
    if (thread := _thread_of(request)) is not None:
        world.threads.pop(thread.slug)
        for each in [each for each in world.chats if each.thread == thread.slug]:
            world.chats.pop(str(each.id))
    return text(200)


async def chats(request: Request) -> Response:
    """``GET .../thread/:t/chats``: without refusals."""
    thread = _thread_of(request)
    if thread is None:
        return JSONResponse({"message": "Thread not found"}, 404)
    kept = [each for each in world_of(request).chats if each.thread == thread.slug and each.included]
    return JSONResponse({"history": history_of(kept)})
