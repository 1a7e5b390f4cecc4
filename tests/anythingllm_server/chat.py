"""Questions over HTTP (§5, §6): whole replies, streams, and the history; :mod:`.answering` finds the answers."""

import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tests.anythingllm_server.answering import AbortError, Asked, answer, forget, scope, whole
from tests.anythingllm_server.records import Chat, Thread, Workspace, new_id
from tests.anythingllm_server.requests import json_of, param, refused, world_of
from tests.anythingllm_server.workspaces import MODES


def _abort(status: int, error: str) -> Response:
    return JSONResponse(_abort_object(error), status)


def _abort_object(error: str) -> dict[str, Any]:
    told: dict[str, Any] = {"id": new_id(), "type": "abort", "textResponse": None, "sources": [], "close": True}
    return {**told, "error": error}


async def chat(request: Request) -> Response:
    """``POST /v1/workspace/:slug/chat``."""
    workspace = world_of(request).workspaces.get(slug := param(request, "slug"))
    if workspace is None:
        return _abort(400, f"Workspace {slug} is not a valid workspace.")
    return await _reply(request, workspace, None, "chat")


async def thread_chat(request: Request) -> Response:
    """``POST /v1/workspace/:slug/thread/:t/chat``: 404 where the workspace chat answers 400 (§6)."""
    world, slug = world_of(request), param(request, "slug")
    workspace, thread = world.workspaces.get(slug), world.threads.get(param(request, "thread"))
    if workspace is None or thread is None or thread.workspace_id != workspace.id:
        return _abort(404, f"Workspace {slug} or thread {param(request, 'thread')} is not valid.")
    return await _reply(request, workspace, thread, "thread-chat")


async def _reply(request: Request, workspace: Workspace, thread: Thread | None, route: str) -> Response:
    world = world_of(request)
    try:
        asked = await _asked(request, workspace, thread, route)
        if isinstance(asked, dict):
            return JSONResponse(asked)
        return JSONResponse(await answer(world, asked))
    except AbortError as abort:
        return _abort(abort.status, abort.error)


async def stream_chat(request: Request) -> Response:
    """``POST /v1/workspace/:slug/stream-chat``: once it streams, every error is an event (§5)."""
    world = world_of(request)
    workspace = world.workspaces.get(slug := param(request, "slug"))
    if workspace is None:
        return _abort(400, f"Workspace {slug} is not a valid workspace.")
    try:
        asked = await _asked(request, workspace, None, "stream-chat")
    except AbortError as abort:
        return _abort(abort.status, abort.error)

    async def events() -> AsyncIterator[bytes]:
        if isinstance(asked, dict):
            yield _event(asked)
            return
        try:
            told = await answer(world, asked)
        except AbortError as abort:
            yield _event(_abort_object(abort.error))
            return
        if "chatId" not in told:  # a refusal is one whole message and no more
            yield _event(told)
            return
        uuid = told["id"]
        for word in re.findall(r"\S+\s*", told["textResponse"]):
            yield _event(_piece(uuid, word, close=False))
        yield _event(_piece(uuid, "", close=True))  # the first of two ``close: true``
        last = {"uuid": uuid, "type": "finalizeResponseStream", "close": True, "error": False}
        yield _event({**last, **{name: told[name] for name in ("chatId", "metrics", "sources")}})

    return StreamingResponse(events(), media_type="text/event-stream")


def _event(message: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(message) + b"\n\n"


def _piece(uuid: str, piece: str, *, close: bool) -> dict[str, Any]:
    told = {"uuid": uuid, "sources": [], "type": "textResponseChunk", "textResponse": piece}
    return {**told, "close": close, "error": False}


async def _asked(request: Request, workspace: Workspace, thread: Thread | None, route: str) -> Asked | dict[str, Any]:
    """Read a question; a reset without one is answered at once.

    Raises:
        AbortError: the question cannot be asked.
    """
    world, body = world_of(request), await json_of(request)
    message, reset = body.get("message"), bool(body.get("reset"))
    session = None if thread is not None or body.get("sessionId") is None else str(body["sessionId"])
    mode = body.get("mode") or workspace.settings["chatMode"]
    if reset:
        forget(world, workspace, thread, session)
        if not message:
            return whole("Chat history was reset!")
    if isinstance(message, list) and message:
        raise AbortError(500, "promptString.startsWith is not a function")
    if not isinstance(message, str) or not message:
        raise AbortError(400, "Message is empty")
    if mode not in MODES and not reset:
        raise AbortError(400, f"{mode} is not a valid mode.")
    attachments = body.get("attachments")
    return Asked(workspace, message, mode, thread, session, route, attachments if isinstance(attachments, list) else [])


async def chats(request: Request) -> Response:
    """``GET /v1/workspace/:slug/chats``: of the workspace alone, or of a session with its refusals (§5)."""
    world = world_of(request)
    workspace = world.workspaces.get(param(request, "slug"))
    if workspace is None:
        raise refused(400)
    session = request.query_params.get("apiSessionId")
    limit = request.query_params.get("limit", "100")
    if not re.fullmatch(r"[1-9]\d{0,8}", limit):
        return JSONResponse({"history": []})
    kept = [each for each in scope(world, workspace, None, session) if each.included or session is not None]
    if request.query_params.get("orderBy") == "desc":
        kept.reverse()
    return JSONResponse({"history": history_of(kept[: int(limit)])})


def history_of(kept: list[Chat]) -> list[dict[str, Any]]:
    """Return chats as the API tells them: the question, then the answer."""
    return [
        message
        for each in kept
        for message in (
            {
                "role": "user",
                "content": each.question,
                "sentAt": each.sent_at,
                "attachments": [],
                "chatId": each.id,
            },
            {
                "type": each.kind,
                "role": "assistant",
                "content": each.answer,
                "sources": each.sources,
                "chatId": each.id,
                "sentAt": each.sent_at,
                "feedbackScore": None,
                "metrics": each.metrics,
            },
        )
    ]
