"""A TCP proxy between the workers and one server, in the harness's own process: it delays, cuts, refuses and holds.

The server behind it may change its port at every restart; what connects here does not notice.
"""

import asyncio
import random
import socket
from contextlib import suppress

_HOST = "127.0.0.1"
_CHUNK = 65_536
# Below the range from which the system draws ports of outgoing connections, so that none takes ours while we refuse.
_LOWEST_PORT, _HIGHEST_PORT = 12_000, 32_000
_PORT_TRIES = 50
_BACKLOG = 512


class Proxy:
    """One listening port that leads to a server.

    Attributes:
        port: where clients connect; the same for the life of the proxy.
    """

    def __init__(self) -> None:
        self.port = 0
        self._upstream: int | None = None
        self._listener: socket.socket | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay, self._jitter = 0.0, 0.0
        self._random = random.Random(0)  # noqa: S311 - jitter

    def open(self, upstream: int) -> None:
        """Listen, and lead to the local port ``upstream``."""
        self._upstream = upstream
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        ports = [self.port] if self.port else random.sample(range(_LOWEST_PORT, _HIGHEST_PORT), _PORT_TRIES)
        for port in ports:
            listener = socket.socket()
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((_HOST, port))
            except OSError:
                listener.close()
                if port == ports[-1]:
                    raise
                continue
            listener.listen(_BACKLOG)
            self.port, self._listener = port, listener
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)
            return

    def _accept(self, listener: socket.socket) -> None:
        # At once and by hand: asyncio's own server leaks a connection that it accepted just before it was closed.
        with suppress(BlockingIOError):  # the client has gone again
            connection, _ = listener.accept()
            connection.setblocking(False)
            link = asyncio.create_task(self._link(connection))
            self._links.add(link)
            link.add_done_callback(self._links.discard)

    def refuse(self) -> None:
        """Refuse new connections, as when no server is there; those that stand go on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    async def refuse_for(self, seconds: float) -> None:
        """Cut everything and refuse new connections for a while."""
        self.refuse()
        self.cut()
        await asyncio.sleep(seconds)
        if self._listener is None:
            self._listen()

    def cut(self) -> None:
        """Reset every connection that stands."""
        for writer in self._writers:
            _reset(writer)

    def hold(self) -> None:
        """Deliver nothing from now on: connections stand, new ones are taken, and no byte passes."""
        self._flowing.clear()

    def deliver(self) -> None:
        """Deliver what was held, and go on."""
        self._flowing.set()

    def slow(self, delay_seconds: float, jitter_seconds: float) -> None:
        """Let each chunk wait; zeros end it."""
        self._delay, self._jitter = delay_seconds, jitter_seconds

    async def close(self) -> None:
        """End everything."""
        self.refuse()
        self.deliver()
        self.cut()
        await asyncio.sleep(0)  # every link has begun: one that never did could not close its connection
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _link(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self._writers.add(writer)
        ours = {writer}
        # A connection that ends in the middle is what this proxy is for: the other side is reset in turn.
        with suppress(OSError, asyncio.CancelledError):
            await self._flowing.wait()
            there_reader, there_writer = await asyncio.open_connection(_HOST, self._upstream)
            self._writers.add(there_writer)
            ours.add(there_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, there_writer)),
                asyncio.create_task(self._pump(there_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        for end in ours:
            end.close()
        self._writers -= ours

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            if self._delay:
                await asyncio.sleep(self._delay + self._random.uniform(0, self._jitter))
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        # Lingering for no time turns the close into a reset.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
