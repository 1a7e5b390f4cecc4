"""The proxy of the chaos suite does to a connection what it says, and the server behind it may change its port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.chaos.harness.proxy import Proxy

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def echo(word: bytes) -> AsyncIterator[int]:
    """A server that answers each line with ``word`` and the line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(word + line)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with echo(b"first ") as port:
        proxy.open(port)
        yield proxy
        await proxy.close()


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Connect]:
    writers: list[asyncio.StreamWriter] = []

    async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        return reader, writer

    yield opened
    for writer in writers:
        writer.close()


async def test_what_is_held_is_delivered_later_in_full(proxy: Proxy, connect: Connect) -> None:
    reader, writer = await connect()
    proxy.hold()
    writer.write(b"hello\n")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.1)
    proxy.deliver()

    assert await asyncio.wait_for(reader.readline(), 5) == b"first hello\n"


async def test_cutting_resets_what_stands_and_lets_new_connections_in(proxy: Proxy, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"hello\n")
    await reader.readline()

    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.readline(), 5)
    reader, writer = await connect()
    writer.write(b"again\n")
    assert await asyncio.wait_for(reader.readline(), 5) == b"first again\n"


async def test_a_refusing_proxy_keeps_its_port_and_leads_to_a_server_that_moved(proxy: Proxy, connect: Connect) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect()

    async with echo(b"second ") as port:
        proxy.open(port)
        reader, writer = await connect()
        writer.write(b"hello\n")

        assert await asyncio.wait_for(reader.readline(), 5) == b"second hello\n"
        await proxy.close()


async def test_a_slow_link_delays_each_way(proxy: Proxy, connect: Connect) -> None:
    reader, writer = await connect()
    proxy.slow(0.1, 0.0)
    begun = asyncio.get_running_loop().time()

    writer.write(b"hello\n")

    assert await asyncio.wait_for(reader.readline(), 5) == b"first hello\n"
    assert asyncio.get_running_loop().time() - begun >= 0.2
