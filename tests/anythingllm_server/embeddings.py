"""Embedding documents into workspaces, with the silent failures and the race of the first ones (§4)."""

import asyncio

from tests.anythingllm_server.behaviour import FaultKind
from tests.anythingllm_server.counters import add, busy
from tests.anythingllm_server.embedding import Vector, chunks_of
from tests.anythingllm_server.records import Cached, StoredDocument, Workspace, new_id
from tests.anythingllm_server.world import World

EMBEDDER_ERROR = "GenericOpenAI Failed to embed: Connection error."


class EmbedderDownError(Exception):
    """The embedder does not answer."""


class KilledError(Exception):
    """The server died here; whoever started it has started it again."""


class _NotEmbeddedError(Exception):
    """A document got no vectors; only the real server's log says why."""


async def call_embedder(world: World, text: str) -> Vector:
    """Return the vector of a text, after the time of one call.

    Raises:
        EmbedderDownError: there is an outage.
    """
    if world.embedder_is_down:
        raise EmbedderDownError(EMBEDDER_ERROR)
    seconds, jitter = world.behaviour.embedder_seconds, world.behaviour.embedder_jitter
    world.counters.embedder_calls += 1
    await asyncio.sleep(seconds * world.chance.uniform(1 - jitter, 1 + jitter))
    return world.vector(text)


async def embed(world: World, workspace: Workspace, locations: list[str], route: str) -> None:
    """Embed documents one after the other (§4). What cannot be embedded is left out, and nobody is told."""
    for location in locations:
        document = world.document(location)
        name = f"{workspace.slug} {location}"
        if document is None or world.draw(FaultKind.EMBED_SILENT, route):
            add(world.counters.skipped, name)
            continue
        doc_id = new_id()
        try:
            chunks = await _chunks(world, document)
            await _store(world, workspace, document, doc_id, chunks, route)
        except (EmbedderDownError, _NotEmbeddedError):
            add(world.counters.skipped, name)
            continue
        if world.draw(FaultKind.EMBED_KILLED, route):
            raise KilledError
        now_there = world.workspaces.get(workspace.slug)
        if now_there is not None and now_there.id == workspace.id:  # it was not deleted meanwhile
            world.add_row(workspace, document, doc_id)  # a second time makes a second row (§4)
            add(world.counters.embedded, name)


async def _chunks(world: World, document: StoredDocument) -> list[str]:
    """Return the pieces of a document; the embedder is asked only the first time (§4: cached per location)."""
    await asyncio.sleep(world.behaviour.embed_seconds)
    busy(world.counters, "embedding", world.behaviour.embed_seconds)
    if (cached := world.cached.get(document.location)) is not None:
        return cached.chunks
    # The header is a part of every piece: it is embedded, and it comes back in `sources[].text` (§5).
    header = (
        f"<document_metadata>\nsourceDocument: {document.title}\npublished: {document.published}\n</document_metadata>"
    )
    pieces = chunks_of(document.content, world.behaviour.chunk_characters)
    if not pieces:
        raise _NotEmbeddedError(document.location)
    chunks = [f"{header}\n\n{piece}" for piece in pieces]
    await call_embedder(world, document.content)
    world.cached.put(document.location, Cached(chunks=chunks))
    return chunks


async def _store(
    world: World, workspace: Workspace, document: StoredDocument, doc_id: str, chunks: list[str], route: str
) -> None:
    """Put vectors into the workspace's table; the first embedding of a workspace makes it (§4.1)."""
    slug = workspace.slug
    if world.draw(FaultKind.EMBED_ROW_WITHOUT_VECTORS, route):
        add(world.counters.lost_vectors, f"{slug} {document.location}")
        return
    if slug not in world.tables:
        if gap := world.behaviour.table_seconds:
            await asyncio.sleep(world.chance.uniform(0, gap))
            if slug in world.tables:
                raise _NotEmbeddedError(f"Table '{slug}' already exists")
            # Two that come this far both make the table: the second takes the place of the first with its vectors.
            await asyncio.sleep(world.chance.uniform(0, gap / 3))
        lost = world.make_table(slug)
        for row in world.rows(workspace):
            if row.doc_id in lost:
                add(world.counters.lost_vectors, f"{slug} {row.location}")
    if not world.takes_vectors(slug):
        raise _NotEmbeddedError("the vectors have another length than those of the table")  # only its log says so (§10)
    world.add_vectors(slug, document, doc_id, chunks)
