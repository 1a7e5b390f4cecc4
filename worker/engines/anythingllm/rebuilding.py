"""Making a workspace new from what stands in it: the only way to be rid of vectors that belong to no document.

The server keeps uploaded documents and their cached vectors when it deletes a workspace, so nothing is read or embedded
anew by its models. What it does not keep are the workspace's chats and threads. How far a rebuild is stands on the
record before each step that cannot be repeated: begun again, it goes on from there.
"""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Final

import structlog
from pydantic import BaseModel

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.embedding import Embedding
from worker.engines.anythingllm.errors import unavailable, workspace_unknown
from worker.engines.anythingllm.finding import Sight, look_for
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.registry import Registry
from worker.engines.anythingllm.replies import Workspace
from worker.engines.anythingllm.workspaces import SETTINGS
from worker.engines.base import Rebuilt, StoredDocument, WorkspaceUnknownError

_ROUNDS: Final = 5
_KEPT: Final = SETTINGS | {
    "temperature": "openAiTemp",
    "history": "openAiHistory",
    "chat_provider": "chatProvider",
    "chat_model": "chatModel",
    "agent_provider": "agentProvider",
    "agent_model": "agentModel",
    "search_mode": "vectorSearchMode",
}
"""What a rebuilt workspace keeps: a setting that we know, and what it is called on the server."""

_LOG = structlog.get_logger(__name__)


class Rebuild(BaseModel):
    """How far a rebuild is.

    Attributes:
        name: as the server has it.
        known_ids: workspaces of that name that were there before, the old one among them; ``old_id`` is its own.
        settings: of the old workspace, by the server's names.
        locations: what stood in it.
        slug: the new one, once it is made.
    """

    name: str
    old_id: int
    known_ids: list[int]
    settings: dict[str, Any]
    locations: list[str]
    slug: str | None = None


class Rebuilding:
    """Rebuilds workspaces of one server.

    Args:
        api: the server.
        patience: how often a call is made again.
        registry: the record, and the locks.
        embedding: puts documents in.
    """

    def __init__(self, api: Api, patience: Patience, registry: Registry, embedding: Embedding) -> None:
        self._api, self._patience, self._registry, self._embedding = api, patience, registry, embedding

    async def rebuild(self, slug: str, recorded: Callable[[], Awaitable[Collection[str]]]) -> Rebuilt:
        """Make a workspace new; see the protocol."""
        seen = await self._registry.by_slug(slug)
        if seen is None:
            raise workspace_unknown(slug)
        async with self._registry.lock("workspace", seen.name):
            state = await self._begun(seen.name, slug)
            if state.slug is None:
                state.slug = await self._made_anew(state, slug)
                await self._registry.note_rebuild(seen.name, state.slug, state.model_dump())
            async with self._registry.lock("first embedding", state.slug):
                count = await self._filled(state.slug, state.locations, recorded)
            await self._registry.end_rebuild(seen.name)
        return Rebuilt(state.slug, count)

    async def _begun(self, name: str, slug: str) -> Rebuild:
        """Return how far the rebuild is; if it was not begun, note what is there now."""
        known = await self._registry.rebuild_of(name)
        if known is not None:
            _LOG.info("rebuild.resumed", workspace=slug)
            return Rebuild.model_validate(known)
        workspace = await self._patience.call(self._api.workspace, slug)
        if workspace is None:
            raise workspace_unknown(slug)
        state = Rebuild(
            name=workspace.name,
            old_id=workspace.id,
            known_ids=[each.id for each in await self._of_name(workspace.name)],
            settings={wanted: getattr(workspace, field) for field, wanted in _KEPT.items()},
            locations=sorted({row.docpath for row in workspace.documents}),
        )
        await self._registry.note_rebuild(name, slug, state.model_dump())
        return state

    async def _made_anew(self, state: Rebuild, old_slug: str) -> str:
        """Delete the old workspace and make the new one; each only if an earlier try did not."""
        old = await self._patience.call(self._api.workspace, old_slug)
        if old is not None and old.id == state.old_id:
            await self._patience.run(lambda number: self._delete(state.old_id, old_slug, number))
            _LOG.info("rebuild.deleted", workspace=old_slug, documents=len(state.locations))
        made = await self._patience.call(self._found_or_made, state)
        settings = {name: value for name, value in state.settings.items() if value not in (None, "")}
        await self._patience.call(self._api.update_workspace, made.slug, settings)
        return made.slug

    async def _delete(self, old_id: int, slug: str, number: int) -> None:
        if number > 1:
            there = await self._api.workspace(slug)
            if there is None or there.id != old_id:
                return
        with suppress(WorkspaceUnknownError):
            await self._api.delete_workspace(slug)

    async def _found_or_made(self, state: Rebuild) -> Workspace:
        made = [each for each in await self._of_name(state.name) if each.id not in state.known_ids]
        return min(made, key=lambda each: each.id) if made else await self._api.new_workspace(state.name)

    async def _of_name(self, name: str) -> list[Workspace]:
        return [each for each in await self._patience.call(self._api.workspaces) if each.name == name]

    async def _filled(
        self, slug: str, locations: Collection[str], recorded: Callable[[], Awaitable[Collection[str]]]
    ) -> int:
        """Put every document in that stood there, or that the record has there by now; return how many do.

        Raises:
            EngineUnavailableError: one is stored, and cannot be put in.
        """
        gone = set[str]()
        for _ in range(_ROUNDS):
            rows = await self._patience.call(self._api.rows, slug)
            wanted = sorted({*locations, *await recorded()} - gone)
            missing = [location for location in wanted if not rows[location]]
            if not missing:
                rows = await self._embedding.leave_one(slug, wanted, rows)
                if without := [location for location in wanted if not await self._is_found(slug, location)]:
                    _LOG.warning("rebuild.repaired", workspace=slug, location=without[0])
                    await self._embedding.send(slug, without, anew=True)
                    continue
                return len(wanted)
            if not rows:  # the first alone: it makes the table
                await self._embedding.send(slug, missing[:1])
            await self._embedding.send(slug, missing)
            rows = await self._patience.call(self._api.rows, slug)
            for location in [each for each in missing if not rows[each]]:
                if await self._patience.call(self._api.title, location) is None:
                    gone.add(location)  # somebody removed it since
        raise unavailable(f"{slug}: its documents cannot all be put in again, {missing[0] if missing else without[0]}")

    async def _is_found(self, slug: str, location: str) -> bool:
        """Return whether a document has vectors; of what people uploaded only the row tells."""
        key = naming.key_of(location)
        if key is None:
            return True
        stored = StoredDocument(key=key, locations=(location,))
        seen = await look_for(self._api, self._patience, slug, stored, title=None)
        return seen.sight is not Sight.ABSENT
