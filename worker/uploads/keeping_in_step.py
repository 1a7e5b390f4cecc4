"""Keeping a workspace in step with what was uploaded: before the first item, and after the last one.

Before: what somebody removed from the engine leaves the record. After: what a lost attempt left in the engine is
removed there; new versions take the place of old ones; a sync removes what its source holds no more. What another set
of documents relies on is never removed by that.
"""

from typing import Any

from repositories.documents import DocumentRepository, Reference
from repositories.items import ItemRepository
from repositories.models import JobItem, WorkspaceDocument
from repositories.states import ItemStatus
from repositories.workspaces import WorkspaceRepository
from worker.errors import CancelRequestedError
from worker.payloads import DocumentUploadPayload, OnDuplicate
from worker.rebuilds import check_stayed, stay_out
from worker.recorder import AttemptLostError
from worker.run import Run
from worker.uploads.places import Place, WorkspaceGoneError
from worker.uploads.removing import finish_removal, remove
from worker.uploads.sweeping import sweep_at_end, sweep_emptied


async def find_place(run: Run, payload: DocumentUploadPayload) -> Place:
    """Have the workspace made, and drop from its record what somebody removed behind our back.

    What earlier attempts stored in a workspace that was removed since is to be done again.

    Raises:
        AttemptLostError: another attempt owns the job.
        Snooze: the workspace is being rebuilt.
    """
    runtime = run.runtime
    rebuilt_at = await stay_out(run, payload.workspace)
    slug = await runtime.engine.ensure_workspace(payload.workspace, payload.settings)
    async with runtime.database.get_transaction() as session:
        workspace = await WorkspaceRepository(session, runtime.engine.name).register(payload.workspace, slug)
        asked_at = await DocumentRepository(session).clock()
        place = Place(workspace.id, slug, workspace.created_at)
        if run.job.attempt > 1 and not await ItemRepository(session).reopen(run.held, before=place.made_at):
            raise AttemptLostError(run.held)
    locations = await runtime.engine.locations(slug)
    await check_stayed(run, payload.workspace, rebuilt_at)
    async with runtime.database.get_transaction() as session:
        halves = await DocumentRepository(session).forget_missing(
            run.held, place.workspace_id, locations, before=asked_at
        )
    await finish_removal(runtime, slug, run.held, halves)  # a workbook of which one sheet was removed
    return place


async def start_over(run: Run) -> None:
    """Have every item done again: what they stored is gone with its workspace."""
    async with run.runtime.database.get_transaction() as session:
        await ItemRepository(session).reopen(run.held)


async def finish(run: Run, payload: DocumentUploadPayload, place: Place) -> tuple[list[JobItem], dict[str, Any]]:
    """Do what comes after the last item; return all items, and what is to be told of it.

    Raises:
        CancelRequestedError: cancellation was asked for before anything was removed.
        AttemptLostError: another attempt owns the job.
        WorkspaceGoneError: the workspace was removed meanwhile, with what the job had stored in it.
    """
    runtime = run.runtime
    items, swept = await sweep_at_end(run, place.slug)
    told: dict[str, Any] = {"swept": swept} if swept else {}
    if run.cancel_requested:
        raise CancelRequestedError
    references = [
        Reference(item.key, item.result["sha256"])
        for item in items
        if item.status in (ItemStatus.DONE, ItemStatus.SKIPPED) and item.result and "sha256" in item.result
    ]
    replaces, syncs = payload.on_duplicate is OnDuplicate.REPLACE, payload.sync and payload.source is not None
    is_whole = not any(item.status is ItemStatus.FAILED for item in items)
    old: list[WorkspaceDocument] = []
    async with runtime.database.get_transaction() as session:
        documents = DocumentRepository(session)
        if not await documents.settle(
            place.workspace_id, references, payload.source, whole=payload.sync, made_at=place.made_at
        ):
            raise WorkspaceGoneError
        if replaces:
            old += await documents.superseded(place.workspace_id, run.job.id, references)
        if payload.source is not None and syncs and is_whole:
            old += await documents.gone(place.workspace_id, payload.source, references, before=run.job.id)
    removed = await remove(run, place.slug, old) if old or run.job.attempt > 1 else []
    await sweep_emptied(run, place.slug, {document.job_id for document in old if document.job_id != run.job.id})
    names = {reference.name for reference in references}
    if replaces:
        told["replaced"] = sum(document.name in names for document in removed)
    if syncs and is_whole:
        told["removed"] = sum(document.name not in names for document in removed)
    elif syncs:
        told |= {"removed": 0, "sync": "nothing was removed, because some documents failed"}
    return items, told
