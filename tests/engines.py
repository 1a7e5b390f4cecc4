"""An engine for tests of everything but engines: notes every call, keeps documents in memory, fails when told to."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from uuid import UUID

from worker.engines.base import (
    Answer,
    Document,
    DocumentMetadata,
    DocumentRejectedError,
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    Rebuilt,
    Source,
    StoredDocument,
    Work,
    WorkspaceSettings,
    WorkspaceUnknownError,
    unnoticed,
)


class NotingEngine:
    """Keeps the engine protocol. What a document or question holds decides what happens to it.

    ``reject`` in a document refuses it until it is ``mended``; ``crash`` raises an unexpected error until the
    ``trouble_is_over``; a question with ``nothing`` is refused, one with the text ``unanswered`` gets no answer. While
    ``away_now`` is set every call raises EngineUnavailableError, or ``refusal`` if that is set; ``gate`` holds every
    call until it is set. A document stands in one place, its key, whatever its workspace. A workspace is unknown once
    it was deleted.
    """

    name = "noting"
    embeds_in_groups = False

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.settings: dict[str, WorkspaceSettings] = {}
        self.added: list[str] = []
        self.metadata: dict[str, DocumentMetadata | None] = {}
        self.embedded: list[str] = []
        self.removed: list[str] = []
        self.swept: list[UUID] = []
        self.deleted: list[str] = []
        self.asked: list[str] = []
        self.away_now = False
        self.has_orphans = False
        self.mended = False
        self.trouble_is_over = False
        self.unanswered = ""
        self.refusal: EngineRefusedError | None = None
        self.trouble = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def _pass(self) -> None:
        self.entered.set()
        await self.gate.wait()
        self._answer()

    def _answer(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.away_now:
            raise EngineUnavailableError("engine_unavailable", "the noting engine is away")

    async def ensure_workspace(self, name: str, settings: WorkspaceSettings | None = None) -> str:
        self._answer()
        slug = f"slug-{name}"
        if slug in self.deleted:
            self.deleted.remove(slug)
        if settings is not None:
            self.settings[slug] = settings
        return slug

    async def delete_workspace(self, slug: str) -> bool:
        self._answer()
        if slug in self.deleted:
            return False
        self.deleted.append(slug)
        self.documents.clear()
        return True

    async def locations(self, slug: str) -> frozenset[str]:
        self._look_for(slug)
        return frozenset(key for key in self.documents if key in self.embedded)

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        await self._pass()
        self._look_for(slug)
        self.added.append(document.name)
        self.metadata[document.name] = document.metadata
        content = document.read()
        if b"reject" in content and not self.mended:
            raise DocumentRejectedError("corrupt", f"{document.name} cannot be read")
        if b"crash" in content and not self.trouble_is_over:
            raise RuntimeError(self.trouble or f"no idea what to do with {document.name}")
        self.documents.setdefault(document.key, content)
        return StoredDocument(key=document.key, locations=(document.key,), words=len(content.split()), passages=1)

    async def embed(self, slug: str, stored: StoredDocument, *, on_embedded: Callable[[], None] = unnoticed) -> bool:
        self._look_for(slug)
        if missing := set(stored.locations) - self.documents.keys():
            raise DocumentRejectedError("not_stored", f"there is no document {min(missing)}")
        self.embedded += stored.locations
        on_embedded()
        return self.has_orphans

    async def rebuild(self, slug: str, recorded: Callable[[], Awaitable[Collection[str]]]) -> Rebuilt:
        self._look_for(slug)
        await self._pass()
        self.has_orphans = False
        return Rebuilt(slug, len(await recorded()))

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        self._look_for(slug)
        for location in locations:
            if self.documents.pop(location, None) is not None:
                self.removed.append(location)

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        self._answer()
        self.swept.append(job_id)
        left = [key for key in self.documents if key.startswith(f"{job_id}/") and key not in keep]
        for key in left:
            del self.documents[key]
        self.removed += left
        return len(left)

    async def ask(self, slug: str, question: str) -> Answer:
        await self._pass()
        self._look_for(slug)
        if self.unanswered and self.unanswered in question:
            raise EngineError("unanswered", "the model says nothing")
        self.asked.append(question)
        if "nothing" in question:
            return Answer(text="There is nothing.", refused=True)
        source = Source(document="a.txt", text="the answer is 42", score=1.0)
        return Answer(text="the answer is 42", refused=False, sources=(source,))

    async def health(self, work: Work = Work.DOCUMENTS, slug: str | None = None) -> None:
        self._answer()

    async def away(self) -> Mapping[Work, str]:
        return dict.fromkeys(Work, "the noting engine is away") if self.away_now else {}

    async def aclose(self) -> None:
        return None

    def _look_for(self, slug: str) -> None:
        self._answer()
        if slug in self.deleted:
            raise WorkspaceUnknownError("workspace_unknown", f"there is no workspace {slug}")
