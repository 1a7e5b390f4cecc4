"""The stand-in as a process of its own, for tests: started, told how to behave, killed and started again.

The process ends with whoever started it, even if that is killed: it watches a pipe that closes with its parent.
"""

import asyncio
import json
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from pydantic import SecretStr

from tests.anythingllm_server.behaviour import Behaviour
from tests.anythingllm_server.counters import Counters
from tests.anythingllm_server.driver import TLS

_PROJECT = Path(__file__).parents[2]
_START_SECONDS = 30
_CONTROL_SECONDS = 10


class Server:
    """A running stand-in.

    Attributes:
        root_url: without ``/api``, where a client finds only the single-page app (``http://127.0.0.1:40123``).
        url: what a client is given (``http://127.0.0.1:40123/api``).
        api_key: opens it.
    """

    def __init__(self, behaviour: Behaviour, state: Path | None) -> None:
        self._behaviour, self._state = behaviour, state
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.api_key = SecretStr(behaviour.api_key)

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.root_url}/api"

    def start(self) -> None:
        """Start the process, on the port it had before if it had one, and return once it listens.

        Raises:
            RuntimeError: it ended without listening; its standard error says why.
        """
        command = [sys.executable, "-m", "tests.anythingllm_server", "--port", str(self._port), "--until-stdin-closes"]
        command += ["--behaviour", self._behaviour.model_dump_json()]
        command += ["--state", str(self._state)] if self._state else []
        process = subprocess.Popen(command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        assert process.stdout is not None
        speaks, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        line = process.stdout.readline() if speaks else b""
        if not line:
            self.kill()
            raise RuntimeError(f"the stand-in ended with status {process.returncode} before it listened")
        self._port = int(json.loads(line)["port"])

    def kill(self) -> None:
        """End the process without a word to it, if it runs; its clients' connections break."""
        if self._process is None:
            return
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass
        self._process = None

    async def restart(self) -> None:
        """Kill the process and start it again on the same port, with the behaviour it was last told.

        What it holds survives only if it has a ``state`` folder; the counters begin at zero.
        """
        await asyncio.to_thread(self.kill)
        await asyncio.to_thread(self.start)

    async def control(self, **changes: object) -> Behaviour:
        """Change fields of the behaviour, each as a whole, and return all of it.

        Example: ``await server.control(faults={"drop_after": {"routes": ["upload"], "most": 1}})``.

        Raises:
            ValueError: a field is unknown or out of its range, or a fault names an unknown route.
        """
        changed = self._behaviour.changed(changes)
        await self._ask("POST", json.loads(changed.model_dump_json(include=set(changes))))
        self._behaviour = changed
        return changed

    async def counters(self) -> Counters:
        """Return what happened since it started, or since :meth:`reset_counters`."""
        return Counters.model_validate((await self._ask("GET"))["counters"])

    async def reset_counters(self) -> None:
        """Set every counter to zero."""
        await self._ask("DELETE")

    async def _ask(self, method: str, body: object = None) -> dict[str, object]:
        async with httpx.AsyncClient(timeout=_CONTROL_SECONDS, verify=TLS) as client:
            reply = await client.request(method, f"{self.root_url}/_control", json=body)
        told: dict[str, object] = reply.json()
        if reply.is_error:
            raise ValueError(f"the stand-in does not take this: {told['error']}")
        return told


@contextmanager
def running_server(behaviour: Behaviour | None = None, state: Path | None = None) -> Iterator[Server]:
    """Run a stand-in as long as the block lasts; for fixtures that outlive one event loop.

    Args:
        behaviour: how it behaves at first; by default as the real server was observed.
        state: a folder that outlives :meth:`Server.restart`; without one a restart forgets everything.
    """
    server = Server(behaviour or Behaviour(), state)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def anythingllm_server(behaviour: Behaviour | None = None, state: Path | None = None) -> AsyncIterator[Server]:
    """Run a stand-in as long as the block lasts; arguments as :func:`running_server`."""
    server = Server(behaviour or Behaviour(), state)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.kill)
