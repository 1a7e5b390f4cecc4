"""One document of an upload, from its bytes to confirmed vectors.

The record of the workspace (:mod:`repositories.documents`) decides whose a content is before anything is sent: the same
content is stored once, whoever brings it, and an item that was stored by an attempt that died before it could say so
is found there. What an item reached is in its result as ``stage``: ``prepared``, ``stored``, ``confirmed``.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

import structlog

from repositories.documents import DocumentRepository, Removal, Reservation, ReservationOutcome
from repositories.errors import ConflictError, RepositoryError
from repositories.items import ItemRepository
from repositories.models import JobItem
from repositories.schemas import ItemOutcome, JobError
from repositories.states import ItemStatus
from repositories.workspaces import WorkspaceRepository
from worker.documents.archives import ArchiveError, EntryError
from worker.documents.preparing import Prepared, check_type, prepare
from worker.engines.base import Document, DocumentRejectedError, EngineDiedError, StoredDocument
from worker.errors import ItemLeftError
from worker.item_slots import step_aside
from worker.payloads import DocumentItem, DocumentUploadPayload, OnDuplicate
from worker.recorder import AttemptLostError
from worker.run import Run
from worker.sources import SourceError
from worker.storage import StoredBytesMissingError
from worker.uploads.opening import Opener
from worker.uploads.places import Place, WorkspaceGoneError
from worker.uploads.removing import finish_removal

_ASK_AGAIN_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Storing:
    """Stores the items of one attempt.

    Args:
        run: the attempt.
        payload: what was asked for.
        place: where they go.
        opener: gives their bytes.
    """

    def __init__(self, run: Run, payload: DocumentUploadPayload, place: Place, opener: Opener) -> None:
        self._run, self._payload, self._place, self._opener = run, payload, place, opener
        self._engine = run.runtime.engine

    async def store(self, item: JobItem) -> ItemOutcome:
        """Store one document, or say why it cannot be; each phase is timed.

        Raises:
            AttemptLostError: another attempt owns the job.
            ItemLeftError: the run is over, and another item is still storing the same content, or it is being removed.
            WorkspaceGoneError: the workspace was removed meanwhile.
        """
        spec = DocumentItem.model_validate(item.spec)
        told = _Told(item)
        if spec.error is not None:
            return told.failed(spec.error)
        try:
            async with AsyncExitStack() as stack:
                with told.phase("read"):
                    file = await stack.enter_async_context(self._opener.open(spec))
                return await self._from(file, spec, told, stack.aclose)
        except DocumentRejectedError as error:
            return told.failed(JobError(code=error.code, message=error.message))
        except SourceError as error:
            return told.failed(error.lasting(is_last_attempt=self._run.is_last_attempt))
        except (ArchiveError, EntryError) as error:
            return told.failed(error.error)
        except StoredBytesMissingError as error:
            return told.failed(JobError(code="bytes_missing", message=f"{item.key}: {error}"))

    async def _from(
        self, file: BinaryIO, spec: DocumentItem, told: "_Told", close: Callable[[], Awaitable[None]]
    ) -> ItemOutcome:
        max_bytes = self._run.runtime.settings.max_file_bytes
        with told.phase("read"):
            prepared = await asyncio.to_thread(prepare, file, spec.name, max_bytes=max_bytes)
        with prepared:
            told.knows(prepared)
            check_type(spec.name, prepared, self._run.runtime.settings.allowed_file_types)
            while True:
                reservation = await self._reserve(told.item, spec, prepared)
                if reservation.outcome is ReservationOutcome.HELD:
                    return told.skipped(reservation)
                async with self._releasing(told.item.position):
                    locations = reservation.locations or (await self._sent(told, spec, prepared, close)).locations
                    if await self._confirm(told.item.position, locations):
                        return told.done(locations)
                if not reservation.locations:  # or the attempt was lost: then nothing of this is taken anyway
                    raise WorkspaceGoneError
                # What an earlier attempt stored is being removed this very moment: then it is stored anew.

    @asynccontextmanager
    async def _releasing(self, position: int) -> AsyncIterator[None]:
        """Give the reservation up if the block fails: another item with the same content may be waiting for it."""
        try:
            yield
        except BaseException:
            # If this fails as well, the reservation ends with the attempt.
            with suppress(RepositoryError):
                await asyncio.shield(self._release(position))
            raise

    async def _sent(
        self, told: "_Told", spec: DocumentItem, prepared: Prepared, close: Callable[[], Awaitable[None]]
    ) -> StoredDocument:
        document = Document(
            job_id=self._run.job.id,
            position=told.item.position,
            attempt=self._run.job.attempt,
            name=told.item.key,
            file=prepared.file,
            size=prepared.size,
            sha256=prepared.sha256,
            media_type=prepared.media_type,
            metadata=spec.metadata,
            crashes=told.item.crashes,
        )
        with told.phase("upload"):
            try:
                stored = await self._engine.add_document(self._place.slug, document)
            except EngineDiedError as error:
                await self._note_crash(told.item, error)
                raise
        told.result |= {"stage": "stored"} | stored.model_dump(
            include={"pages", "words", "passages"}, exclude_none=True
        )
        if stored.converted:
            told.result["converted"] = True
        if self._engine.embeds_in_groups:
            step_aside()
            prepared.close()  # hundreds may wait in the next call, and files are scarce
            await close()
        with told.phase("embed"):
            orphans = await self._engine.embed(self._place.slug, stored, on_embedded=partial(told.turn_to, "verify"))
        if orphans:
            told.result["orphans"] = True
            await self._note_orphans()
        return stored

    async def _note_orphans(self) -> None:
        """Say of the workspace that answers may rest on text of no document in it."""
        runtime = self._run.runtime
        async with runtime.database.get_transaction() as session:
            is_new = await WorkspaceRepository(session, runtime.engine.name).mark_orphans(self._place.slug)
        if is_new:
            log.warning("workspace.orphans", workspace=self._place.slug, next="worker workspaces rebuild NAME")

    async def _note_crash(self, item: JobItem, error: EngineDiedError) -> None:
        """Note on the record what the engine died of: it is read alone from now on, and given up in the end."""
        async with self._run.runtime.database.get_transaction() as session:
            crashes = await ItemRepository(session).note_crash(self._run.held, item.position, alone=error.alone)
        if crashes is None:
            raise AttemptLostError(self._run.held) from error
        item.crashes = crashes
        log.warning("engine.died", item=item.key, crashes=crashes, alone=error.alone, reason=str(error))

    async def _reserve(self, item: JobItem, spec: DocumentItem, prepared: Prepared) -> Reservation:
        """Be the one who stores this content, or learn where it stands; waits while it is being stored or removed."""
        while True:
            try:
                async with self._run.runtime.database.get_autocommit() as session:
                    reservation = await DocumentRepository(session).reserve(
                        self._place.workspace_id,
                        self._run.held,
                        item.position,
                        spec.name,
                        self._payload.source,
                        prepared.sha256,
                        prepared.size,
                        prepared.media_type,
                        allow_copy=self._payload.on_duplicate is OnDuplicate.ADD,
                        whole=self._payload.sync,
                    )
            except ConflictError as error:  # the workspace is not on the record any more
                raise WorkspaceGoneError from error
            match reservation.outcome:
                case ReservationOutcome.LOST:
                    raise AttemptLostError(self._run.held)
                case ReservationOutcome.ABANDONED:
                    await self._finish_removal(reservation)
                case ReservationOutcome.BUSY:
                    if self._run.is_over:
                        raise ItemLeftError
                    await asyncio.sleep(_ASK_AGAIN_SECONDS)
                case _:
                    return reservation

    async def _finish_removal(self, left: Reservation) -> None:
        """Do what a remover that died, or gave up, left to be done."""
        if left.document_id is None or left.name is None:  # what the outcome says; this tells the type checker
            raise AssertionError(left)
        marked = [Removal(left.document_id, left.name, left.locations)]
        await finish_removal(self._run.runtime, self._place.slug, self._run.held, marked)

    async def _confirm(self, position: int, locations: tuple[str, ...]) -> bool:
        async with self._run.runtime.database.get_autocommit() as session:
            return await DocumentRepository(session).store(self._run.held, position, locations)

    async def _release(self, position: int) -> None:
        async with self._run.runtime.database.get_autocommit() as session:
            await DocumentRepository(session).release(self._run.held, position)


class _Told:
    """What is known of an item so far."""

    def __init__(self, item: JobItem) -> None:
        self.item = item
        self.result: dict[str, Any] = {}
        self._timings: dict[str, float] = {}
        self._phase, self._began = "", 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; a phase with parts is their sum."""
        self._phase, self._began = name, time.monotonic()
        try:
            yield
        finally:
            self.turn_to("")

    def turn_to(self, name: str) -> None:
        """End the phase that is timed; what follows is another."""
        now = time.monotonic()
        self._timings[self._phase] = round(self._timings.get(self._phase, 0.0) + now - self._began, 4)
        self._phase, self._began = name, now

    def knows(self, prepared: Prepared) -> None:
        """Note what the file is."""
        self.result |= {
            "stage": "prepared",
            "bytes": prepared.size,
            "sha256": prepared.sha256,
            "media_type": prepared.media_type,
        }
        if prepared.charset not in (None, "utf-8"):
            self.result["charset"] = prepared.charset

    def done(self, locations: tuple[str, ...]) -> ItemOutcome:
        """It stands in the workspace, with vectors."""
        self.result |= {"stage": "confirmed", "locations": list(locations)}
        return self._outcome(ItemStatus.DONE)

    def skipped(self, reservation: Reservation) -> ItemOutcome:
        """Its content stands there already."""
        self.result |= {"duplicate_of": reservation.name, "locations": list(reservation.locations)}
        return self._outcome(ItemStatus.SKIPPED)

    def failed(self, error: JobError) -> ItemOutcome:
        """It cannot be stored."""
        return self._outcome(ItemStatus.FAILED, error)

    def _outcome(self, status: ItemStatus, error: JobError | None = None) -> ItemOutcome:
        return ItemOutcome(
            position=self.item.position,
            status=status,
            result=self.result or None,
            error=error,
            timings=self._timings,
        )
