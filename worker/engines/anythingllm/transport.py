"""One HTTP call to AnythingLLM: bounded in time and bytes, with its reply abridged, and its JSON parsed.

Promise: :meth:`Transport.send` returns JSON or raises; a page of the web interface (which a wrong base URL answers,
with 200) is never taken for a reply, and neither the API key nor the URL's credentials reach an error, a log or a
``repr``. What a status or a text means is :mod:`worker.engines.anythingllm.errors`'s affair, and making a call again
its caller's.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final, TypeVar

import httpx
from pydantic import SecretStr

from worker.engines.anythingllm.abridging import Abridger
from worker.engines.anythingllm.errors import DELETE, TroubleError, judge, unavailable
from worker.engines.base import EngineRefusedError
from worker.retries import asked_to_wait

_CONNECT_SECONDS: Final = 10.0
_MOST_CONNECTIONS: Final = 100
_IDLE_SECONDS: Final = 4.0  # the server closes what is idle for 5
_CHUNK: Final = 256 * 1024
_PIECES_A_READ: Final = 16  # of 64 KiB: a mebibyte is read, and held, at a time
_OK: Final = 200
_REDIRECTS: Final = range(300, 400)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and what is said of it, as a form."""

    name: str
    media_type: str
    file: BinaryIO = field(repr=False)
    metadata: str


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked.

    Attributes:
        name: what errors call it, and the table knows it by.
        method, path: ``path`` begins after ``/api``.
        subject: the document or workspace it is about, for errors.
        seconds: bound on the whole call.
        keep: characters that are kept of each string of the reply.
        body: sent as JSON.
        upload: sent as a form.
        missing_is_none: 404, but not with a page, means that there is nothing: ``None`` is returned.
    """

    name: str
    method: str
    path: str
    subject: str
    seconds: float
    keep: int = 300
    body: dict[str, Any] | None = None
    upload: Upload | None = None
    missing_is_none: bool = False


class Transport:
    """The connections to one server.

    Attributes:
        url: the base URL as it may be shown: without user, password, query or trailing slash.

    Args:
        url: with or without ``/`` at its end, usually ending in ``/api``.
        api_key: one of the server's.
        max_reply_bytes: bound on the size of a reply as it arrives.
        max_kept_bytes: bound on the size of a reply once it is abridged.

    Raises:
        ValueError: ``url`` is no HTTP URL, or the key cannot stand in a header.
    """

    def __init__(
        self,
        url: str,
        api_key: SecretStr,
        *,
        max_reply_bytes: int = 2 * 2**30,
        max_kept_bytes: int = 64 * 2**20,
    ) -> None:
        self.url = _shown(url)
        key = api_key.get_secret_value().strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("ANYTHINGLLM_API_KEY is not a key: copy it from AnythingLLM's settings, Developer API")
        self._key = SecretStr(key)
        self._max_reply_bytes, self._max_kept_bytes = max_reply_bytes, max_kept_bytes
        self._has_answered = False
        self._client = httpx.AsyncClient(
            base_url=self.url + "/",
            headers={"Authorization": f"Bearer {key}", "Accept": "application/json"},
            limits=httpx.Limits(
                max_connections=_MOST_CONNECTIONS,
                max_keepalive_connections=_MOST_CONNECTIONS,
                keepalive_expiry=_IDLE_SECONDS,
            ),
            follow_redirects=False,
        )

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    async def send(self, call: Call) -> Any:
        """Make one call, once, and return the JSON of its reply.

        Raises:
            TroubleError: it went wrong in a way that passes; what it asked for may have been done. A page is that only
                where the API has answered before; on a first call it is a wrong URL.
            EngineError: it was refused; see :mod:`worker.engines.anythingllm.errors`.
        """
        try:
            async with asyncio.timeout(call.seconds):
                response, body = await self._exchange(call)
        except (TimeoutError, httpx.TimeoutException):
            raise TroubleError(f"{call.name}: no reply from {self.url} within {call.seconds:.0f} s") from None
        except httpx.TransportError as error:
            # Its text may hold the URL with what was asked; its name says enough.
            raise TroubleError(f"{call.name}: {self.url} does not answer ({type(error).__name__})") from None
        return self._sorted(call, response, body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _request(self, call: Call) -> httpx.Request:
        # The server says nothing until all is done, so reading may take as long as the call.
        phases = httpx.Timeout(call.seconds, connect=min(_CONNECT_SECONDS, call.seconds))
        form: dict[str, Any] = {}
        if call.upload is not None:
            form["files"] = {"file": (call.upload.name, call.upload.file, call.upload.media_type)}
            form["data"] = {"metadata": call.upload.metadata}
        elif call.body is not None:
            # What is no character (half a pair, from an old archive's names or a cut text) becomes a question mark.
            form["content"] = json.dumps(call.body, ensure_ascii=False).encode("utf-8", "replace")
            form["headers"] = {"Content-Type": "application/json"}

        def build() -> httpx.Request:
            return self._client.build_request(call.method, call.path.lstrip("/"), timeout=phases, **form)

        if call.upload is None:
            return build()
        request = await _in_thread(build)  # it asks the file for its size
        request.stream = _Reading(request)
        return request

    async def _exchange(self, call: Call) -> tuple[httpx.Response, bytes]:
        request = await self._request(call)
        abridger, kept, arrived, size = Abridger(call.keep), list[bytes](), 0, 0
        async with aclosing(await self._client.send(request, stream=True)) as response:
            async for chunk in response.aiter_bytes(_CHUNK):
                arrived += len(chunk)
                part = abridger.feed(chunk)
                size += len(part)
                if arrived > self._max_reply_bytes or size > self._max_kept_bytes:
                    raise EngineRefusedError(
                        "refused",
                        f"{call.subject}: the reply to {call.name} is larger than {self._max_reply_bytes:,} bytes "
                        f"({self._max_kept_bytes:,} once abridged): is {self.url} AnythingLLM?",
                    )
                kept.append(part)
        kept.append(abridger.finish())
        return response, b"".join(kept)

    def _sorted(self, call: Call, response: httpx.Response, body: bytes) -> Any:
        status = response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        reply = _parsed(body) if kind == "application/json" else None
        if reply is not None:
            self._has_answered = True
            if status == _OK:
                return reply
        if status == _OK and kind == "application/json":
            raise TroubleError(f"{call.name}: the reply of {self.url} is cut off")
        if status == _OK and call.name == DELETE and kind == "text/plain":
            return {}  # the one call that answers "OK"
        if status == httpx.codes.NOT_FOUND and call.missing_is_none and kind in {"application/json", "text/plain"}:
            return None
        if (status in {_OK, httpx.codes.NOT_FOUND} and kind == "text/html") or status in _REDIRECTS:
            refused = EngineRefusedError(
                "not_the_api",
                f"{self.url} answers, but is not AnythingLLM's API: is /api missing from ANYTHINGLLM_URL?",
            )
            if not self._has_answered:
                raise refused
            # The API has answered here before, so the URL is right: a proxy puts its page in between for a moment.
            raise TroubleError(f"{call.name}: a page instead of a reply from {self.url}", refused)
        said = _in_our_words(self._said(reply, body, kind), call)
        raise judge(call.name, status, said, call.subject, asked_to_wait(response.headers))

    def _said(self, reply: Any, body: bytes, kind: str) -> str:
        """The words of a reply that is no success, without the key."""
        if isinstance(reply, dict):
            said = next((str(reply[name]) for name in ("error", "message") if reply.get(name)), "")
        else:
            said = body[:1_000].decode("utf-8", "replace") if kind == "text/plain" else ""
        return said.replace(self._key.get_secret_value(), "***")


def _in_our_words(said: str, call: Call) -> str:
    """What the server says of an upload's name, or of a path to it, said of the document that a person knows."""
    if call.upload is None:
        return said
    path = r"(?<![^\s'\"])[^\s'\"]{0,500}/"
    return re.sub(rf"(?:{path})?{re.escape(call.upload.name)}", lambda _: call.subject, said)


class _Reading(httpx.AsyncByteStream):
    """A form whose file is read in a thread: httpx reads it in the event loop, and a file may be far away.

    Args:
        request: as httpx built it, with the form as its body.
    """

    def __init__(self, request: httpx.Request) -> None:
        if not isinstance(request.stream, httpx.SyncByteStream):  # pragma: no cover - httpx makes forms of both kinds
            raise TypeError(f"{request.method} {request.url.path}: its body cannot be read in a thread")
        self._form = request.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self._form)
        while block := await _in_thread(lambda: _joined(pieces)):
            yield block


def _joined(pieces: Iterator[bytes]) -> bytes:
    return b"".join(islice(pieces, _PIECES_A_READ))


async def _in_thread(work: Callable[[], T]) -> T:
    """Do ``work`` in a thread, and see its end also where this is given up: its file is then closed, or read again."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait({doing})
        raise


def failure(call: Call, reply: Any) -> Exception:
    """Return what to raise for a reply of 200 that says itself that it failed, or that is not as it should be."""
    said = next((str(reply[name]) for name in ("error", "message") if reply.get(name)), "") if reply else ""
    if said:
        return judge(call.name, _OK, _in_our_words(said, call), call.subject)
    return unavailable(f"{call.subject}: AnythingLLM's reply to {call.name} is not as its API describes it")


def _parsed(body: bytes) -> Any:
    """The JSON, or ``None`` if it is cut off. What is no character becomes one: a text may be cut within a pair."""
    try:
        parsed = json.loads(body)
        if b"\\ud" in body.lower():
            parsed = json.loads(json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return parsed


def _shown(url: str) -> str:
    try:
        parts = httpx.URL(url.strip())
    except httpx.InvalidURL:
        raise ValueError("ANYTHINGLLM_URL is not a URL; it looks like http://host:3001/api") from None
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ValueError("ANYTHINGLLM_URL needs http:// or https:// and a host; it looks like http://host:3001/api")
    return str(parts.copy_with(username=None, password=None, query=None, fragment=None)).rstrip("/")
