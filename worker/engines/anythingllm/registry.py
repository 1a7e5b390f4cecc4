"""What all workers must agree on about AnythingLLM's workspaces, in PostgreSQL: their slugs, and who makes them.

The server makes a second workspace of the same name without a word, and loses documents that are embedded at once into
a workspace without any. So both are done under a lock between processes, and what was done is on the record.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Final

from repositories.database import DatabaseManager
from repositories.documents import DocumentRepository
from repositories.locks import Locks
from repositories.models import Workspace
from repositories.workspaces import WorkspaceRepository

ENGINE: Final = "anythingllm"


class Registry:
    """The record of one engine's workspaces.

    Args:
        database: its schema must be migrated; whoever made it closes it.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        self._locks = Locks(database)

    @asynccontextmanager
    async def lock(self, subject: str, name: str) -> AsyncIterator[None]:
        """Be the only one, over all processes, that does ``subject`` to ``name``; wait until it is so."""
        digest = sha256(name.encode()).hexdigest()[:32]  # a name may be as long as a lock's, or longer
        async with self._locks.hold(f"{ENGINE} {subject} {digest}"):
            yield

    async def slug_of(self, name: str) -> str | None:
        """Return the slug on the record for a workspace's name."""
        async with self._database.get_session() as session:
            found = await WorkspaceRepository(session, ENGINE).get(name)
            return None if found is None else found.slug

    async def by_slug(self, slug: str) -> Workspace | None:
        """Return the workspace on the record that the server calls ``slug``."""
        async with self._database.get_session() as session:
            return await WorkspaceRepository(session, ENGINE).by_slug(slug)

    async def record(self, name: str, slug: str) -> None:
        """Put a workspace on the record that was just made or found on the server; nothing is known of it yet."""
        async with self._database.get_transaction() as session:
            workspaces = WorkspaceRepository(session, ENGINE)
            other = await workspaces.by_slug(slug)
            if other is not None and other.name != name:  # somebody renamed it on the server
                await workspaces.forget(slug)
            if not await workspaces.rename_slug(name, slug):
                await workspaces.register(name, slug)

    async def locations(self, seen: Workspace) -> set[str]:
        """Return where the documents of a workspace stand, as far as they are on the record."""
        found, last = set[str](), 0
        async with self._database.get_session() as session:
            while page := await DocumentRepository(session).standing(seen.id, last):
                found.update(location for document in page for location in document.locations)
                last = page[-1].id
        return found

    async def forget(self, seen: Workspace) -> None:
        """Take a workspace off the record, as it was seen there: one that was made anew under its slug stays."""
        async with self._database.get_transaction() as session:
            await WorkspaceRepository(session, ENGINE).forget_seen(seen)

    async def rebuild_of(self, name: str) -> dict[str, Any] | None:
        """Return how far the rebuild of a workspace is; ``None`` if none is under way."""
        async with self._database.get_session() as session:
            found = await WorkspaceRepository(session, ENGINE).get(name)
            return None if found is None else found.rebuild

    async def note_rebuild(self, name: str, slug: str, state: dict[str, Any]) -> None:
        """Record how far the rebuild of a workspace is, and what the server calls it now."""
        async with self._database.get_transaction() as session:
            await WorkspaceRepository(session, ENGINE).note_rebuild(name, slug, state)

    async def end_rebuild(self, name: str) -> None:
        """Record that a workspace was rebuilt."""
        async with self._database.get_transaction() as session:
            await WorkspaceRepository(session, ENGINE).end_rebuild(name)

    async def is_embedded(self, slug: str) -> bool:
        """Return whether a document was seen to be searchable in this workspace."""
        async with self._database.get_session() as session:
            return await WorkspaceRepository(session, ENGINE).is_embedded(slug)

    async def mark_embedded(self, slug: str) -> None:
        """Record that a document was seen to be searchable in this workspace."""
        async with self._database.get_transaction() as session:
            await WorkspaceRepository(session, ENGINE).mark_embedded(slug)
