"""The engine of the chaos suite's workers: it does as each item tells it, and notes every effect in a journal.

The journal is a file of the worker process, a line an event, written before the effect begins and after it ended: it
survives ``kill -9`` and needs no server, so it can bear witness about runs in which both servers were away. The run
loads all journals into the table ``chaos_effects`` at its end.
"""

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from repositories.database import DatabaseManager
from tests.chaos.harness.workload import ItemPlan
from worker.engines.base import (
    Answer,
    Document,
    DocumentRejectedError,
    Rebuilt,
    Source,
    StoredDocument,
    Work,
    WorkspaceSettings,
    unnoticed,
)

JOURNAL = "CHAOS_JOURNAL"


class ItemFailedError(Exception):
    """The unexpected error that an item's plan asks for."""


class ChaosEngine:
    """Keeps the engine protocol. It stores nothing: what it did is in the journal, what became of it in the record.

    Args:
        database: not used; the product's own engine takes it.
    """

    name = "local"  # the client looks workspaces up under this name
    embeds_in_groups = False

    def __init__(self, database: DatabaseManager, **bounds: int) -> None:
        del database, bounds
        self._journal = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # The process that runs a worker's jobs alone writes into the same file.
        self._numbers = itertools.count(os.getpid() * 1_000_000 + 1)

    async def ensure_workspace(self, name: str, settings: WorkspaceSettings | None = None) -> str:
        return name

    async def delete_workspace(self, slug: str) -> bool:
        return True

    async def locations(self, slug: str) -> frozenset[str]:
        return frozenset()

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        return None

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        return 0

    async def away(self) -> Mapping[Work, str]:
        return {}

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        plan = ItemPlan.model_validate_json(document.read())
        if document.key != f"{plan.job}/{plan.position}":
            raise AssertionError(f"document {document.key} holds the plan of {plan.job}/{plan.position}")
        async with self._effect("add", plan):
            await self._work(plan)
        return StoredDocument(key=document.key, locations=(document.key,), words=1, passages=1)

    async def embed(self, slug: str, stored: StoredDocument, *, on_embedded: Callable[[], None] = unnoticed) -> bool:
        on_embedded()
        return False

    async def rebuild(self, slug: str, recorded: Callable[[], Awaitable[Collection[str]]]) -> Rebuilt:
        return Rebuilt(slug, len(await recorded()))

    async def ask(self, slug: str, question: str) -> Answer:
        plan = ItemPlan.model_validate_json(question)
        async with self._effect("ask", plan):
            await self._work(plan)
        return Answer(text="done", refused=False, sources=(Source(document="a.txt", text="done", score=1.0),))

    async def health(self, work: Work = Work.DOCUMENTS, slug: str | None = None) -> None:
        return None

    async def aclose(self) -> None:
        os.close(self._journal)

    async def _work(self, plan: ItemPlan) -> None:
        await asyncio.sleep(plan.work_seconds)  # the work itself: nothing waits for anything here
        if plan.reject:
            raise DocumentRejectedError("corrupt", f"item {plan.position} is planned to be rejected")
        if _attempt() < plan.fails_before:
            raise ItemFailedError(f"item {plan.position} is planned to fail before attempt {plan.fails_before}")

    @asynccontextmanager
    async def _effect(self, kind: str, plan: ItemPlan) -> AsyncIterator[None]:
        number = next(self._numbers)
        began: dict[str, Any] = {"job": str(plan.job), "position": plan.position, "attempt": _attempt(), "kind": kind}
        self._note(number, **began, begun_at=time.time())
        how = "stopped"
        try:
            yield
            how = "done"
        except DocumentRejectedError:
            how = "rejected"
            raise
        except ItemFailedError:
            how = "failed"
            raise
        finally:
            self._note(number, ended_at=time.time(), how=how)

    def _note(self, number: int, **fields: Any) -> None:
        os.write(self._journal, json.dumps({"effect": number, **fields}).encode() + b"\n")


def _attempt() -> int:
    """The attempt that runs here, as every log line of it bears it."""
    return int(structlog.contextvars.get_contextvars()["attempt"])
