"""``document_upload``: put documents into a workspace and make them searchable.

The first attempt opens archives, lists prefixes and writes the item list; every attempt then does the items that are
left. One bad document fails its item, never the job.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from repositories.models import JobItem
from repositories.schemas import NewItem
from repositories.states import ItemStatus
from worker.engines.base import WorkspaceUnknownError
from worker.errors import JobFailedError, RetryAfterError
from worker.payloads import DocumentItem, DocumentUploadPayload
from worker.rebuilds import ask_for_rebuild, stay_out
from worker.run import Run
from worker.sources import SourceError
from worker.uploads.expanding import expand
from worker.uploads.keeping_in_step import find_place, finish, start_over
from worker.uploads.opening import Opener
from worker.uploads.places import Place, WorkspaceGoneError
from worker.uploads.storing import Storing
from worker.uploads.sweeping import wait_for_sweeps

_SOURCE_AGAIN = timedelta(seconds=30)


async def document_upload(run: Run) -> dict[str, Any]:
    """Carry out one attempt; the result holds the workspace's slug, the bytes stored and the failures by code."""
    payload = run.payload(DocumentUploadPayload)
    try:
        return await _upload(run, payload)
    except SourceError as error:  # away for a moment
        asked = _SOURCE_AGAIN if error.retry_after is None else timedelta(seconds=error.retry_after)
        raise RetryAfterError(asked, error.error) from error
    except WorkspaceGoneError:
        await start_over(run)
        raise
    except WorkspaceUnknownError as error:
        await stay_out(run, payload.workspace)
        raise JobFailedError(error.code, error.message) from error


async def _upload(run: Run, payload: DocumentUploadPayload) -> dict[str, Any]:
    await wait_for_sweeps(run)
    place = await find_place(run, payload)
    left_out = Counter[str]()
    async with Opener(run.runtime.sources) as opener:

        async def expanded() -> Sequence[NewItem]:
            found = await expand(payload, run.runtime.sources, opener, is_last_attempt=run.is_last_attempt)
            left_out.update(found.left_out)
            return [_new_item(at, item) for at, item in enumerate(found.items)]

        await run.each(await run.items(expanded), Storing(run, payload, place, opener).store)
    items, told = await finish(run, payload, place)
    if rebuild := await ask_for_rebuild(run, payload.workspace):
        told["rebuild"] = str(rebuild)
    return _result(run, place, items) | told | ({"left_out": dict(left_out)} if left_out else {})


def _new_item(position: int, item: DocumentItem) -> NewItem:
    return NewItem(position=position, key=item.name, spec=item.model_dump(mode="json", exclude_defaults=True))


def _result(run: Run, place: Place, items: Sequence[JobItem]) -> dict[str, Any]:
    failures = Counter(item.error_code for item in items if item.status is ItemStatus.FAILED)
    counts = Counter(str(item.status) for item in items)
    run.fail_if_all_failed(counts[ItemStatus.FAILED], len(items))
    return {
        "workspace_slug": place.slug,
        "engine": run.runtime.engine.name,
        "items": dict(counts),
        "items_failed": counts[ItemStatus.FAILED],
        "failures": dict(failures),
        "bytes": sum(item.result["bytes"] for item in items if item.status is ItemStatus.DONE and item.result),
    }
