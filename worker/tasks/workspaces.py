"""``workspace_creation``, ``workspace_deletion`` and ``workspace_rebuild``: jobs without items."""

from typing import Any

from repositories.documents import DocumentRepository
from repositories.workspaces import WorkspaceNotFoundError, WorkspaceRepository
from worker.engines.base import WorkspaceUnknownError
from worker.errors import JobFailedError
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


async def workspace_rebuild(run: Run) -> dict[str, Any]:
    """Make a workspace new from the documents that stand in it; broken off, the next attempt goes on where it was.

    Uploads and questions that begin meanwhile wait; an answer that was given meanwhile is not taken.
    """
    payload, runtime = run.payload(WorkspacePayload), run.runtime
    try:
        async with runtime.database.get_session() as session:
            known = await WorkspaceRepository(session, runtime.engine.name).get_or_raise(payload.workspace)
    except WorkspaceNotFoundError as error:
        raise JobFailedError("workspace_unknown", str(error)) from error

    async def recorded() -> set[str]:
        found, after = set[str](), 0
        async with runtime.database.get_session() as session:
            while page := await DocumentRepository(session).standing(known.id, after):
                found.update(location for document in page for location in document.locations)
                after = page[-1].id
        return found

    try:
        rebuilt = await runtime.engine.rebuild(known.slug, recorded)
    except WorkspaceUnknownError as error:
        raise JobFailedError(error.code, error.message) from error
    return {"workspace_slug": rebuilt.slug, "engine": runtime.engine.name, "documents": rebuilt.documents}
