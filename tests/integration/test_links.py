"""Links fetched from a real server on this machine, which the guard has to be told to allow."""

import asyncio
import gzip
import hashlib
import os
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import make_certificate, server_context
from worker.sources import Fetched, LinkFetcher, SourceError
from worker.sources.connecting import resolve

LOOPBACK = [ip_network("127.0.0.0/8")]
MIB = 1024 * 1024

Handler = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


class Server(NamedTuple):
    """``seen`` are the requests, first line and headers; ``closed`` is set when a connection ended."""

    port: int
    seen: list[str]
    closed: asyncio.Event

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(answer: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that reads the head of a request and lets ``answer`` write whatever it likes, also no HTTP."""
    seen: list[str] = []
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            seen.append(head)
            await answer(writer, head.split(" ")[1])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away, as it should
        finally:
            writer.close()
            closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield Server(server.sockets[0].getsockname()[1], seen, closed)
    finally:
        server.close()


def replying(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> Handler:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        size = f"Content-Length: {len(body) if length is None else length}"
        head = "\r\n".join([f"HTTP/1.1 {status}", size, "Connection: close", *headers])
        writer.write(head.encode() + b"\r\n\r\n" + body)

    return answer


def redirecting(to: str) -> Handler:
    return replying(b"", f"Location: {to}", status="302 Found")


def endless(piece: bytes, *headers: str) -> Handler:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write("\r\n".join(["HTTP/1.1 200 OK", *headers, "Connection: close", "", ""]).encode())
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


def fetcher(**changes: object) -> LinkFetcher:
    settings = {"max_bytes": 10 * MIB, "timeout_seconds": 10.0, "allow_private": LOOPBACK} | changes
    return LinkFetcher(**settings)  # type: ignore[arg-type]  # each test changes what it is about


async def got(fetched: Fetched) -> bytes:
    return b"".join([chunk async for chunk in fetched.chunks])


async def whole(link: str, by: LinkFetcher) -> bytes:
    async with by.fetch(link) as fetched:
        return await got(fetched)


async def refused(link: str, by: LinkFetcher | None = None) -> SourceError:
    """The error of fetching all of a link."""
    with pytest.raises(SourceError) as raised:
        await whole(link, by or fetcher())
    return raised.value


def naming(**hosts: list[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return hosts.get(host.replace(".", "_"), [host])

    return resolver


async def test_a_document_comes_with_its_name_type_size_and_version() -> None:
    body = os.urandom(3 * MIB)
    answer = replying(
        body, "Content-Type: application/pdf", 'ETag: "v7"', 'Content-Disposition: inline; filename="k.pdf"'
    )
    async with serving(answer) as server, fetcher().fetch(server.url("/x?a=1#part")) as fetched:
        assert (fetched.name, fetched.content_type, fetched.etag) == ("k.pdf", "application/pdf", '"v7"')
        assert (fetched.size, fetched.final_url) == (len(body), server.url("/x?a=1"))
        assert await got(fetched) == body

    (head,) = server.seen
    assert head.startswith("GET /x?a=1 HTTP/1.1\r\n")
    assert "cookie" not in head.lower()


async def test_chunks_are_small() -> None:
    packed = gzip.compress(bytes(5 * MIB))
    async with serving(replying(packed, "Content-Encoding: gzip")) as server, fetcher().fetch(server.url()) as fetched:
        sizes = [len(chunk) async for chunk in fetched.chunks]

    assert sum(sizes) == 5 * MIB
    assert max(sizes) <= 64 * 1024


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_packed_body_is_unpacked(parts: int) -> None:
    texts = [os.urandom(200_000) + bytes(200_000) for _ in range(parts)]
    body = b"".join(map(gzip.compress, texts)) + bytes(100)  # members, then padding
    async with serving(replying(body, "Content-Encoding: GZIP")) as server, fetcher().fetch(server.url()) as fetched:
        assert fetched.size is None
        assert await got(fetched) == b"".join(texts)


async def test_redirects_are_followed_also_relative_ones() -> None:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        next_path = {"/a": "b/c", "/b/c": "/d?x=1"}.get(path)
        reply = replying(b"here") if next_path is None else replying(b"", f"Location: {next_path}", status="307 Go")
        await reply(writer, path)

    async with serving(answer) as server, fetcher().fetch(server.url("/a")) as fetched:
        assert fetched.final_url == server.url("/d?x=1")
        assert await got(fetched) == b"here"


async def test_a_link_is_fetched_through_a_name_and_each_address_is_tried() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.9", 0))  # bound and not listening: refuses
        async with serving(replying(b"here")) as server:
            by = fetcher(resolver=naming(docs_example=["127.0.0.9", "127.0.0.1"]))
            async with by.fetch(server.url(host="docs.example")) as fetched:
                assert await got(fetched) == b"here"

    assert f"Host: docs.example:{server.port}" in server.seen[0]


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert "127.0.0.1" in await resolve("127.0.0.1", 80)
    async with serving(replying(b"here")) as server, fetcher().fetch(server.url()) as fetched:
        assert await got(fetched) == b"here"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["169.254.169.254"],
        ["10.0.0.5"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["93.184.216.34", "127.0.0.1"],
        ["2606:4700::1111", "10.0.0.5"],
    ],
)
async def test_a_name_with_any_address_inside_is_refused(addresses: list[str]) -> None:
    async with serving(replying(b"secret")) as server:
        by = fetcher(allow_private=(), resolver=naming(docs_example=addresses))
        error = await refused(server.url(host="docs.example"), by)

    assert (error.code, error.transient) == ("link_forbidden", False)
    assert server.seen == []
    assert not any(address in str(error) for address in addresses)  # what is inside is not told outside


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0", "2130706433", "0x7f000001", "127.1"]
)
async def test_this_machine_is_refused_however_it_is_written(host: str) -> None:
    async with serving(replying(b"secret")) as server:
        error = await refused(server.url(host=host), fetcher(allow_private=()))

    assert error.code == "link_forbidden"
    assert server.seen == []


async def test_a_metadata_service_is_refused_whatever_is_allowed() -> None:
    by = fetcher(allow_private=[ip_network("0.0.0.0/0")])

    assert (await refused("http://169.254.169.254/latest/meta-data/", by)).code == "link_forbidden"


@pytest.mark.parametrize(
    "to",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "file:///etc/passwd",
        "//user:password@127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://127.0.0.1:22/",
    ],
)
async def test_a_redirect_to_where_no_link_may_lead_is_refused(to: str) -> None:
    async with serving(redirecting(to)) as server:
        error = await refused(server.url())

    assert error.code == "link_forbidden"
    assert len(server.seen) == 1


async def test_a_name_is_resolved_once_and_connected_to_what_was_checked() -> None:
    """DNS rebinding: the name is public when it is checked, and this machine a moment later."""
    answers = iter([["192.0.2.1"], ["127.0.0.1"]])
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return next(answers)

    async with serving(replying(b"secret")) as server:
        by = fetcher(
            allow_private=[ip_network("192.0.2.1/32")], resolver=rebinding, timeout_seconds=0.5
        )  # an address that nobody answers at
        error = await refused(server.url(host="docs.example"), by)

    assert error.code in {"link_unreachable", "link_too_slow"}
    assert asked == ["docs.example"]
    assert server.seen == []


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(replying(b"through a proxy")) as proxy, serving(replying(b"here")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        async with fetcher().fetch(server.url()) as fetched:
            assert await got(fetched) == b"here"

    assert proxy.seen == []


@pytest.mark.parametrize("limit", [0, 5])
async def test_a_redirect_loop_ends_at_the_limit(limit: int) -> None:
    async with serving(redirecting("/again")) as server:
        error = await refused(server.url(), fetcher(max_redirects=limit))

    assert (error.code, len(server.seen)) == ("link_invalid", limit + 1)


@pytest.mark.parametrize("location", ["", "http://[::1", "http://", "/a b\x01"])
async def test_a_redirect_to_nowhere_is_invalid(location: str) -> None:
    async with serving(redirecting(location)) as server:
        assert (await refused(server.url())).code in {"link_invalid", "link_unreachable"}


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [
        ("404 Not Found", "link_not_found", False),
        ("403 Forbidden", "link_not_found", False),
        ("410 Gone", "link_not_found", False),
        ("429 Too Many Requests", "link_unreachable", True),
        ("408 Request Timeout", "link_unreachable", True),
        ("500 Oh", "link_unreachable", True),
        ("503 Busy", "link_unreachable", True),
        ("204 No Content", "link_invalid", False),
        ("206 Partial Content", "link_invalid", False),
        ("304 Not Modified", "link_invalid", False),
    ],
)
async def test_an_answer_that_is_no_document_says_whether_to_try_again(status: str, code: str, transient: bool) -> None:
    async with serving(replying(b"", status=status)) as server:
        error = await refused(server.url("/x?sig=hunter2"))

    assert (error.code, error.transient) == (code, transient)
    assert status[:3] in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("told", "least", "most"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        ("999999999", 3_600, 3_600),
        ("-5", 0, 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 3_600, 3_600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
async def test_a_server_that_says_when_to_come_again_is_heard(told: str, least: float, most: float) -> None:
    async with serving(replying(b"", f"Retry-After: {told}", status="503 Busy")) as server:
        asked = (await refused(server.url())).retry_after

    assert asked is not None
    assert least <= asked <= most


@pytest.mark.parametrize("told", ["soon", "", "Wed, 99 Oct 2015 07:28:00 GMT", "nan"])
async def test_a_server_that_does_not_say_when_is_asked_at_our_own_pace(told: str) -> None:
    async with serving(replying(b"", f"Retry-After: {told}", status="503 Busy")) as server:
        assert (await refused(server.url())).retry_after is None


async def test_a_fetch_may_have_a_bound_of_its_own() -> None:
    async with serving(replying(bytes(2 * MIB))) as server, AsyncExitStack() as stack:
        with pytest.raises(SourceError) as raised:
            await stack.enter_async_context(fetcher().fetch(server.url(), MIB))

    assert raised.value.code == "link_too_large"
    assert f"{MIB:,}" in str(raised.value)


async def test_a_document_said_to_be_too_large_is_refused_before_it_is_read() -> None:
    async with serving(replying(b"", length=11 * MIB)) as server, AsyncExitStack() as stack:
        with pytest.raises(SourceError) as raised:
            await stack.enter_async_context(fetcher().fetch(server.url()))

    assert raised.value.code == "link_too_large"


async def test_a_document_of_exactly_the_bound_is_not_too_large() -> None:
    async with serving(replying(bytes(1_000))) as server:
        async with fetcher(max_bytes=1_000).fetch(server.url()) as fetched:
            assert len(await got(fetched)) == 1_000
        assert (await refused(server.url(), fetcher(max_bytes=999))).code == "link_too_large"


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB))
    return packed + packer.flush()


@pytest.mark.parametrize(
    ("piece", "headers"),
    [
        (lambda: bytes(64 * 1024), ()),
        (lambda: b"10000\r\n" + bytes(0x10000) + b"\r\n", ("Transfer-Encoding: chunked",)),
        (lambda: bomb(100 * MIB), ("Content-Encoding: gzip",)),  # not made before it is needed: it takes a while
        (lambda: gzip.compress(b""), ("Content-Encoding: gzip",)),  # unpacks to nothing, for ever
    ],
    ids=["plain", "chunked", "bombs", "empty-members"],
)
async def test_an_endless_body_ends_at_the_bound(piece: Callable[[], bytes], headers: tuple[str, ...]) -> None:
    async with serving(endless(piece(), *headers)) as server:
        error = await refused(server.url(), fetcher(max_bytes=2 * MIB, timeout_seconds=30))
        await asyncio.wait_for(server.closed.wait(), 5)  # it was hung up on

    assert error.code == "link_too_large"


async def test_a_bomb_is_unpacked_no_further_than_the_bound() -> None:
    read: list[int] = []

    async def reading(chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            read.append(len(chunk))  # noqa: PERF401 - what was read before the error is what counts

    async with (
        serving(replying(bomb(200 * MIB), "Content-Encoding: gzip")) as server,
        fetcher(max_bytes=MIB).fetch(server.url()) as fetched,
    ):
        with pytest.raises(SourceError, match="larger than 1,048,576 bytes"):
            await reading(fetched.chunks)

    assert sum(read) == MIB


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
async def test_an_encoding_that_was_not_offered_is_refused(encoding: str) -> None:
    async with serving(replying(b"x", f"Content-Encoding: {encoding}")) as server:
        assert (await refused(server.url())).code == "link_invalid"

    assert "accept-encoding: gzip\r\n" in server.seen[0].lower()


async def test_a_body_that_is_not_what_it_says_is_invalid() -> None:
    async with serving(replying(b"not gzip at all", "Content-Encoding: gzip")) as server:
        assert (await refused(server.url())).code == "link_invalid"


@pytest.mark.parametrize(
    "answer",
    [
        replying(b"half", length=8),
        replying(gzip.compress(os.urandom(1_000))[:500], "Content-Encoding: gzip"),
        replying(b"", status="not http"),
    ],
    ids=["short", "short-gzip", "no-http"],
)
async def test_a_body_that_breaks_off_may_be_tried_again(answer: Handler) -> None:
    async with serving(answer) as server:
        error = await refused(server.url())

    assert (error.code, error.transient) == ("link_unreachable", True)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["silent", "after-the-head"])
async def test_a_server_that_falls_silent_is_too_slow(head: bytes) -> None:
    over = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(head)
        await over.wait()

    async with serving(answer) as server:
        error = await refused(server.url(), fetcher(timeout_seconds=0.3))
        over.set()

    assert (error.code, error.transient) == ("link_too_slow", True)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["headers", "body"])
async def test_a_server_that_dribbles_is_too_slow_although_it_never_falls_silent(head: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(head)
        while not writer.transport.is_closing():
            writer.write(b"X-A: 1\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)  # the slowness is the point

    async with serving(answer) as server:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        error = await refused(server.url(), fetcher(timeout_seconds=0.5))

    assert error.code == "link_too_slow"
    assert loop.time() - begun < 3


async def test_the_time_a_reader_takes_is_not_cut_off_in_its_own_work() -> None:
    """The deadline ends our waiting for the server, never what the caller does in between."""
    async with serving(replying(b"x")) as server, fetcher(timeout_seconds=0.2).fetch(server.url()) as fetched:
        await asyncio.sleep(0.3)  # the caller's own slow work
        with pytest.raises(SourceError, match="takes too long"):
            await got(fetched)


async def test_a_host_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = await refused(f"http://127.0.0.1:{closed.getsockname()[1]}/")

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    nowhere = await refused("http://docs.example/", fetcher(resolver=unknown))
    assert {nobody.code, nowhere.code} == {"link_unreachable"}
    assert nobody.transient


@pytest.mark.parametrize("answer", [[], ["not an address"], ["127.0.0.1"] * 1 + [f"127.0.1.{n}" for n in range(64)]])
async def test_a_resolver_that_answers_oddly_makes_the_link_unreachable(answer: list[str]) -> None:
    assert (await refused("http://docs.example/", fetcher(resolver=naming(docs_example=answer)))).code == (
        "link_unreachable"
    )


async def test_a_resolver_that_hangs_is_cut_off() -> None:
    async def hanging(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    assert (await refused("http://docs.example/", fetcher(resolver=hanging, timeout_seconds=0.2))).transient


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an authority of our own, for docs.example."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "docs.example")


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[Callable[[Handler], Awaitable[Server]]]:
    async with AsyncExitStack() as stack:
        yield lambda answer: stack.enter_async_context(serving(answer, server_context(certificate)))


def trusting(certificate: Path, **hosts: list[str]) -> LinkFetcher:
    return fetcher(resolver=naming(**hosts), tls=ssl.create_default_context(cafile=certificate))


async def test_a_certificate_is_verified_against_the_name_not_the_address(
    secure: Callable[[Handler], Awaitable[Server]], certificate: Path
) -> None:
    server = await secure(replying(b"here"))
    by = trusting(certificate, docs_example=["127.0.0.1"], evil_example=["127.0.0.1"])

    async with by.fetch(f"https://docs.example:{server.port}/") as fetched:
        assert await got(fetched) == b"here"
    for host in ("evil.example", "127.0.0.1"):
        error = await refused(f"https://{host}:{server.port}/", by)
        assert (error.code, error.transient) == ("link_unreachable", False)
        assert "certificate" in str(error)
    unknown = await refused(
        f"https://docs.example:{server.port}/", fetcher(resolver=naming(docs_example=["127.0.0.1"]))
    )
    assert "certificate" in str(unknown)
    assert len(server.seen) == 1


async def test_a_redirect_from_https_to_http_is_refused(
    secure: Callable[[Handler], Awaitable[Server]], certificate: Path
) -> None:
    async with serving(replying(b"plain")) as plain:
        server = await secure(redirecting(plain.url()))
        by = trusting(certificate, docs_example=["127.0.0.1"])
        error = await refused(f"https://docs.example:{server.port}/", by)

    assert error.code == "link_forbidden"
    assert plain.seen == []


async def test_a_fetch_that_is_left_early_hangs_up() -> None:
    async with serving(endless(bytes(64 * 1024))) as server:
        async with fetcher().fetch(server.url()) as fetched:
            await anext(fetched.chunks)
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_cancelled_fetch_hangs_up() -> None:
    over = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nx")
        begun.set()
        await writer.drain()
        await over.wait()

    begun = asyncio.Event()
    async with serving(answer) as server:
        fetch = asyncio.create_task(refused(server.url()))
        await begun.wait()
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        over.set()
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_many_links_are_fetched_at_once_each_with_its_own_bytes() -> None:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        await replying(path.encode() * 10_000)(writer, path)

    by = fetcher()

    async def one(number: int) -> str:
        async with by.fetch(server.url(f"/{number}")) as fetched:
            return hashlib.sha256(await got(fetched)).hexdigest()

    async with serving(answer) as server:
        digests = await asyncio.gather(*map(one, range(20)))

    assert digests == [hashlib.sha256(f"/{number}".encode() * 10_000).hexdigest() for number in range(20)]


@pytest.mark.parametrize("changes", [{"max_bytes": 0}, {"timeout_seconds": 0}, {"max_redirects": -1}])
def test_bounds_that_bound_nothing_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_bytes must be"):
        fetcher(**changes)
