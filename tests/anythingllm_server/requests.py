"""What handlers share: reading a request as Express does, refusing it, and the world behind it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from tests.anythingllm_server.world import World

Handler = Callable[[Request], Awaitable[Response]]

BAD_REQUEST = 400
_TEXTS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 500: "Internal Server Error"}


class RefusedError(Exception):
    """A handler's reply in place of what was asked for."""

    def __init__(self, reply: Response) -> None:
        super().__init__(reply.status_code)
        self.reply = reply


def text(status: int) -> Response:
    """Return Express's ``sendStatus``: the status in words, as bare text (§1)."""
    return PlainTextResponse(_TEXTS[status], status)


def refused(status: int, **body: Any) -> RefusedError:
    """Return an error for a JSON body, or for bare text where there is none."""
    return RefusedError(JSONResponse(body, status) if body else text(status))


def page() -> Response:
    """Return the single-page app: what answers every unknown path (§1)."""
    return HTMLResponse("<!DOCTYPE html>\n<html><head><title>AnythingLLM</title></head><body></body></html>\n")


def world_of(request: Request) -> World:
    world: World = request.app.state.world
    return world


def param(request: Request, name: str) -> str:
    """Return a part of the path, decoded only now: ``%2F`` in it is no border of the path."""
    return unquote(str(request.path_params[name]))


async def json_of(request: Request) -> dict[str, Any]:
    """Return the body as an object; without a body, or with another kind of it, an empty one.

    Raises:
        RefusedError: 400 of the body parser for what is no JSON (§1); 500 for JSON that is no object.
    """
    content_type = request.headers.get("content-type", "")
    body = await request.body()
    if not body or not ("json" in content_type or content_type.startswith("text/")):
        return {}
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise RefusedError(HTMLResponse("Bad Request", BAD_REQUEST)) from error
    if not isinstance(parsed, dict):
        raise refused(500)
    return parsed
