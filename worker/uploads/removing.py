"""Removing documents from a workspace: marked on the record, gone from the engine, then off the record.

What is marked is nobody's to rely on (:mod:`repositories.documents.removing`), so an upload that wants its content
waits for the end of it. A removal that was cut off is done again as a whole, by whoever takes it over.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from uuid import uuid4

import structlog

from repositories.documents import REMOVAL_LOCK, DocumentRepository, Removal
from repositories.locks import Locks
from repositories.models import WorkspaceDocument
from repositories.schemas import Held
from worker.engines.base import EngineError, EngineRefusedError, EngineUnavailableError, WorkspaceUnknownError
from worker.run import Run, Runtime

_AT_A_TIME = 500
"""Documents that are marked and removed together: others wait for their contents only so long."""

log = structlog.get_logger(__name__)


async def remove(run: Run, slug: str, documents: Sequence[WorkspaceDocument]) -> list[Removal]:
    """Remove documents that older jobs stored, each only if it is still as it was read; return what was removed.

    With them goes what an earlier attempt of this job had begun to remove.
    """
    removed: list[Removal] = []
    for start in range(0, max(len(documents), 1), _AT_A_TIME):
        async with run.runtime.database.get_transaction() as session:
            marked = await DocumentRepository(session).begin_removal(run.held, documents[start : start + _AT_A_TIME])
        await finish_removal(run.runtime, slug, run.held, marked)
        removed += marked
    return removed


async def finish_removal(runtime: Runtime, slug: str, remover: Held, marked: Sequence[Removal]) -> None:
    """Remove from the engine what was marked, then from the record what is still this remover's.

    Raises:
        EngineError: the engine could not do it, or only part of it. All of it stays marked.
    """
    if not marked:
        return
    await runtime.engine.remove(slug, [location for document in marked for location in document.locations])
    async with runtime.database.get_transaction() as session:
        await DocumentRepository(session).forget_removed(remover, [document.id for document in marked])


async def finish_abandoned(runtime: Runtime, limit: int) -> int:
    """Finish removals whose removers died or gave up; return how many documents that was.

    Raises:
        EngineUnavailableError: the engine is away.
        EngineRefusedError: it will not do it, whatever the document is.
        LockLostError: PostgreSQL was away for too long.
    """
    async with runtime.database.get_session() as session:
        left = await DocumentRepository(session).abandoned(runtime.engine.name, limit)
    total = 0
    for slug, documents in groupby(left, attrgetter("slug")):
        remover = Held(uuid4(), 1)
        async with Locks(runtime.database).hold(f"{REMOVAL_LOCK}{remover.job_id}"):
            async with runtime.database.get_transaction() as session:
                marked = await DocumentRepository(session).adopt(remover, [document.id for document in documents])
            try:
                await finish_removal(runtime, slug, remover, marked)
            except WorkspaceUnknownError:  # then nothing stands in it
                async with runtime.database.get_transaction() as session:
                    await DocumentRepository(session).forget_removed(remover, [document.id for document in marked])
            except (EngineUnavailableError, EngineRefusedError):
                raise
            except EngineError as error:  # the next turn comes by here again
                log.warning("documents.not_removed", workspace=slug, reason=str(error))
                continue
            total += len(marked)
    return total
