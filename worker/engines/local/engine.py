"""The embedded default engine: workspaces, documents and answers in PostgreSQL alone.

For a first run without AnythingLLM. Documents are parsed for real, found by full text and vectors, and answered by
quoting; there is no language model. It keeps the protocol of :mod:`worker.engines.base`.

Of a workspace's settings two matter here: ``top_n``, though an answer rests on three passages at most, and ``refusal``.
The others are kept for whoever reads them: there is no model to prompt or to let talk, and what fits is decided by what
a sentence says, not by a threshold.
"""

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from uuid import UUID

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.database import DatabaseManager
from repositories.errors import ConflictError, DatabaseStateError
from repositories.workspaces import WorkspaceRepository
from worker.documents.extract.blocks import clean
from worker.documents.parsing import Parsers
from worker.engines.base import (
    Answer,
    Document,
    DocumentRejectedError,
    EngineUnavailableError,
    Rebuilt,
    StoredDocument,
    Work,
    WorkspaceSettings,
    WorkspaceUnknownError,
    check_workspace_name,
    unnoticed,
)
from worker.engines.local import embedding
from worker.engines.local.answering import answer
from worker.engines.local.evidence import words_of
from worker.engines.local.lexicon import Lexicon
from worker.engines.local.search import count_words, find_candidates
from worker.engines.local.store import ENGINE, PASSAGES_AT_A_TIME, Held, Store
from worker.engines.local.words import tokens

_LOG = structlog.get_logger(__name__)
_LONGEST_SLUG = 60
_SLUG_TRIES = 1_000
_LONGEST_QUESTION = 2_000
_ITERATIVE_SINCE = (0, 8)  # version of pgvector
_TABLES = ("workspaces", "documents", "passages")


class LocalEngine:
    """The protocol's calls, over one database.

    Args:
        database: its schema must be migrated; whoever made it closes it.
        parsers: processes that parse documents at the same time (1 or more).
        parse_seconds: bound on the time for parsing one document (1 or more).
        max_characters: bound on the text of one document.
        max_parser_bytes: bound on the memory that one document may take in its parser.

    Raises:
        RuntimeError: the extra ``local`` is not installed.
    """

    name = ENGINE
    embeds_in_groups = False

    def __init__(
        self,
        database: DatabaseManager,
        *,
        parsers: int = 2,
        parse_seconds: int = 60,
        max_characters: int = 20_000_000,
        max_parser_bytes: int = 2**30,
    ) -> None:
        missing = [package for package in ("kreuzberg", "wordllama") if find_spec(package) is None]
        if missing:
            raise RuntimeError(
                f"the local engine needs {' and '.join(missing)}: install anythingllm-worker[local], "
                "or set ANYTHINGLLM_URL to use AnythingLLM"
            )
        self._database = database
        self._parsers = Parsers(parsers, parse_seconds, max_characters, max_parser_bytes)
        self._lexicon = Lexicon()
        self._pgvector: tuple[int, ...] | None = None
        self._looked_for_pgvector = False

    async def ensure_workspace(self, name: str, settings: WorkspaceSettings | None = None) -> str:
        """Return the slug of the workspace called ``name``, made now if it is new; see the protocol.

        Raises:
            ValueError: the name is empty, or longer than 255 characters.
        """
        check_workspace_name(name)
        given = {} if settings is None else settings.model_dump(exclude_none=True)
        wanted = _slug(name)
        for number in range(1, _SLUG_TRIES + 1):
            try:
                async with self._transaction() as session:
                    workspaces = WorkspaceRepository(session, ENGINE)
                    slug = wanted if number == 1 else f"{wanted}-{number}"
                    found = await workspaces.get(name) or await workspaces.register(name, slug, given)
                    if any(found.settings.get(setting) != value for setting, value in given.items()):
                        await Store(session).configure(found.id, given)
                    return found.slug
            except ConflictError as error:
                # Another name has this slug, or another process registered this very name just now: look again.
                if error.constraint != "uq_workspaces_engine_slug":
                    raise
        raise EngineUnavailableError("engine_unavailable", f"{_SLUG_TRIES} workspaces are called much like {name}")

    async def delete_workspace(self, slug: str) -> bool:
        """Remove a workspace, its row on the record included; see the protocol."""
        async with self._transaction() as session:
            return await WorkspaceRepository(session, ENGINE).forget(slug)

    async def locations(self, slug: str) -> frozenset[str]:
        """Return the locations of all searchable documents; see the protocol."""
        async with self._session() as session:
            found = await Store(session).locations(slug)
        if found is None:
            raise _unknown(slug)
        return frozenset(map(str, found))

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        """Store a document with its passages, once per key; see the protocol."""
        async with self._session() as session:
            workspace_id, held = await Store(session).find(slug, document.key)
        if workspace_id is None:
            raise _unknown(slug)
        if held is None:
            parsed = await self._parsers.parse(document)
            async with self._transaction() as session:
                held = await Store(session).add(workspace_id, document, parsed)
                if held is None:  # another worker stored it while it was parsed here
                    _, held = await Store(session).find(slug, document.key)
        if held is None:  # the workspace was deleted meanwhile
            raise _unknown(slug)
        return StoredDocument(
            key=document.key,
            locations=(str(held.id),),
            pages=held.pages,
            words=held.words,
            passages=held.passages,
        )

    async def embed(self, slug: str, stored: StoredDocument, *, on_embedded: Callable[[], None] = unnoticed) -> bool:
        """Give the passages of a document their vectors and make them searchable; see the protocol.

        What is verified is that the record, read again, has every document as embedded.
        """
        ids = [_location(location) for location in dict.fromkeys(stored.locations)]
        async with self._session() as session:
            held = await _held(session, slug, ids)
            ids = [document.id for document in held if not document.is_embedded]
            if ids and await self._version_of_pgvector(session) is not None:
                places = await Store(session).passages(ids)
            else:
                places = []
        last = not ids
        while not last:
            vectors = await embedding.embed([f"{place.heading or place.name}\n{place.text}" for place in places])
            last = len(places) < PASSAGES_AT_A_TIME
            async with self._transaction() as session:
                await Store(session).make_searchable(ids, places, vectors, last=last)
            if not last:
                async with self._session() as session:
                    places = await Store(session).passages(ids, after=places[-1])
        on_embedded()
        if ids:  # somebody may have removed it meanwhile
            async with self._session() as session:
                await _held(session, slug, ids)
        return False

    async def rebuild(self, slug: str, recorded: Callable[[], Awaitable[Collection[str]]]) -> Rebuilt:
        """Return what stands in the workspace: passages belong to documents here, by their foreign key."""
        del recorded
        return Rebuilt(slug, len(await self.locations(slug)))

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        """Remove documents with their passages; see the protocol."""
        ids = [known for location in locations if (known := _id_of(location)) is not None]
        async with self._transaction() as session:
            if not await Store(session).remove(slug, ids):
                raise _unknown(slug)

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        """Remove what a job stored and does not keep; see the protocol. A workspace that is gone holds nothing."""
        ids = [known for location in keep if (known := _id_of(location)) is not None]
        async with self._transaction() as session:
            return await Store(session).sweep(slug, job_id, ids)

    async def ask(self, slug: str, question: str) -> Answer:
        """Answer one question by quoting the workspace; see the protocol.

        Raises:
            ValueError: the question is empty, or longer than 2,000 characters.
        """
        question = " ".join(clean(question).split())
        if not 0 < len(question) <= _LONGEST_QUESTION:
            raise ValueError(f"a question has 1 to {_LONGEST_QUESTION:,} characters, this one has {len(question):,}")
        words = [token.text for token in tokens(question)]
        (vector,) = await embedding.embed([question])
        async with self._transaction() as session:
            counts = await count_words(session, slug, words)
            if counts is None:
                raise _unknown(slug)
            version = await self._version_of_pgvector(session)
            candidates = await find_candidates(
                session,
                counts,
                words,
                vector if version is not None else None,
                iterative=version is not None and version >= _ITERATIVE_SINCE,
            )
            vocabulary = await self._lexicon.vocabulary(session, words_of(question, candidates))
        known = {name: value for name, value in counts.settings.items() if name in WorkspaceSettings.model_fields}
        settings = WorkspaceSettings.model_validate(known)
        return await asyncio.to_thread(answer, question, counts, candidates, vocabulary, settings)

    async def health(self, work: Work = Work.DOCUMENTS, slug: str | None = None) -> None:
        """Return if PostgreSQL answers and has the tables, for whatever work; see the protocol."""
        del work, slug
        async with self._session() as session:
            missing = [table for table in _TABLES if await session.scalar(select(func.to_regclass(table))) is None]
        if missing:
            raise EngineUnavailableError(
                "engine_unavailable", f"the database has no table {missing[0]}: bring its schema up to date"
            )

    async def away(self) -> Mapping[Work, str]:
        """Nothing is left alone: without PostgreSQL no job runs at all."""
        return {}

    async def aclose(self) -> None:
        """End the parser processes. The database stays open: it is its owner's."""
        await self._parsers.aclose()

    async def _version_of_pgvector(self, session: AsyncSession) -> tuple[int, ...] | None:
        """Return the version of pgvector if passages have vectors, else ``None``; the log says so once."""
        if not self._looked_for_pgvector:
            found = await session.scalar(text(_PGVECTOR))
            self._pgvector = tuple(int(part) for part in re.findall(r"\d+", found)) if found else None
            self._looked_for_pgvector = True
            if self._pgvector is None:
                _LOG.warning("engine.without_vectors", hint="install pgvector and migrate to search by meaning as well")
        return self._pgvector

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._database.get_session() as session:
                yield session
        except DatabaseStateError as error:
            raise EngineUnavailableError("engine_unavailable", str(error)) from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._database.get_transaction() as session:
                yield session
        except DatabaseStateError as error:
            raise EngineUnavailableError("engine_unavailable", str(error)) from error


_PGVECTOR = """
    SELECT extversion FROM pg_extension
    WHERE extname = 'vector' AND EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass('passages') AND attname = 'embedding' AND NOT attisdropped)
"""


async def _held(session: AsyncSession, slug: str, ids: Sequence[UUID]) -> list[Held]:
    """Return these documents as the workspace holds them.

    Raises:
        WorkspaceUnknownError: no workspace has this slug.
        DocumentRejectedError: it does not hold one of them.
    """
    held = await Store(session).held(slug, ids)
    if held is None:
        raise _unknown(slug)
    if missing := set(ids) - {document.id for document in held}:
        raise _not_stored(str(min(missing)))
    return held


def _unknown(slug: str) -> WorkspaceUnknownError:
    return WorkspaceUnknownError("workspace_unknown", f"there is no workspace {slug}; create it or correct the name")


def _not_stored(location: str) -> DocumentRejectedError:
    return DocumentRejectedError("not_stored", f"the workspace holds no document {location}; upload it again")


def _location(location: str) -> UUID:
    known = _id_of(location)
    if known is None:
        raise _not_stored(location)
    return known


def _id_of(location: str) -> UUID | None:
    try:
        return UUID(location)
    except ValueError:
        return None  # no location of this engine


def _slug(name: str) -> str:
    """Return the name in lower-case ASCII letters, digits and hyphens; names without any are ``workspace``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST_SLUG].strip("-") or "workspace"
