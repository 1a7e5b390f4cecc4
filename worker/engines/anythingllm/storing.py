"""Storing a document on the server once, whatever happens between the server and here.

An upload whose reply was lost may have been done, and the server stores the same file as often as it is sent. So a try
that is not the first one looks in the job's folder before it sends anything. Half of a workbook looks like a whole one:
what an earlier try left of a file that becomes several documents is removed, and the file sent anew.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeVar

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.canary import Canary
from worker.engines.anythingllm.errors import TroubleError
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.removing import Removing
from worker.engines.anythingllm.replies import FiledDocument, UploadedDocument
from worker.engines.base import (
    Document,
    DocumentRejectedError,
    EngineDiedError,
    EngineUnavailableError,
    StoredDocument,
)
from worker.engines.slots import Slots

_REMEMBERED: Final = 10_000
_LISTINGS: Final = 16
_ATTEMPTS_LOOKED_AT: Final = 10
_TRIES_LOOKED_AT: Final = 4
_OPENING: Final = 500
_ENDURED: Final = 12
"""Uploads of one document in a row that the server failed on, while its collector works: then it is the document."""

_DEATHS: Final = 3
"""So often may the collector die of a document, from the second time on while it reads nothing else."""

_LOST_COLLECTOR: Final = "fetch failed"
"""What the server says when its connection to the collector broke during an upload."""

_MOST_PARTS: Final = 1_000  # as many as a stored document may have

T = TypeVar("T")
_Listing = dict[str, list[FiledDocument]]


class Storing:
    """Uploads, and what this process remembers of them.

    Args:
        api: the server.
        patience: how often an upload is tried.
        removing: takes away what is too much.
        slots: bound on uploads at once, over all workers.
    """

    def __init__(self, api: Api, patience: Patience, removing: Removing, slots: Slots) -> None:
        self._api, self._patience, self._removing, self._slots = api, patience, removing, slots
        self._canary = Canary(api, patience, removing, slots)
        self._tries: OrderedDict[str, int] = OrderedDict()
        self._stored: OrderedDict[str, StoredDocument] = OrderedDict()
        self._failed_on: OrderedDict[str, int] = OrderedDict()
        self._names: OrderedDict[str, str] = OrderedDict()
        self._never_embedded: set[str] = set()
        self._cleared: OrderedDict[str, None] = OrderedDict()
        self._listings: OrderedDict[str, _Listing] = OrderedDict()
        self._listing = asyncio.Lock()

    async def add(self, slug: str, document: Document) -> StoredDocument:
        """Store a document, or return what is stored of it; see the protocol."""
        naming.extension_of(document)  # refuse what the server would misread before anything is sent
        if document.crashes >= _DEATHS:
            await self._canary.sing(document)
            raise DocumentRejectedError(
                "kills_the_collector",
                f"{document.name}: AnythingLLM's collector died each of {document.crashes} times that it read this "
                "file, and reads others: leave it out, or convert it (is it a scan?), and upload it again",
            )
        stored = await self._patience.run(lambda number: self._add(slug, document, number))
        _remember(self._stored, document.key, stored)
        _remember(self._names, document.key, document.name)
        return stored

    def name_of(self, key: str) -> str | None:
        """Return the name of a document that this process stored or found, as far as it remembers."""
        return self._names.get(key)

    def was_never_embedded(self, key: str) -> bool:
        """Return, once, whether this process stored the document and nobody can have embedded it yet."""
        was = key in self._never_embedded
        self._never_embedded.discard(key)
        return was

    async def _add(self, slug: str, document: Document, number: int) -> StoredDocument:
        key = document.key
        tried = self._tries.get(key, 0)
        if tried or document.attempt > 1:
            # Only this attempt adds to the folder now, so what earlier ones left there is read once for all items.
            found = await self._look(slug, document, anew=tried > 0 or number > 1)
            if found is not None:
                return found
        _remember(self._tries, key, tried + 1)
        folder = naming.folder_for(document, tried + 1)
        if naming.makes_several(document):
            await self._removing.note_folder(document.job_id, folder)
        async with self._slots.hold(alone=document.crashes > 0) as alone:
            made = await self._upload(folder, naming.file_name(document, tried + 1), document, alone=alone)
        await self._removing.remove_left(document.job_id, made)
        return await self._searchable(slug, document, made)

    async def _upload(self, folder: str, name: str, document: Document, *, alone: bool) -> Sequence[UploadedDocument]:
        """Upload a document, but not without end: one that the server always fails on would keep its job for ever."""
        try:
            made = await self._api.upload(folder, name, document)
        except TroubleError as error:
            await self._see_collector(document, error, alone=alone)
            if error.was_told:
                failed = self._failed_on.get(document.key, 0) + 1
                _remember(self._failed_on, document.key, failed)
                if failed >= _ENDURED:
                    await self._patience.call(self._api.check_collector)
                    raise DocumentRejectedError(
                        "corrupt",
                        f"{document.name}: AnythingLLM failed on it {failed} times in a row, though it works: "
                        f"{error.reason}",
                    ) from error
            raise
        self._failed_on.pop(document.key, None)
        return made

    async def _see_collector(self, document: Document, error: TroubleError, *, alone: bool) -> None:
        """Look whether the collector, and the server, outlived an upload that went wrong.

        Raises:
            EngineDiedError: one of them did not.
        """
        if error.was_told and _LOST_COLLECTOR in error.reason:
            raise EngineDiedError(f"{document.name}: AnythingLLM's collector died of it", alone=alone) from error
        try:
            await self._patience.call(self._api.check_collector)
        except EngineUnavailableError as away:
            raise EngineDiedError(f"{document.name}: {error.reason}, and then {away}", alone=alone) from error

    async def _searchable(self, slug: str, document: Document, made: Sequence[UploadedDocument]) -> StoredDocument:
        """What was made of a file, without parts that hold no word: the server could never embed those."""
        if len(made) > _MOST_PARTS:
            await self._removing.remove(slug, [part.location for part in made])
            raise DocumentRejectedError(
                "too_large", f"{document.name} has {len(made):,} sheets, at most {_MOST_PARTS:,} are stored: divide it"
            )
        full = [part for part in made if part.text.strip() or len(part.text) >= _OPENING]
        if len(full) < len(made):
            await self._removing.remove(slug, [part.location for part in made if part not in full])
        if not full:
            raise DocumentRejectedError("no_text", f"{document.name} holds no text: there is nothing to search in it")
        if len(self._never_embedded) < _REMEMBERED:
            self._never_embedded.add(document.key)
        return StoredDocument(
            key=document.key,
            locations=tuple(part.location for part in full),
            words=sum(part.words for part in full),
            opening=full[0].text[:_OPENING],
        )

    async def _look(self, slug: str, document: Document, *, anew: bool) -> StoredDocument | None:
        """Return what stands on the server of a document, reduced to one copy."""
        if naming.makes_several(document):
            return await self._look_for_parts(slug, document)
        listing, is_new = await self._list(document, anew=anew)
        found = listing.get(naming.chunk_source(document.key), [])
        if not found:
            return None
        folder = naming.folder_of_job(document.job_id)
        locations = [f"{folder}/{filed.name}" for filed in found]
        kept = 0
        if len(locations) > 1:
            attempts = [naming.attempt_of(filed.name, document) for filed in found]
            latest = max(attempts)
            if latest > document.attempt:
                kept = attempts.index(latest)  # this attempt is lost and does not know it: it removes nothing
            else:
                rows = await self._api.rows(slug)
                kept = next((at for at, location in enumerate(locations) if rows[location]), attempts.index(latest))
                await self._removing.remove(slug, locations[:kept] + locations[kept + 1 :])
        if not is_new and await self._api.title(locations[kept]) is None:
            return None  # it was removed since
        before = self._stored.get(document.key)
        if before is not None and before.locations == (locations[kept],):
            return before
        return StoredDocument(key=document.key, locations=(locations[kept],), words=found[kept].words)

    async def _look_for_parts(self, slug: str, document: Document) -> StoredDocument | None:
        """Return what this process stored of it, if all of it is there still; remove what any other try left."""
        before = self._stored.get(document.key)
        tried = self._tries.get(document.key, 0)
        attempts = range(max(1, document.attempt - _ATTEMPTS_LOOKED_AT), document.attempt)
        places = [(attempt, number) for attempt in attempts for number in range(1, _TRIES_LOOKED_AT + 1)]
        places += [(document.attempt, number) for number in range(1, tried + 1)]
        whole: StoredDocument | None = None
        folders = [naming.folder_of_item(document.job_id, document.position, *place) for place in places]
        for folder in folders:
            if folder in self._cleared:
                continue
            filed_there = await self._patience.call(self._api.folder, folder)
            there = {f"{folder}/{filed.name}" for filed in filed_there}
            await self._removing.remove_left(document.job_id, filed_there)
            if before is not None and there and there >= set(before.locations):
                whole = before
            else:
                if there:
                    await self._removing.remove(slug, there)
                    await self._removing.remove_folder(folder)
                # What a request of a dead worker still makes there is found by the sweep.
                _remember(self._cleared, folder, None)
        return whole

    async def _list(self, document: Document, *, anew: bool) -> tuple[_Listing, bool]:
        """Return what is in a job's folder by its ``chunkSource``, and whether the server was asked for it just now.

        It is as the attempt found it, unless wanted anew.
        """
        folder = naming.folder_of_job(document.job_id)
        name = f"{folder} {document.attempt}"
        async with self._listing:
            listing = None if anew else self._listings.get(name)
            if is_new := listing is None:
                listing = {}
                for filed in await self._api.folder(folder):
                    listing.setdefault(filed.chunk_source, []).append(filed)
                self._listings[name] = listing
                while len(self._listings) > _LISTINGS:
                    self._listings.popitem(last=False)
        return listing, is_new


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
