"""An engine for tests of everything but engines: notes every call, keeps documents in memory, fails when told to."""

import asyncio
from collections.abc import Sequence

from worker.engines.base import (
    Answer,
    Document,
    DocumentRejectedError,
    EngineUnavailableError,
    Source,
    StoredDocument,
)


class NotingEngine:
    """Keeps the engine protocol. What a document or question holds decides what happens to it.

    ``reject`` in a document refuses it; ``crash`` raises an unexpected error; a question with ``nothing`` is refused.
    While ``away`` is set every call raises EngineUnavailableError; ``gate`` holds every call until it is set.
    """

    name = "noting"

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.added: list[str] = []
        self.embedded: list[str] = []
        self.asked: list[str] = []
        self.away = False
        self.trouble = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def _pass(self) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.away:
            raise EngineUnavailableError("engine_unavailable", "the noting engine is away")

    async def ensure_workspace(self, name: str) -> str:
        if self.away:
            raise EngineUnavailableError("engine_unavailable", "the noting engine is away")
        return f"slug-{name}"

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        await self._pass()
        self.added.append(document.name)
        if b"reject" in document.content:
            raise DocumentRejectedError("corrupt", f"{document.name} cannot be read")
        if b"crash" in document.content:
            raise RuntimeError(self.trouble or f"no idea what to do with {document.name}")
        twin = next((other for other in self.documents.values() if other.sha256 == document.sha256), None)
        if twin is not None and twin.key != document.key:
            return StoredDocument(location=twin.key, duplicate_of=twin.name, words=1)
        self.documents[document.key] = document
        return StoredDocument(location=document.key, words=len(document.content.split()), passages=1)

    async def embed(self, slug: str, locations: Sequence[str]) -> None:
        self.embedded += locations

    async def ask(self, slug: str, question: str) -> Answer:
        await self._pass()
        self.asked.append(question)
        if "nothing" in question:
            return Answer(text="There is nothing.", refused=True)
        source = Source(document="a.txt", text="the answer is 42", score=1.0)
        return Answer(text="the answer is 42", refused=False, sources=(source,))

    async def health(self) -> None:
        return None

    async def aclose(self) -> None:
        return None
