"""Run the stand-in by hand or as a child process; its first line of output says where it listens, as JSON."""

import argparse
import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import uvicorn

from tests.anythingllm_server.app import make_app
from tests.anythingllm_server.behaviour import Behaviour
from tests.anythingllm_server.faults import DroppableProtocol

_KEEP_ALIVE_SECONDS = 5  # as the real server says in every reply (§1)


def main() -> None:
    """Serve until a signal, or until standard input closes if that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.anythingllm_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--state", type=Path, help="a folder that outlives a restart; without it nothing does")
    parser.add_argument("--behaviour", type=Behaviour.model_validate_json, default=Behaviour(), help="as JSON")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    arguments = parser.parse_args()
    config = uvicorn.Config(
        make_app(arguments.behaviour, arguments.state),
        http=DroppableProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    with socket.create_server(("127.0.0.1", arguments.port), backlog=512) as listener:
        port = listener.getsockname()[1]
        url = f"http://127.0.0.1:{port}/api"
        print(json.dumps({"url": url, "port": port, "api_key": arguments.behaviour.api_key}), flush=True)  # noqa: T201 - the one line it is asked for
        asyncio.run(_serve(uvicorn.Server(config), listener, until_stdin_closes=arguments.until_stdin_closes))


async def _serve(server: uvicorn.Server, listener: socket.socket, *, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()

    def watch() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            server.should_exit = server.force_exit = True

    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), watch)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    main()
