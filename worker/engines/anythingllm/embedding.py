"""Making stored documents searchable, and seeing that they are.

The server says success when it embedded nothing, adds a second row when asked twice, and loses documents that are
embedded at once into a workspace without vectors. So the first document of a workspace goes in alone, under a lock
between processes; every document is looked for in the list and by a search; and what is amiss is put right: a second
row removed, a row without vectors made anew, a missing row added again.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api, Rows
from worker.engines.anythingllm.diagnosis import check_embedding
from worker.engines.anythingllm.finding import Seen, Sight, look_for
from worker.engines.anythingllm.orphans import Orphans
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.registry import Registry
from worker.engines.anythingllm.removing import Removing
from worker.engines.base import DocumentRejectedError, StoredDocument
from worker.engines.slots import Slots

_ROUNDS: Final = 5
_A_CALL: Final = 50
"""Documents that are embedded by one call, one after the other: only a workbook has more."""

_A_DOCUMENT: Final = "A document"  # where an earlier process stored it, and its name is not known here
_REMEMBERED: Final = 10_000

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_LOOKS: Final = 30

_LOG = structlog.get_logger(__name__)


class Embedding:
    """Embedding, into workspaces of one server.

    Args:
        api: the server.
        patience: how often a call is made again.
        registry: which workspaces have vectors, and the lock for their first.
        removing: takes away second rows.
        slots: bound on embedding calls at once, over all workers.
        orphans: looks for vectors of nobody.
        settle_seconds: how long to look for the work of a call whose reply was lost, before it is made again; longer
            where the call itself took longer.
    """

    def __init__(
        self,
        api: Api,
        patience: Patience,
        registry: Registry,
        removing: Removing,
        slots: Slots,
        orphans: Orphans,
        settle_seconds: float,
    ) -> None:
        self._api, self._patience, self._registry = api, patience, registry
        self._removing, self._slots = removing, slots
        self._settle_seconds = settle_seconds
        self._orphans = orphans
        self._troubled: OrderedDict[str, None] = OrderedDict()
        self._has_table: set[str] = set()
        self._seen_empty: set[str] = set()
        self._first: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def saw_empty(self, slug: str) -> None:
        """Take note that no document stands in a workspace: somebody may have deleted it, and made it anew."""
        self._has_table.discard(slug)
        self._seen_empty.add(slug)

    async def embed(
        self, slug: str, stored: StoredDocument, *, title: str | None, is_new: bool, on_embedded: Callable[[], None]
    ) -> bool:
        """Make a document searchable; return whether vectors of nobody were seen meanwhile; see the protocol.

        Args:
            slug: the workspace's.
            stored: the document.
            title: what it is called on the server, if that is known here.
            is_new: nobody can have embedded it before, so it need not be looked for first.
            on_embedded: called when it was embedded, before it is looked for.
        """
        embed = partial(self._embed, slug, stored, title=title, is_new=is_new, on_embedded=on_embedded)
        if await self.is_ready(slug):
            return await embed()
        # One task of this process waits for the other processes; the others find what it brought about.
        async with self._first[slug]:
            if slug not in self._has_table:
                async with self._registry.lock("first embedding", slug):
                    if not await self.is_ready(slug):
                        orphans = await embed()
                        await self._registry.mark_embedded(slug)
                        self._has_table.add(slug)
                        self._seen_empty.discard(slug)
                        return orphans
        return await embed()

    def suspicious(self, seen: Seen, locations: Sequence[str], *, is_new: bool) -> Seen:
        """Return what was seen, without what proves nothing: a document that was embedded once may say something twice.

        One whose call was lost may have been embedded twice.
        """
        had_trouble = any(location in self._troubled for location in locations)
        return seen._replace(is_doubled=seen.is_doubled and (not is_new or had_trouble))

    async def is_ready(self, slug: str) -> bool:
        """Return whether documents may be embedded side by side: the workspace has had vectors before."""
        if slug not in self._has_table and slug not in self._seen_empty and await self._registry.is_embedded(slug):
            self._has_table.add(slug)
        return slug in self._has_table

    async def _embed(
        self, slug: str, stored: StoredDocument, *, title: str | None, is_new: bool, on_embedded: Callable[[], None]
    ) -> bool:
        locations = stored.locations
        rows = Rows() if is_new else await self._patience.call(self._api.rows, slug)
        for number in range(_ROUNDS):
            if missing := [location for location in locations if not rows[location]]:
                rows = await self.send(slug, missing)
            if number == 0:
                on_embedded()
            rows = await self._removing.leave_one(slug, locations, rows)
            if missing := [location for location in locations if not rows[location]]:
                await self._check_stored(missing, title)
                await check_embedding(self._api, self._patience, slug)
                continue  # it is there, and so is the embedder
            seen = await look_for(self._api, self._patience, slug, stored, title)
            if seen.sight is not Sight.ABSENT:
                seen = self.suspicious(seen, locations, is_new=is_new)
                return await self._orphans.are_proved(slug, stored, title, seen, rows)
            # Its row is there and its vectors are not: the server counts it as done until it is taken out.
            _LOG.warning("engine.repaired", workspace=slug, location=locations[0])
            rows = await self.send(slug, locations, anew=True)
        raise DocumentRejectedError(
            "not_embedded",
            f"{title or _A_DOCUMENT}: AnythingLLM gave it no vectors, {_ROUNDS} times: look at its server's log",
        )

    async def renew(self, slug: str, stored: StoredDocument, title: str | None, *, tries: int = 1) -> bool:
        """Take a document out and put it in again; return whether it is found by its own words then.

        If it is, it was not there before; if not, so much else fits as well that no search can tell.
        """
        for _ in range(tries):
            await self.send(slug, stored.locations, anew=True)
            if (await look_for(self._api, self._patience, slug, stored, title)).sight is Sight.FOUND:
                _LOG.warning("engine.renewed", workspace=slug, location=stored.locations[0])
                return True
        return False

    async def leave_one(self, slug: str, locations: Sequence[str], rows: Rows) -> Rows:
        """Remove second rows of these documents; return what stands in the workspace then."""
        return await self._removing.leave_one(slug, locations, rows)

    async def send(self, slug: str, adds: Sequence[str], *, anew: bool = False) -> Rows:
        """Embed documents, ``anew`` those that are listed already; return what stands in the workspace then."""
        rows = Rows()
        for start in range(0, len(adds), _A_CALL):
            rows = await self._send_some(slug, adds[start : start + _A_CALL], anew=anew)
        return rows

    async def _send_some(self, slug: str, adds: Sequence[str], *, anew: bool) -> Rows:
        loop, lost_seconds = asyncio.get_running_loop(), 0.0

        async def send(number: int) -> Rows:
            nonlocal lost_seconds
            left = adds
            if number > 1:
                self._note_trouble(adds)
            if number > 1 and not anew:
                # A proxy gives up sooner than the server: what took long to be lost may take as long again to be done.
                rows = await self._settled(slug, adds, max(self._settle_seconds, lost_seconds))
                if not (left := [location for location in adds if not rows[location]]):
                    return rows
            async with self._slots.hold():
                began = loop.time()
                try:
                    return await self._api.update_embeddings(slug, left, adds if anew else ())
                finally:
                    lost_seconds = loop.time() - began

        return await self._patience.run(send)

    def _note_trouble(self, locations: Sequence[str]) -> None:
        self._troubled.update(dict.fromkeys(locations))
        while len(self._troubled) > _REMEMBERED:
            self._troubled.popitem(last=False)

    async def _settled(self, slug: str, adds: Sequence[str], seconds: float) -> Rows:
        """Look until all of ``adds`` are listed or ``seconds`` are over: a server whose client left goes on."""
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        longest = max(_LONGEST_PAUSE, seconds / _LOOKS)
        until = loop.time() + seconds
        while True:
            rows = await self._api.rows(slug)
            left = until - loop.time()
            if left <= 0 or all(rows[location] for location in adds):
                return rows
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, longest)

    async def _check_stored(self, locations: Sequence[str], title: str | None) -> None:
        folders = dict[str, set[str]]()
        for location in locations:
            folder = naming.folder_of(location)
            if naming.has_parts(folder):
                # Sheets of two workbooks may have one name, and a name is all that a document can be looked up by.
                if folder not in folders:
                    filed = await self._patience.call(self._api.folder, folder)
                    folders[folder] = {f"{folder}/{each.name}" for each in filed}
                is_stored = location in folders[folder]
            else:
                is_stored = await self._patience.call(self._api.title, location) is not None
            if not is_stored:
                raise DocumentRejectedError(
                    "not_stored",
                    f"{title or _A_DOCUMENT} is not stored on AnythingLLM any more: upload it again, and do not "
                    "remove it there",
                )
