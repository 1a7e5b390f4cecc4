"""The protocol's calls, over an AnythingLLM server.

A document stands in its workspace exactly once, with vectors, or the call says why not; whatever the server says, and
whatever is lost on the way. This module only puts the parts together: what each call does is in the module of its
subject.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from uuid import UUID

from arq.connections import ArqRedis
from pydantic import SecretStr

from repositories.database import DatabaseManager
from repositories.locks import LockLostError
from worker.engine_settings import Convert
from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.asking import ask, check_model
from worker.engines.anythingllm.embedding import Embedding
from worker.engines.anythingllm.errors import unavailable, workspace_unknown
from worker.engines.anythingllm.grouping import Asked, Grouping
from worker.engines.anythingllm.orphans import Orphans
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.reading import Reading
from worker.engines.anythingllm.rebuilding import Rebuilding
from worker.engines.anythingllm.registry import ENGINE, Registry
from worker.engines.anythingllm.removing import Removing
from worker.engines.anythingllm.storing import Storing
from worker.engines.anythingllm.transport import Transport
from worker.engines.anythingllm.workspaces import Workspaces
from worker.engines.base import (
    Answer,
    Document,
    Rebuilt,
    StoredDocument,
    Work,
    WorkspaceSettings,
    WorkspaceUnknownError,
    check_workspace_name,
    unnoticed,
)
from worker.engines.circuit import Circuit
from worker.engines.slots import Slots


class AnythingLLMEngine:
    """One server, shared with every worker that names the same URL.

    Attributes:
        circuits: whether the server is asked at all, by the kind of work, because each needs other parts of it.

    Args:
        url: the API's base URL, ``http://host:3001/api``, with or without ``/`` at its end.
        api_key: one of the server's keys; it is a key to everything there.
        database: its schema must be migrated; whoever made it closes it.
        redis: whoever made it closes it; while it is away, each worker bounds itself alone.
        timeout_seconds: bound on a call that does no long work.
        upload_timeout_seconds: bound on an upload, and a second more for each 200,000 bytes.
        embed_timeout_seconds: bound on embedding one document, and on one answer.
        settle_seconds: how long to look for the work of an embedding call whose reply was lost, before it is repeated.
        uploads: at once, over all workers (1 to 1,000); the server reads one document at a time.
        embeddings: at once, over all workers (1 to 1,000).
        patience: how often, and after which pauses, a call is made again.
        reading: looks at documents before they are sent, and converts some; by default as the settings' defaults say.
        circuit_failures: calls in a row that found the server unavailable, after which it is left alone for a while.
        circuit_cooling_seconds: how long that is at first; doubled with every failure, up to 30 times as long.

    Raises:
        ValueError: the URL or the key cannot be one.
    """

    name = ENGINE
    embeds_in_groups = True

    def __init__(  # noqa: PLR0913 - every bound is its operator's to set
        self,
        url: str,
        api_key: SecretStr,
        database: DatabaseManager,
        redis: ArqRedis,
        *,
        timeout_seconds: float = 30.0,
        upload_timeout_seconds: float = 300.0,
        embed_timeout_seconds: float = 600.0,
        settle_seconds: float = 3.0,
        uploads: int = 2,
        embeddings: int = 4,
        patience: Patience | None = None,
        reading: Reading | None = None,
        circuit_failures: int = 5,
        circuit_cooling_seconds: float = 2.0,
    ) -> None:
        patience = patience or Patience()
        self._transport = Transport(url, api_key)
        self._api = Api(self._transport, timeout_seconds, upload_timeout_seconds, embed_timeout_seconds)
        self._patience = patience
        server = f"{ENGINE}:{sha256(self._transport.url.encode()).hexdigest()[:16]}"
        registry = Registry(database)
        self._reading = reading or Reading(Convert.AUTO, seconds=60, max_bytes=2**30)
        self._removing = Removing(self._api, patience, redis)
        self._workspaces = Workspaces(self._api, registry, self._removing, patience)
        self._storing = Storing(self._api, patience, self._removing, Slots(redis, f"{server}:uploads", uploads))
        slots = Slots(redis, f"{server}:embeddings", embeddings)
        orphans = Orphans(self._api, patience, settle_seconds)
        self._embedding = Embedding(self._api, patience, registry, self._removing, slots, orphans, settle_seconds)
        guarding = partial(self._guarding, "embedding")
        self._grouping = Grouping(self._api, patience, self._embedding, orphans, guarding, embeddings)
        self._rebuilding = Rebuilding(self._api, patience, registry, self._embedding)
        self._known: set[str] = set()
        self.circuits = {
            work: Circuit(
                redis,
                f"{server}:{work}",
                partial(self.health, work),
                failures=circuit_failures,
                cooling_seconds=circuit_cooling_seconds,
                longest_cooling_seconds=circuit_cooling_seconds * 30,
            )
            for work in Work
        }

    def __repr__(self) -> str:
        return f"AnythingLLMEngine({self._transport.url!r})"

    async def ensure_workspace(self, name: str, settings: WorkspaceSettings | None = None) -> str:
        """Return the slug of the workspace called ``name``, made now if it is new.

        Raises:
            ValueError: the name is empty, or longer than 255 characters.
        """
        check_workspace_name(name)
        async with self._guarding("workspaces"):
            slug, is_empty = await self._workspaces.ensure(name, settings)
        if is_empty:
            self._embedding.saw_empty(slug)
        self._known.add(slug)
        return slug

    async def delete_workspace(self, slug: str) -> bool:
        """Remove a workspace with the documents that jobs put into it; ``False`` if there was none.

        Raises:
            EngineRefusedError: the server protects workspaces (``deletion_protected``); nothing was removed.
        """
        self._forget(slug)
        async with self._guarding("workspaces"):
            return await self._workspaces.delete(slug)

    async def locations(self, slug: str) -> frozenset[str]:
        """Return the locations of all documents that stand in the workspace now; see the protocol."""
        async with self._guarding("workspaces"):
            return frozenset(await self._patience.call(self._api.rows, slug))

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        """Store a document, once per key; see the protocol."""
        with self._grouping.on_the_way(slug):
            return await self._add_document(slug, document)

    async def _add_document(self, slug: str, document: Document) -> StoredDocument:
        if slug not in self._known:
            async with self._guarding("documents"):
                if not await self._workspaces.exists(slug):
                    raise workspace_unknown(slug)
            self._known.add(slug)
        async with self._reading.sent(document) as sent, self._guarding("documents"):
            return sent.described(await self._storing.add(slug, sent.document))

    async def embed(self, slug: str, stored: StoredDocument, *, on_embedded: Callable[[], None] = unnoticed) -> bool:
        """Make a stored document searchable, and return once it was found by a search; see the protocol."""
        is_new, title = self._storing.was_never_embedded(stored.key), self._storing.name_of(stored.key)
        try:
            return await self._grouping.embed(slug, Asked(stored, title, is_new, on_embedded))
        except WorkspaceUnknownError:
            self._forget(slug)
            raise

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        """Remove documents from the workspace and from the server; see the protocol."""
        async with self._guarding("documents"):
            await self._removing.remove(slug, locations)

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        """Remove what attempts of this job left behind; see the protocol."""
        async with self._guarding("documents"):
            return await self._removing.sweep(slug, job_id, keep)

    async def rebuild(self, slug: str, recorded: Callable[[], Awaitable[Collection[str]]]) -> Rebuilt:
        """Make a workspace new from the documents that stand in it; its chats and threads go. See the protocol."""
        self._forget(slug)
        async with self._guarding("workspaces"):
            rebuilt = await self._rebuilding.rebuild(slug, recorded)
        self._forget(rebuilt.slug)
        return rebuilt

    async def ask(self, slug: str, question: str) -> Answer:
        """Answer one question from the workspace alone; see the protocol.

        Raises:
            ValueError: the question is empty, or longer than 2,000 characters.
            EngineError: the language model gave no answer to this question (``unanswered``).
        """
        async with self._guarding("chat", Work.QUESTIONS, slug):
            return await ask(self._api, self._patience, slug, question)

    async def health(self, work: Work = Work.DOCUMENTS, slug: str | None = None) -> None:
        """Return if everything answers that this work needs; see the protocol.

        Documents need the key, the collector and the embedder; questions the key, the embedder and the language model,
        which is asked for a word in the workspace.
        """
        await self._patience.call(self._api.check_key)
        if work is Work.DOCUMENTS:
            await self._patience.call(self._api.check_collector)
        await self._patience.call(self._api.check_embedder)
        if work is Work.QUESTIONS and slug is not None:
            await check_model(self._api, self._patience, slug)

    async def away(self) -> Mapping[Work, str]:
        """Say for which work the server is left alone for now, and why; see the protocol."""
        told = dict[Work, str]()
        for work, circuit in self.circuits.items():
            state = await circuit.state()
            if state is not None and state.is_open:
                seconds = f"for {state.open_seconds:.0f} s; tried again in {state.retry_after_seconds:.0f} s"
                told[work] = f"{state.reason} ({seconds})"
        return told

    async def aclose(self) -> None:
        """End the parsers and close the connections to the server. Database and Redis are their owner's to close."""
        await self._grouping.aclose()
        await self._reading.aclose()
        await self._transport.aclose()

    def _forget(self, slug: str) -> None:
        self._known.discard(slug)
        self._embedding.saw_empty(slug)
        self._grouping.forget(slug)

    @asynccontextmanager
    async def _guarding(self, part: str, work: Work = Work.DOCUMENTS, slug: str | None = None) -> AsyncIterator[None]:
        try:
            async with self.circuits[work].guarding(part, partial(self.health, work, slug)):
                yield
        except LockLostError as error:
            raise unavailable(str(error)) from error
