"""AnythingLLM over https: who it is is verified, by the authorities that the machine knows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.certificates import make_certificate, server_context
from worker.engines.anythingllm.errors import TroubleError
from worker.engines.anythingllm.transport import Call, Transport

_CALL = Call(name="workspaces", method="GET", path="v1/workspaces", subject="Shop", seconds=5)
_REPLY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"workspaces":[]}'


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path, "localhost")


@pytest.fixture
async def url(certificate: Path) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_REPLY)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(certificate))
    yield f"https://localhost:{server.sockets[0].getsockname()[1]}/api"
    server.close()


async def test_a_server_whose_certificate_nobody_vouches_for_is_told_no_key(url: str) -> None:
    transport = Transport(url, SecretStr("KEY-0001"))
    with pytest.raises(TroubleError, match="does not answer"):
        await transport.send(_CALL)
    await transport.aclose()


async def test_an_authority_that_the_machine_is_told_of_is_believed(
    url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    transport = Transport(url, SecretStr("KEY-0001"))

    assert await transport.send(_CALL) == {"workspaces": []}

    await transport.aclose()
