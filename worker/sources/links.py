"""Documents behind http and https links, fetched without trusting the link, the name server or the server.

Every hop is checked before it is made (:mod:`worker.sources.targets`) and connected only to checked addresses
(:mod:`worker.sources.connecting`); redirects are followed here, and never from https to http. A body is bounded in
size, also after it is unpacked, and in time. Nothing is repeated: an error says whether the same call may work later.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httpx

from worker.retries import asked_to_wait
from worker.sources.addresses import Network
from worker.sources.connecting import CheckedBackend, CheckedTransport, Resolver, resolve
from worker.sources.errors import SourceError, shown
from worker.sources.names import name_of
from worker.sources.targets import target

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 30.0
_PIECE_BYTES = 64 * 1024
_LONGEST_HEADER = 500
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION})
_TRY_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
# One that we can unpack in bounded pieces; a server must not choose another when it is not offered.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "anythingllm-worker"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document that is being fetched.

    Attributes:
        name: a safe file name, with an ending where one can be told.
        chunks: its bytes, unpacked, in pieces of at most 64 KiB; may raise :class:`SourceError`.
        content_type: as the server says, ``""`` if it does not; at most 500 characters.
        final_url: where the redirects led. It may hold a secret: show it with :func:`worker.sources.errors.shown`.
        etag: the version, where the server tells one; at most 500 characters.
        size: in bytes, where the server tells it and the body is not packed.
    """

    name: str
    chunks: AsyncIterator[bytes] = field(repr=False)
    content_type: str
    final_url: str = field(repr=False)
    etag: str | None
    size: int | None


class LinkFetcher:
    """Fetches links, any number at a time; holds no connection in between.

    Args:
        max_bytes: of a document, unpacked; 1 or more.
        timeout_seconds: for all of a fetch, from its start to the last byte; more than 0. Connecting takes at most 10 s
            of them, and a silence of 30 s ends a fetch sooner.
        allow_private: networks that may be reached although they are not public. A cloud's metadata service never is.
        max_redirects: how many are followed, 0 or more.
        resolver: gives a host's addresses, instead of the system's.
        tls: verifies certificates, instead of the usual authorities.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_seconds: float,
        allow_private: Collection[Network] = (),
        max_redirects: int = 5,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if max_bytes < 1 or timeout_seconds <= 0 or max_redirects < 0:
            raise ValueError("max_bytes must be 1 or more, timeout_seconds more than 0, max_redirects 0 or more")
        self._max_bytes, self._max_redirects = max_bytes, max_redirects
        self._timeout_seconds = timeout_seconds
        self._timeout = httpx.Timeout(
            min(_SILENCE_SECONDS, timeout_seconds), connect=min(_CONNECT_SECONDS, timeout_seconds)
        )
        self._backend = CheckedBackend(resolver, allow_private)
        self._tls = tls or httpx.create_ssl_context(trust_env=False)

    @asynccontextmanager
    async def fetch(self, link: str, max_bytes: int | None = None) -> AsyncIterator[Fetched]:
        """Ask for a document, and give it while its bytes are still coming.

        Args:
            link: as a person wrote it.
            max_bytes: of this document, unpacked, where it may have fewer than others.

        Raises:
            SourceError: on entering, or while the chunks are read: ``link_invalid``, ``link_forbidden``,
                ``link_not_found``, ``link_too_large``, ``link_too_slow``, ``link_unreachable``.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        most = self._max_bytes if max_bytes is None else min(max_bytes, self._max_bytes)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=CheckedTransport(self._backend, self._tls),
                    headers=_HEADERS,
                    timeout=self._timeout,
                    trust_env=False,
                )
            )
            response = await self._follow(client, target(link), deadline)
            stack.push_async_callback(response.aclose)
            chunks = await stack.enter_async_context(aclosing(_chunks(response, most, deadline)))
            headers = response.headers
            yield Fetched(
                name=name_of(response.url, headers.get("content-disposition"), headers.get("content-type")),
                chunks=chunks,
                content_type=headers.get("content-type", "")[:_LONGEST_HEADER],
                final_url=str(response.url),
                etag=headers["etag"][:_LONGEST_HEADER] if "etag" in headers else None,
                size=_size(response, most),
            )

    async def _follow(self, client: httpx.AsyncClient, url: httpx.URL, deadline: float) -> httpx.Response:
        """Go from redirect to redirect until there is a document."""
        first = url
        for _ in range(self._max_redirects + 1):
            async with _translated(url, deadline):
                response = await client.send(client.build_request("GET", url), stream=True)
            if response.status_code in _GOOD:
                return response
            await response.aclose()
            if response.status_code not in _REDIRECTS:
                raise _refused(url, response)
            url = _next(url, response.headers.get("location", ""))
        raise SourceError("link_invalid", f"{shown(first)} redirects more than {self._max_redirects} times")


def _size(response: httpx.Response, max_bytes: int) -> int | None:
    """What the server says of the size; a document that is too large is refused before a byte of it is read.

    Raises:
        SourceError: ``link_too_large``, or ``link_invalid`` for an encoding that was not offered.
    """
    encoding = _encoding(response)
    if encoding not in ("", "gzip"):
        raise SourceError("link_invalid", f"{shown(response.url)} comes packed as {encoding[:20]}, not as gzip")
    told = response.headers.get("content-length", "")
    if encoding or not told.isascii() or not told.isdigit():
        return None
    if int(told) > max_bytes:
        raise _too_large(response, max_bytes)
    return int(told)


def _too_large(response: httpx.Response, max_bytes: int) -> SourceError:
    message = f"{shown(response.url)} is larger than {max_bytes:,} bytes: split it, or raise the limit"
    return SourceError("link_too_large", message)


async def _chunks(response: httpx.Response, max_bytes: int, deadline: float) -> AsyncGenerator[bytes, None]:
    packed = _Gunzip() if _encoding(response) else None
    received = size = 0
    async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as pieces:
        while True:
            async with _translated(response.url, deadline):
                piece = await anext(pieces, None)
            if piece is None:
                break
            received += len(piece)
            # Packed bytes may unpack to nothing at all, for ever; gzip makes nothing larger by more than a little.
            if received > max_bytes + max_bytes // 100 + _PIECE_BYTES:
                raise _too_large(response, max_bytes)
            try:
                for chunk in packed.unpack(piece) if packed is not None else (piece,):
                    size += len(chunk)
                    if size > max_bytes:
                        raise _too_large(response, max_bytes)
                    yield chunk
            except zlib.error as error:
                raise SourceError("link_invalid", f"{shown(response.url)} is packed wrongly: {error}") from error
    if packed is not None and not packed.ended:
        raise _broken(response.url)


class _Gunzip:
    """Unpacks gzip in pieces of at most 64 KiB, whatever they were packed into."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def ended(self) -> bool:
        return self._member.eof

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        while True:
            if self._member.eof:
                if not packed.startswith(b"\x1f"):
                    return  # padding
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            chunk = self._member.decompress(packed, _PIECE_BYTES)
            if chunk:
                yield chunk
            packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if not packed and len(chunk) < _PIECE_BYTES:
                return


def _encoding(response: httpx.Response) -> str:
    told = str(response.headers.get("content-encoding", "")).strip().lower()
    return {"identity": "", "x-gzip": "gzip"}.get(told, told)


def _next(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads.

    Raises:
        SourceError: nowhere, or to where no link may lead.
    """
    if not location:
        raise SourceError("link_invalid", f"{shown(url)} redirects to nowhere")
    try:
        following = target(str(url.join(location)))
    except httpx.InvalidURL as error:
        raise SourceError("link_invalid", f"{shown(url)} redirects to what is not a URL") from error
    if url.scheme == "https" and following.scheme == "http":
        raise SourceError("link_forbidden", f"{shown(url)} redirects from https to http: {shown(following)}")
    return following


def _refused(url: httpx.URL, response: httpx.Response) -> SourceError:
    status = response.status_code
    answer = f"{shown(url)} answered {status}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRY_LATER:
        return SourceError(
            "link_unreachable",
            f"{answer}: try again later",
            transient=True,
            retry_after=asked_to_wait(response.headers),
        )
    if status >= HTTPStatus.BAD_REQUEST:
        return SourceError("link_not_found", f"{answer}: is the link right, and may everybody read it?")
    return SourceError("link_invalid", f"{answer}, which is no document")


def _broken(url: httpx.URL) -> SourceError:
    return SourceError("link_unreachable", f"{shown(url)} broke off: try again later", transient=True)


@asynccontextmanager
async def _translated(url: httpx.URL, deadline: float) -> AsyncIterator[None]:
    """Keep the deadline, and turn what httpx raises into a :class:`SourceError`."""
    try:
        async with asyncio.timeout_at(deadline):
            with _connecting(url):
                yield
    except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
        message = f"{shown(url)} takes too long: try again later, or raise the limit"
        raise SourceError("link_too_slow", message, transient=True) from error
    except httpx.TransportError as error:
        raise _broken(url) from error
    except httpx.InvalidURL as error:
        raise SourceError("link_invalid", f"{shown(url)} is not a URL that can be asked for") from error


@contextmanager
def _connecting(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            message = f"{shown(url)} has a certificate that is not valid: ask its owner, or use another link"
            raise SourceError("link_unreachable", message) from error
        message = f"{shown(url)} cannot be reached: is its host right? Otherwise try again later"
        raise SourceError("link_unreachable", message, transient=True) from error
