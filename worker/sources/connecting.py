"""Connections that lead where they were checked to lead.

A host's addresses are resolved here, once, *every* one of them is checked, and the connection is made to a checked
address itself: a name that answers differently the second time (DNS rebinding) is not asked a second time. TLS
still verifies the certificate against the host's name. Proxies of the environment are not used: behind one, the proxy
would resolve the name.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from ipaddress import ip_address

import httpcore
import httpx

from worker.sources.addresses import Address, Network, refusal
from worker.sources.errors import SourceError

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

_MOST_ADDRESSES = 32
_TRIED = 4


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host.

    Raises:
        OSError: it has none, or the resolver does not answer.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections to checked addresses only.

    Args:
        resolver: gives a host's addresses as text.
        allowed: networks that may be reached although they are not public.
    """

    def __init__(self, resolver: Resolver, allowed: Collection[Network]) -> None:
        self._resolver, self._allowed = resolver, tuple(allowed)
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers.

        Raises:
            SourceError: ``link_forbidden``, one of its addresses must not be reached.
            httpcore.ConnectError: it has no address, or none answers.
            httpcore.ConnectTimeout: not within ``timeout`` seconds, for all of it.
        """
        begun = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from error
        failed: Exception | None = None
        for at, address in enumerate(addresses):
            # What is left, in equal shares: one address that swallows packets must not use up the others' time.
            left = None if timeout is None else timeout - (time.monotonic() - begun)
            share = None if left is None else max(left / (len(addresses) - at), 0.001)
            try:
                return await self._inner.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        assert failed is not None
        raise failed

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            found = await self._resolver(host, port)
        except UnicodeError as error:
            raise httpcore.ConnectError(f"{host[:80]} is no host name") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        try:
            addresses = [ip_address(text) for text in dict.fromkeys(found)]
        except ValueError as error:
            raise httpcore.ConnectError(f"{host} resolves to what is no address") from error
        if not 0 < len(addresses) <= _MOST_ADDRESSES:
            raise httpcore.ConnectError(f"{host} has {len(addresses)} addresses, expected 1 to {_MOST_ADDRESSES}")
        for address in addresses:
            if (why := refusal(address, self._allowed)) is not None:
                # Without the address: what a name resolves to inside is nobody's business outside.
                raise SourceError("link_forbidden", f"{host} leads to {why}: an operator may allow its network")
        return addresses[:_TRIED]

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore does between its own tries (it is told to make none)."""
        await asyncio.sleep(seconds)


class CheckedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over a :class:`CheckedBackend`; never through a proxy.

    Args:
        backend: opens its connections.
        tls: verifies certificates and host names.
    """

    def __init__(self, backend: CheckedBackend, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        # httpx has no argument for this; a test shows that no connection is made past the backend.
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=backend, retries=0)
