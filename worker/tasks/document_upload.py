"""``document_upload``: put files into a workspace and make them searchable.

The first attempt opens the zips and writes the item list; every attempt then does the items that are left. An item is
stored under a key of the job and its position, so an item that was stored by an attempt that died before it could say
so is found again, not stored twice. One bad file fails its item, never the job.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from repositories.items import ItemRepository
from repositories.models import JobItem
from repositories.schemas import MAX_ITEMS, ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus
from repositories.workspaces import WorkspaceRepository
from worker.documents.archives import ArchiveBounds, ArchiveEntry, ArchiveError, is_zip_archive, read_zip
from worker.documents.extract import sniff
from worker.engines.base import Document, DocumentRejectedError
from worker.payloads import DocumentUploadPayload, StoredFile
from worker.run import JobFailedError, Run
from worker.storage import StoredBytesMissingError


async def document_upload(run: Run) -> dict[str, Any]:
    """Carry out one attempt; the result holds the workspace's slug, the bytes stored and the failures by code."""
    payload = run.payload(DocumentUploadPayload)
    runtime = run.runtime
    slug = await runtime.engine.ensure_workspace(payload.workspace)
    async with runtime.database.get_transaction() as session:
        await WorkspaceRepository(session, runtime.engine.name).register(payload.workspace, slug)

    async def expand() -> Sequence[NewItem]:
        found = [spec for file in payload.files for spec in await _specs(run, file)]
        if len(found) > MAX_ITEMS:
            raise JobFailedError(
                "too_many_files", f"the job holds {len(found):,} files, at most {MAX_ITEMS:,}: split it"
            )
        return [NewItem(position=at, key=spec["name"], spec=spec) for at, spec in enumerate(found)]

    async def store(item: JobItem) -> ItemOutcome:
        return await _store(run, slug, item)

    await run.each(await run.items(expand), store)
    return await _result(run, slug)


async def _specs(run: Run, file: StoredFile) -> list[dict[str, Any]]:
    """What is to be stored of one file: the file itself, or each entry of a zip."""
    if file.sha256 is None or not file.name.lower().endswith(".zip"):
        return [file.model_dump(exclude_none=True)]
    # If its bytes are missing the attempt fails and comes again: what is in the zip is not known before it is there.
    content = await run.runtime.storage.get(file.sha256)
    if not is_zip_archive(file.name, content):
        error = JobError(code="corrupt", message=f"{file.name} is not a zip, whatever its name says")
        return [{"name": file.name, "error": error.model_dump()}]
    settings = run.runtime.settings
    bounds = ArchiveBounds(
        settings.max_archive_entries, settings.max_file_bytes, settings.max_archive_bytes, settings.max_archive_ratio
    )
    entries = read_zip(file.name, content, bounds)
    specs: list[dict[str, Any]] = []
    try:
        # Unpacking is CPU work, an entry at a time in a thread, so that memory holds one entry and not the archive.
        while (entry := await asyncio.to_thread(next, entries, None)) is not None:
            specs.append(await _entry_spec(run, entry))
    except ArchiveError as error:
        return [{"name": file.name, "error": error.error.model_dump()}]
    if not specs:
        empty = JobError(code="empty", message=f"{file.name} holds no files: there is nothing to store")
        return [{"name": file.name, "error": empty.model_dump()}]
    return specs


async def _entry_spec(run: Run, entry: ArchiveEntry) -> dict[str, Any]:
    if entry.error is not None:
        return {"name": entry.name, "error": entry.error.model_dump()}
    sha256 = await run.runtime.storage.put(entry.content)
    return {"name": entry.name, "sha256": sha256, "bytes": len(entry.content)}


async def _store(run: Run, slug: str, item: JobItem) -> ItemOutcome:
    """Read, store and embed one document; each phase is timed."""
    spec, timings = item.spec, dict[str, float]()
    if "error" in spec:
        return _failed(item, JobError.model_validate(spec["error"]), timings)
    engine = run.runtime.engine
    try:
        with _phase(timings, "read"):
            content = await run.runtime.storage.get(spec["sha256"])
            document = Document(
                key=f"{run.job.id}/{item.position}",
                name=item.key,
                content=content,
                sha256=spec["sha256"],
                media_type=sniff(content, item.key),
            )
        with _phase(timings, "store"):
            stored = await engine.add_document(slug, document)
        with _phase(timings, "embed"):
            # Also for content that was there: the job that put it there may have died before it embedded it.
            await engine.embed(slug, [stored.location])
    except DocumentRejectedError as error:
        return _failed(item, JobError(code=error.code, message=error.message), timings)
    except StoredBytesMissingError as error:
        return _failed(item, JobError(code="bytes_missing", message=f"{item.key}: {error}"), timings)
    result = stored.model_dump(exclude_none=True) | {
        "bytes": len(content),
        "sha256": document.sha256,
        "media_type": document.media_type,
    }
    status = ItemStatus.DONE if stored.duplicate_of is None else ItemStatus.SKIPPED
    return ItemOutcome(position=item.position, status=status, result=result, timings=timings)


@contextmanager
def _phase(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        timings[name] = round(time.monotonic() - started, 4)


def _failed(item: JobItem, error: JobError, timings: dict[str, float]) -> ItemOutcome:
    return ItemOutcome(position=item.position, status=ItemStatus.FAILED, error=error, timings=timings)


async def _result(run: Run, slug: str) -> dict[str, Any]:
    async with run.runtime.database.get_session() as session:
        items = await ItemRepository(session).list(run.job.id)
    failures = Counter(item.error_code for item in items if item.status is ItemStatus.FAILED)
    counts = Counter(str(item.status) for item in items)
    run.fail_if_all_failed(counts[ItemStatus.FAILED], len(items))
    return {
        "workspace_slug": slug,
        "engine": run.runtime.engine.name,
        "items": dict(counts),
        "items_failed": counts[ItemStatus.FAILED],
        "failures": dict(failures),
        "bytes": sum(item.result["bytes"] for item in items if item.status is ItemStatus.DONE and item.result),
    }
