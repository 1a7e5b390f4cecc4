"""What stands before each handler: its counts, the random latency, and the faults that are drawn for a request.

A dropped connection is a real one: uvicorn copies a connection's state into each of its requests, and here that state
holds the connection itself (:class:`DroppableProtocol`).
"""

import asyncio
import socket
from asyncio import AbstractEventLoop
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tests.anythingllm_server.behaviour import FaultKind
from tests.anythingllm_server.counters import add
from tests.anythingllm_server.embeddings import KilledError
from tests.anythingllm_server.requests import Handler, RefusedError, page, world_of

_CONNECTION = "connection"
_PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


class DroppableProtocol(H11Protocol):
    """HTTP/1.1 whose requests can reach their connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, _CONNECTION: self}, _loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # asyncio does this itself only for sockets that name their protocol, and those accepted from
        # `socket.create_server` do not: each reply would wait 40 ms for the client's acknowledgement of its head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Faulty:
    """One route of the API: a handler and whatever may go wrong with it.

    Args:
        name: of the route, for counters and faults.
        handler: answers the request.
        needs_key: an API key is asked for before anything of the request is read (§1).
    """

    def __init__(self, name: str, handler: Handler, *, needs_key: bool = True) -> None:
        self._name, self._handler, self._needs_key = name, handler, needs_key
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        counters = world_of(request).counters
        add(counters.requests, self._name)
        self._under_way += 1
        counters.most_at_once[self._name] = max(counters.most_at_once.get(self._name, 0), self._under_way)
        try:
            if world_of(request).is_down:
                await request.body()
                await _drop(request)
            else:
                await self._answer(request, scope, receive, send)
        except KilledError:
            await _drop(request)
        except ClientDisconnect:
            return  # the client left in mid-request: nothing was done (§3.5), and nobody waits for a reply
        finally:
            self._under_way -= 1

    async def _answer(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        world = world_of(request)
        if world.behaviour.latency_seconds:
            await asyncio.sleep(world.chance.uniform(0, world.behaviour.latency_seconds))
        for window in (FaultKind.COLLECTOR_DOWN, FaultKind.EMBEDDER_DOWN):
            if world.draw(window, self._name):
                world.open_window(window)
        # All are drawn before the work, so that the sequence does not hang on what the work does.
        drawn = next((kind for kind in _DRAWN if world.draw(kind, self._name)), None)
        if drawn is FaultKind.DROP_BEFORE:
            await request.body()  # like a proxy that fails once it has the request
            return await _drop(request)
        if drawn in _INSTEAD:
            await request.body()
            return await _INSTEAD_OF[drawn](request)(scope, receive, send)
        reply = await self._work(request)
        if drawn is FaultKind.DROP_AFTER or world.is_down:
            return await _drop(request)
        if drawn is FaultKind.SLOW and await _client_leaves(request, world.behaviour.slow_seconds):
            return None
        if drawn is FaultKind.TRUNCATED_JSON and isinstance(reply, JSONResponse):
            reply = Response(
                bytes(reply.body[: len(reply.body) // 2]), reply.status_code, media_type="application/json"
            )
        if drawn is FaultKind.DROP_MIDWAY and isinstance(reply, JSONResponse):
            await send({"type": "http.response.start", "status": reply.status_code, "headers": reply.raw_headers})
            await send({"type": "http.response.body", "body": reply.body[: len(reply.body) // 2], "more_body": True})
            return await _drop(request, abort=False)
        await reply(scope, receive, send)
        return None

    async def _work(self, request: Request) -> Response:
        if self._needs_key and not _has_key(request):
            return JSONResponse({"error": "No valid api key found."}, 403)
        try:
            return await self._handler(request)
        except RefusedError as refusal:
            return refusal.reply


def _has_key(request: Request) -> bool:
    # Only the second word is looked at, whatever the first says (§1).
    words = request.headers.get("authorization", "").split(" ")
    return len(words) > 1 and words[1] == world_of(request).behaviour.api_key


async def _drop(request: Request, *, abort: bool = True) -> None:
    """Close the connection; return once that has happened, so that nothing more is sent on it."""
    connection: DroppableProtocol = request.scope["state"][_CONNECTION]
    if abort:
        connection.transport.abort()
    else:
        connection.transport.close()  # what was sent so far still arrives
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _client_leaves(request: Request, seconds: float) -> bool:
    """Wait; return ``True`` as soon as the client has closed the connection, ``False`` when the time is over."""
    try:
        async with asyncio.timeout(seconds):
            await request.body()  # a handler that refused early has not read it
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _retry_after(request: Request) -> Response:
    seconds = world_of(request).behaviour.retry_after_seconds
    return PlainTextResponse("Too Many Requests", 429, {"Retry-After": str(seconds)})


_INSTEAD_OF = {
    FaultKind.HTML_200: lambda _: page(),
    FaultKind.HTTP_500: lambda _: PlainTextResponse("Internal Server Error", 500),
    FaultKind.HTTP_502: lambda _: HTMLResponse(_PROXY_PAGE, 502),
    FaultKind.HTTP_429: _retry_after,
}
_INSTEAD = frozenset(_INSTEAD_OF)
_DRAWN = (
    FaultKind.DROP_BEFORE,
    *_INSTEAD_OF,
    FaultKind.DROP_AFTER,
    FaultKind.DROP_MIDWAY,
    FaultKind.SLOW,
    FaultKind.TRUNCATED_JSON,
)
