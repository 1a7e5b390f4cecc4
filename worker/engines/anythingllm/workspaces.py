"""Workspaces on the server: one for a name, whoever asks and however often, made and deleted."""

from contextlib import suppress
from typing import Any, Final

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.errors import unavailable
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.registry import Registry
from worker.engines.anythingllm.removing import Removing
from worker.engines.anythingllm.replies import Workspace
from worker.engines.base import WorkspaceSettings, WorkspaceUnknownError

_LONGEST_NAME: Final = 255
SETTINGS: Final = {
    "top_n": "topN",
    "similarity_threshold": "similarityThreshold",
    "chat_mode": "chatMode",
    "prompt": "openAiPrompt",
    "refusal": "queryRefusalResponse",
}
"""What a setting is called on the server."""


class Workspaces:
    """One for a name.

    Args:
        api: the server.
        registry: which slug belongs to which name.
        removing: takes the documents of a deleted workspace off the server.
        patience: how often a call is made again.
    """

    def __init__(self, api: Api, registry: Registry, removing: Removing, patience: Patience) -> None:
        self._api, self._registry, self._removing, self._patience = api, registry, removing, patience

    async def ensure(self, name: str, settings: WorkspaceSettings | None) -> tuple[str, bool]:
        """Return the slug of the workspace called ``name``, and whether no document stands in it.

        The one on the record, if it is still there; else the oldest of that name on the server; else a new one.
        """
        workspace = await self._on_record(name)
        if workspace is None:
            async with self._registry.lock("workspace", name):
                workspace = await self._on_record(name)  # while this one waited, another may have made it
                if workspace is None:
                    if await self._registry.rebuild_of(name) is not None:  # by a worker that died: it is taken up again
                        raise unavailable(f"workspace {name} is being rebuilt")
                    workspace = await self._patience.call(self._find_or_make, name)
                    await self._registry.record(name, workspace.slug)
        if settings is not None and (changes := _changes(workspace, settings)):
            slug = workspace.slug
            await self._patience.call(self._api.update_workspace, slug, changes)
        return workspace.slug, not workspace.documents

    async def exists(self, slug: str) -> bool:
        """Return whether the server has this workspace."""
        return await self._patience.call(self._api.workspace, slug) is not None

    async def delete(self, slug: str) -> bool:
        """Delete a workspace with the documents that jobs put into it.

        Returns:
            ``False`` if there was none, neither on the server nor on the record. One that is only on the record was
            deleted by a call that was broken off, or by people: what the record has of its documents is removed.

        Documents that people uploaded on the server stay there, and so do those that stand in another workspace too.
        Whoever wants the workspace anew meanwhile waits: the server would give it the same slug, and what is put into
        it would go with the old one.
        """
        name = await self._name_of(slug)
        if name is None:
            return False
        async with self._registry.lock("workspace", name):
            seen = await self._registry.by_slug(slug)
            workspace = await self._patience.call(self._api.workspace, slug)
            if workspace is not None:
                await self._patience.run(lambda number: self._delete(slug, number))
            standing = {row.docpath for row in workspace.documents} if workspace is not None else set[str]()
            if seen is not None:
                standing |= await self._registry.locations(seen)
            await self._remove_documents({location for location in standing if _is_of_a_job(location)})
            # After the documents: if their removal is broken off, only the record still knows of them.
            if seen is not None:
                await self._registry.forget(seen)
        return workspace is not None or seen is not None

    async def _name_of(self, slug: str) -> str | None:
        """The name that :meth:`ensure` is asked for, under which it locks: the record's, else the server's."""
        if (seen := await self._registry.by_slug(slug)) is not None:
            return seen.name
        workspace = await self._patience.call(self._api.workspace, slug)
        return None if workspace is None else workspace.name

    async def _delete(self, slug: str, number: int) -> None:
        if number == 1 or await self._api.workspace(slug) is not None:
            with suppress(WorkspaceUnknownError):  # somebody else was faster
                await self._api.delete_workspace(slug)

    async def _remove_documents(self, locations: set[str]) -> None:
        """Remove documents that stood in a deleted workspace; whole folders where nothing in them stands elsewhere."""
        if not locations:
            return
        elsewhere = set[str]()
        for other in await self._patience.call(self._api.workspaces):
            found = await self._patience.call(self._api.workspace, other.slug)
            elsewhere.update(row.docpath for row in (found.documents if found is not None else ()))
        shared = {naming.folder_of(location) for location in elsewhere}
        for folder in sorted({naming.folder_of(location) for location in locations} - shared):
            await self._removing.remove_folder(folder)
        left = sorted(location for location in locations - elsewhere if naming.folder_of(location) in shared)
        await self._removing.remove_stored(left)

    async def _on_record(self, name: str) -> Workspace | None:
        slug = await self._registry.slug_of(name)
        return None if slug is None else await self._patience.call(self._api.workspace, slug)

    async def _find_or_make(self, name: str) -> Workspace:
        """Look before making, also after trouble: the server makes as many of one name as it is asked for."""
        kept = _as_kept(name)
        found = [workspace for workspace in await self._api.workspaces() if _as_kept(workspace.name) == kept]
        if not found:
            return await self._api.new_workspace(name)
        oldest = min(found, key=lambda workspace: workspace.id)
        return await self._api.workspace(oldest.slug) or oldest


def _as_kept(name: str) -> str:
    """The name as the server keeps it: cut at 255 of JavaScript's characters, of which an emoji has two.

    A name that was cut is compared without the last of them: half an emoji comes back as something else.
    """
    units = name.encode("utf-16-le", "replace")
    return name if len(units) < 2 * _LONGEST_NAME else units[: 2 * _LONGEST_NAME - 2].decode("utf-16-le", "ignore")


def _is_of_a_job(location: str) -> bool:
    return naming.FOLDER.fullmatch(naming.folder_of(location)) is not None


def _changes(workspace: Workspace, settings: WorkspaceSettings) -> dict[str, Any]:
    """What is wanted otherwise than it stands, by the server's names."""
    wanted = settings.model_dump(exclude_none=True)
    return {SETTINGS[field]: value for field, value in wanted.items() if getattr(workspace, field) != value}
