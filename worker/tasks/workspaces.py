"""``workspace_creation`` and ``workspace_deletion``: jobs without items."""

from typing import Any

from repositories.workspaces import WorkspaceRepository
from worker.payloads import WorkspacePayload
from worker.run import Run


async def workspace_creation(run: Run) -> dict[str, Any]:
    """Make a workspace, once per name, and give it the settings; one that is there gets only those."""
    payload, runtime = run.payload(WorkspacePayload), run.runtime
    slug = await runtime.engine.ensure_workspace(payload.workspace, payload.settings)
    async with runtime.database.get_transaction() as session:
        await WorkspaceRepository(session, runtime.engine.name).register(payload.workspace, slug)
    return {"workspace_slug": slug, "engine": runtime.engine.name}


async def workspace_deletion(run: Run) -> dict[str, Any]:
    """Remove a workspace and all that stands in it; one that is not there is removed already.

    Off the record goes the row that was seen at the start, where the engine has not taken it off itself: what was made
    anew meanwhile, under the same slug, has a row of its own.
    """
    payload, runtime = run.payload(WorkspacePayload), run.runtime
    async with runtime.database.get_session() as session:
        known = await WorkspaceRepository(session, runtime.engine.name).get(payload.workspace)
    if known is None:
        return {"removed": False, "engine": runtime.engine.name}
    removed = await runtime.engine.delete_workspace(known.slug)
    async with runtime.database.get_transaction() as session:
        await WorkspaceRepository(session, runtime.engine.name).forget_seen(known)
    return {"removed": removed, "workspace_slug": known.slug, "engine": runtime.engine.name}
