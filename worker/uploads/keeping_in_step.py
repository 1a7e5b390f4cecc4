"""Keeping a workspace in step with what was uploaded: before the first item, and after the last one.

Before: what somebody removed from the engine leaves the record. After: what a lost attempt left in the engine is
removed there; new versions take the place of old ones; a sync removes what its source holds no more. What another set
of documents relies on is never removed by that.
"""

from collections.abc import Sequence
from typing import Any

from repositories.documents import DocumentRepository, Reference
from repositories.models import JobItem
from repositories.states import ItemStatus
from repositories.workspaces import WorkspaceRepository
from worker.errors import CancelRequestedError
from worker.payloads import DocumentUploadPayload, OnDuplicate
from worker.run import Run
from worker.uploads.storing import Place
from worker.uploads.sweeping import sweep_at_end


async def find_place(run: Run, payload: DocumentUploadPayload) -> Place:
    """Have the workspace made, and drop from its record what somebody removed behind our back."""
    runtime = run.runtime
    slug = await runtime.engine.ensure_workspace(payload.workspace, payload.settings)
    async with runtime.database.get_transaction() as session:
        workspace = await WorkspaceRepository(session, runtime.engine.name).register(payload.workspace, slug)
        asked_at = await DocumentRepository(session).clock()
    locations = await runtime.engine.locations(slug)
    async with runtime.database.get_transaction() as session:
        halves = await DocumentRepository(session).forget_missing(workspace.id, locations, before=asked_at)
    if halves:  # a workbook of which one sheet was removed
        await runtime.engine.remove(slug, halves)
    return Place(workspace.id, slug)


async def finish(run: Run, payload: DocumentUploadPayload, place: Place) -> tuple[list[JobItem], dict[str, Any]]:
    """Do what comes after the last item; return all items, and what is to be told of it.

    Raises:
        CancelRequestedError: cancellation was asked for before anything was removed.
        AttemptLostError: another attempt owns the job.
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
    async with runtime.database.get_transaction() as session:
        documents = DocumentRepository(session)
        await documents.settle(place.workspace_id, references, payload.source, whole=payload.sync)
        old = []
        if payload.on_duplicate is OnDuplicate.REPLACE:
            old = await documents.superseded(place.workspace_id, run.job.id, references)
    if payload.on_duplicate is OnDuplicate.REPLACE:
        told["replaced"] = await _remove(run, place, old)
    if payload.sync and payload.source is not None:
        if any(item.status is ItemStatus.FAILED for item in items):
            told |= {"removed": 0, "sync": "nothing was removed, because some documents failed"}
        else:
            async with runtime.database.get_session() as session:
                gone = await DocumentRepository(session).gone(
                    place.workspace_id, payload.source, references, before=run.job.id
                )
            told["removed"] = await _remove(run, place, gone)
    return items, told


async def _remove(run: Run, place: Place, documents: Sequence[Any]) -> int:
    """Remove documents from the engine, then from the record: a removal that was cut off is done again."""
    if not documents:
        return 0
    locations = [location for document in documents for location in document.locations]
    await run.runtime.engine.remove(place.slug, locations)
    async with run.runtime.database.get_transaction() as session:
        return await DocumentRepository(session).forget([document.id for document in documents])
