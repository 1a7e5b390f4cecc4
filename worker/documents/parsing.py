"""Parsing documents in processes of their own, so that a hostile file harms nothing but itself.

Promise: :meth:`Parsers.parse` returns the passages of a document or refuses the document, within a bound on time,
memory and text; a parser that hangs is ended, one that crashes is replaced, and the next document finds a fresh one.
The event loop is never held up.

What passes through the pipes: to the process two lengths (8 bytes each, big-endian), a request in JSON and the bytes of
the file, again and again; from it the length 0 once it is ready, then for each document lengths and replies in JSON,
whose last one says that there are no more.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO, Self

import structlog

from worker.documents.extract.exchange import LENGTH, Parsed, Rendered, Reply, Request
from worker.documents.extract.refusals import damaged, too_large
from worker.documents.memory import MemoryShares
from worker.engines.base import Document, DocumentRejectedError, EngineUnavailableError

_LOG = structlog.get_logger(__name__)
_START_SECONDS = 60
_GRACE_SECONDS = 5  # what the process gets beyond its own alarm before it is ended from here
_TAIL_BYTES = 2_000
# What a process needs to start; the rest holds secrets that are not its business.
_ENVIRONMENT = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH"}
)
_ALLOCATOR = {"MALLOC_ARENA_MAX": "2"}  # each further arena reserves 64 MiB of the bound for nothing
_OUT_OF_MEMORY = ("MemoryError", "memory allocation of", "Cannot allocate memory")


class _Parser:
    """One process, used by one document at a time."""

    def __init__(self, process: asyncio.subprocess.Process, complaints: IO[bytes]) -> None:
        if process.stdin is None or process.stdout is None:  # pragma: no cover - both were asked for
            raise RuntimeError("the parser has no pipes")
        self._process, self._complaints = process, complaints
        self._sink, self._source = process.stdin, process.stdout

    @classmethod
    async def start(cls, max_memory_bytes: int) -> Self:
        """Start a process and wait until it is ready.

        Raises:
            EngineUnavailableError: it does not come up; nothing that it was given can be the reason.
        """
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worker.documents.extract.parser_process",
            str(max_memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            env={name: value for name, value in os.environ.items() if name in _ENVIRONMENT} | _ALLOCATOR,
            start_new_session=True,  # Ctrl-C is for the worker, which ends its parsers itself
        )
        parser = cls(process, complaints)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await parser._source.readexactly(LENGTH.size)
        except BaseException as error:
            said = await asyncio.shield(parser.end())
            if not isinstance(error, asyncio.IncompleteReadError | TimeoutError):
                raise
            reason = said.splitlines()[-1] if said else "it gives no reason"
            raise EngineUnavailableError(
                "engine_unavailable", f"the process that parses documents does not start: {reason}"
            ) from error
        return parser

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    @property
    def status(self) -> int | None:
        """The exit status; negative: the signal that ended it; ``None`` while it runs."""
        return self._process.returncode

    async def ask(self, request: Request, content: bytes) -> Reply:
        """Send a document and await the reply.

        Raises:
            asyncio.IncompleteReadError, ConnectionError: the process ended first.
        """
        asked = request.model_dump_json().encode()
        self._sink.write(LENGTH.pack(len(asked)) + LENGTH.pack(len(content)) + asked)
        self._sink.write(content)
        await self._sink.drain()
        reply = part = await self._part()
        while part.more:
            part = await self._part()
            if reply.parsed is not None and part.parsed is not None:
                reply.parsed.extend(part.parsed)
            if reply.rendered is not None and part.rendered is not None:
                reply.rendered.extend(part.rendered)
        return reply

    async def _part(self) -> Reply:
        (length,) = LENGTH.unpack(await self._source.readexactly(LENGTH.size))
        return Reply.model_validate_json(await self._source.readexactly(length))

    async def end(self) -> str:
        """End the process, whatever it does, and return the last it wrote to its standard error."""
        if self.is_running and self._source.at_eof():
            # It ends by itself. Sending a signal would reap it before the loop learns its status, which tells why.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _GRACE_SECONDS)
        if self.is_running:
            self._process.kill()
        self._sink.close()
        await self._process.wait()
        self._complaints.seek(0, 2)
        self._complaints.seek(max(self._complaints.tell() - _TAIL_BYTES, 0))
        said = self._complaints.read().decode("utf-8", "replace").strip()
        self._complaints.close()
        return said


class Parsers:
    """A few parser processes, started when they are needed and kept.

    Args:
        most: how many run at the same time (1 or more).
        seconds: bound on the time for one document (1 or more).
        max_characters: bound on the text of one document.
        max_memory_bytes: bound on the memory that a document may take, beyond what its process needs in any case. As
            many documents are parsed at a time on the machine as fit into half of its memory.
    """

    def __init__(self, most: int, seconds: int, max_characters: int, max_memory_bytes: int) -> None:
        self._seconds, self._max_characters, self._max_memory_bytes = seconds, max_characters, max_memory_bytes
        self._free = asyncio.Semaphore(most)
        self._shares = MemoryShares(max_memory_bytes)
        self._idle: list[_Parser] = []

    async def parse(self, document: Document) -> Parsed:
        """Return the passages of a document.

        Raises:
            DocumentRejectedError: it has none, or a bound was reached.
            EngineUnavailableError: no parser can be started.
        """
        reply = await self._asked(document, as_markdown=False)
        if reply.parsed is None:  # pragma: no cover - the process fills what was asked for
            raise RuntimeError("the parser replied with nothing")
        return reply.parsed

    async def render(self, document: Document) -> Rendered:
        """Return the text of a document as Markdown; raises as :meth:`parse`."""
        reply = await self._asked(document, as_markdown=True)
        if reply.rendered is None:  # pragma: no cover - the process fills what was asked for
            raise RuntimeError("the parser replied with nothing")
        return reply.rendered

    async def _asked(self, document: Document, *, as_markdown: bool) -> Reply:
        request = Request(
            name=document.name,
            media_type=document.media_type,
            seconds=self._seconds,
            max_characters=self._max_characters,
            as_markdown=as_markdown,
        )
        async with self._free, self._shares.one():
            content = await asyncio.to_thread(document.read)  # not before its turn: memory holds as many as are parsed
            async with self._parser(document) as parser, asyncio.timeout(self._seconds + _GRACE_SECONDS):
                reply = await parser.ask(request, content)
        if reply.refused is not None:
            raise DocumentRejectedError(reply.refused.code, reply.refused.message)
        return reply

    async def aclose(self) -> None:
        """End every process."""
        while self._idle:
            await self._idle.pop().end()

    @asynccontextmanager
    async def _parser(self, document: Document) -> AsyncIterator[_Parser]:
        """Lend a parser; one that failed, or whose document was given up half-way, is not used again."""
        while self._idle and not self._idle[-1].is_running:
            await self._idle.pop().end()  # it was ended from outside while nobody used it
        parser = self._idle.pop() if self._idle else await _Parser.start(self._max_memory_bytes)
        try:
            yield parser
        except BaseException as error:
            said = await asyncio.shield(parser.end())
            if not isinstance(error, asyncio.IncompleteReadError | ConnectionError | TimeoutError):
                raise
            _LOG.warning(
                "parser.ended", document=document.name, media_type=document.media_type, status=parser.status, said=said
            )
            too_slow = isinstance(error, TimeoutError) or parser.status == -signal.SIGALRM
            raise self._refusal(document.name, said, parser.status, too_slow=too_slow) from error
        else:
            self._idle.append(parser)

    def _refusal(self, name: str, said: str, status: int | None, *, too_slow: bool) -> DocumentRejectedError:
        if too_slow:
            return too_large(name, f"it could not be read within {self._seconds} seconds (PARSER_SECONDS)")
        needed = f"more than {self._max_memory_bytes // 2**20} MiB of memory (PARSER_MAX_BYTES)"
        if any(sign in said for sign in _OUT_OF_MEMORY):
            return too_large(name, f"reading it needs {needed}")
        if status == -signal.SIGABRT:  # what libraries in C++ do when they are given no memory
            return too_large(name, f"its parser gave up, as where it needs {needed}")
        return damaged(name, "the parser broke off")
