"""Embedding and verifying the documents of a workspace in groups, while others are still on their way.

A call costs the server the same for one document as for fifty, and a search more, the more documents stand in the
workspace. So what arrives together is embedded by one call, and one search over 1,000 passages proves a whole group. In
a larger workspace it shows a part of it: then the group's first document and another one are looked for, and the others
are taken for searchable because they are listed. That holds as long as nothing was ever missing there: rows lose their
vectors only when the workspace's table is made a second time, and then the group's first document is lost. Once one is
found to be missing, every document is looked for by itself, and those that were taken for searchable are looked at.
"""

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api, Rows
from worker.engines.anythingllm.embedding import Embedding
from worker.engines.anythingllm.finding import (
    MOST_SEARCHED,
    Seen,
    Sight,
    is_cut_short,
    look_for,
    note_not_seen,
    query_for,
)
from worker.engines.anythingllm.gathering import Gathering
from worker.engines.anythingllm.orphans import Orphans, standing
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.replies import Hit
from worker.engines.base import EngineUnavailableError, StoredDocument, unnoticed

_A_CALL: Final = 24
_EMBED_SECONDS, _PROVE_SECONDS = 2.0, 30.0
_LEAST_PROVED, _MOST_PROVED = 24, 400
_PROVED_A_DOCUMENT: Final = 20  # a group is a twentieth of the workspace: so a search costs a document always the same
_SAMPLES: Final = 2
_TRIES: Final = 5
_LOOKED_FOR_AT_ONCE: Final = 8
_ACCEPTED: Final = 2_000

R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A document that is to be searchable; the fields are those of :meth:`Embedding.embed`."""

    stored: StoredDocument
    title: str | None
    is_new: bool
    on_embedded: Callable[[], None]

    def again(self) -> "Asked":
        """The same, for a second time."""
        return replace(self, is_new=False, on_embedded=unnoticed)

    @property
    def mark(self) -> str:
        """What its passages are found by."""
        return naming.chunk_source(self.stored.key)


@dataclass(slots=True, eq=False)
class _Place:
    """A workspace, and what is under way there.

    Attributes:
        embedding, proving: the groups.
        on_the_way: documents that are being stored, and will want to be embedded.
        rows: what stood in it last.
        accepted: documents that were taken for searchable without being looked for.
        is_doubted: one was missing.
        suspected: keys of documents that were found and not listed, at the last look.
    """

    embedding: Gathering[Asked, bool]
    proving: Gathering[Asked, Seen]
    on_the_way: int = 0
    rows: Rows = field(default_factory=Rows)
    accepted: deque[Asked] = field(default_factory=lambda: deque(maxlen=_ACCEPTED))
    is_doubted: bool = False
    suspected: frozenset[str] = frozenset()


class Grouping:
    """Embeds and verifies.

    Args:
        api: the server.
        patience: how often a call is made again.
        embedding: does it for one document, and what is amiss with it.
        orphans: looks for vectors of nobody.
        guarding: keeps calls from a server that is left alone for now, and counts those that found it away.
        calls: embedding calls of this process at the same time (1 or more).
    """

    def __init__(
        self,
        api: Api,
        patience: Patience,
        embedding: Embedding,
        orphans: Orphans,
        guarding: Callable[[], AbstractAsyncContextManager[None]],
        calls: int,
    ) -> None:
        self._api, self._patience, self._embedding, self._orphans = api, patience, embedding, orphans
        self._guarding, self._calls = guarding, calls
        self._few = asyncio.Semaphore(_LOOKED_FOR_AT_ONCE)
        self._places: dict[str, _Place] = {}
        self._chance = random.Random()  # noqa: S311 - which document is looked for is no secret

    @contextmanager
    def on_the_way(self, slug: str) -> Iterator[None]:
        """Have groups of this workspace wait for a document that is about to come."""
        place = self._place(slug)
        place.on_the_way += 1
        try:
            yield
        finally:
            place.on_the_way -= 1
            place.embedding.look()
            place.proving.look()

    async def embed(self, slug: str, asked: Asked) -> bool:
        """Make a document searchable; return whether vectors of nobody were seen meanwhile; see the protocol."""
        if not await self._embedding.is_ready(slug):
            return await self._alone(slug, asked)
        try:
            return await self._with_others(slug, asked)
        except EngineUnavailableError as error:
            if error.retry_after is not None:
                raise
        return await self._alone(slug, asked.again())  # what one call could not do for all, each may do

    async def _with_others(self, slug: str, asked: Asked) -> bool:
        place = self._place(slug)
        if not await place.embedding.ask(asked):
            return await self._alone(slug, asked.again())  # it was left out without a word
        if place.is_doubted:
            return await self._doubted(slug, asked)
        seen = await place.proving.ask(asked)
        if seen.sight is Sight.ABSENT:
            return await self._doubted(slug, asked)
        if not (seen.others or seen.is_doubled):
            return False
        async with self._guarding():
            return await self._orphans.are_proved(slug, asked.stored, asked.title, seen, place.rows)

    async def _doubted(self, slug: str, asked: Asked) -> bool:
        """Look for a document by itself, and put it in anew until it is found, or nothing can tell."""
        async with self._few, self._guarding():
            seen = await look_for(self._api, self._patience, slug, asked.stored, asked.title)
            if seen.sight is Sight.FOUND or seen.is_cut_short:
                seen = self._suspicious(slug, asked, seen)
                return await self._orphans.are_proved(slug, asked.stored, asked.title, seen, self._place(slug).rows)
            if await self._embedding.renew(slug, asked.stored, asked.title, tries=_TRIES):
                return False
        if seen.sight is Sight.UNKNOWN:
            note_not_seen(slug, asked.stored)
            return False
        return await self._alone(slug, asked.again())

    async def _alone(self, slug: str, asked: Asked) -> bool:
        async with self._guarding():
            return await self._embedding.embed(
                slug, asked.stored, title=asked.title, is_new=asked.is_new, on_embedded=asked.on_embedded
            )

    def forget(self, slug: str) -> None:
        """Take note that a workspace was deleted, or is to be looked at anew."""
        if (place := self._places.get(slug)) is not None:
            place.rows = Rows()
            place.accepted.clear()

    async def aclose(self) -> None:
        """Give up what is under way."""
        for place in self._places.values():
            await place.embedding.aclose()
            await place.proving.aclose()

    def _place(self, slug: str) -> _Place:
        if slug not in self._places:
            self._places[slug] = place = _Place(
                Gathering(
                    self._guarded(partial(self._embed, slug)),
                    most=lambda: _A_CALL,
                    is_alone=lambda: place.on_the_way == 0,
                    seconds=_EMBED_SECONDS,
                    at_once=self._calls,
                ),
                Gathering(
                    self._guarded(partial(self._prove, slug)),
                    most=lambda: min(max(len(place.rows) // _PROVED_A_DOCUMENT, _LEAST_PROVED), _MOST_PROVED),
                    is_alone=lambda: place.on_the_way == 0 and place.embedding.is_idle,
                    seconds=_PROVE_SECONDS,
                    at_once=1,
                ),
            )
        return self._places[slug]

    def _guarded(
        self, do: Callable[[Sequence[Asked]], Awaitable[Sequence[R | Exception]]]
    ) -> Callable[[Sequence[Asked]], Awaitable[Sequence[R | Exception]]]:
        async def guarded(group: Sequence[Asked]) -> Sequence[R | Exception]:
            async with self._guarding():
                return await do(group)

        return guarded

    async def _embed(self, slug: str, group: Sequence[Asked]) -> list[bool | Exception]:
        """Embed a group by one call; tell of each document whether it is listed then."""
        rows = Rows()
        if not all(asked.is_new for asked in group):
            rows = await self._patience.call(self._api.rows, slug)
        locations = [location for asked in group for location in asked.stored.locations]
        if missing := [location for location in locations if not rows[location]]:
            rows = await self._embedding.send(slug, missing)
        rows = await self._embedding.leave_one(slug, locations, rows)
        self._place(slug).rows = rows
        for asked in group:
            asked.on_embedded()
        return [all(rows[location] for location in asked.stored.locations) for asked in group]

    async def _prove(self, slug: str, group: Sequence[Asked]) -> list[Seen | Exception]:
        """Look for a group's documents; say of each what was seen."""
        if len(group) == 1:
            (asked,) = group
            seen = await look_for(self._api, self._patience, slug, asked.stored, asked.title)
            if seen.sight is Sight.UNKNOWN and not seen.is_cut_short:
                seen = await self._renewed(slug, asked, seen)
            elif seen.sight is Sight.ABSENT:
                await self._doubt(slug)
            return [self._suspicious(slug, asked, seen)]
        place = self._place(slug)
        seen_of: dict[str, Seen] = {}
        left = {asked.mark: asked for asked in group}
        strangers = set[str]()
        searches = 0
        while left:
            asked = next(iter(left.values())) if searches == 0 else self._chance.choice(list(left.values()))
            query = await query_for(self._api, self._patience, asked.stored, asked.title)
            hits = await self._patience.call(self._api.search, slug, query, MOST_SEARCHED)
            searches += 1
            strangers |= _keys(hits) - standing(place.rows) - {each.stored.key for each in group}
            found = self._found(slug, hits, left)
            seen_of |= found
            for mark in found:
                del left[mark]
            if len(hits) < MOST_SEARCHED and left:
                sight = Sight.UNKNOWN if await is_cut_short(self._api, self._patience, slug, hits) else Sight.ABSENT
                seen_of |= dict.fromkeys(left, Seen(sight))
                left.clear()
            elif asked.mark in left:
                note_not_seen(slug, asked.stored)
                seen_of[asked.mark] = await self._renewed(slug, asked, Seen(Sight.UNKNOWN))
                del left[asked.mark]
            elif searches >= _SAMPLES and not place.is_doubted:
                place.accepted.extend(left.values())
                seen_of |= dict.fromkeys(left, Seen(Sight.UNKNOWN))
                left.clear()
        if any(seen.sight is Sight.ABSENT for seen in seen_of.values()):
            await self._doubt(slug)
        first = group[0].mark
        seen_of[first] = seen_of[first]._replace(others=self._lasting(place, frozenset(strangers)))
        return [seen_of[asked.mark] for asked in group]

    def _found(self, slug: str, hits: Sequence[Hit], left: dict[str, Asked]) -> dict[str, Seen]:
        texts = defaultdict[str, Counter[str]](Counter)
        for hit in hits:
            if hit.metadata.chunk_source in left:
                texts[hit.metadata.chunk_source][hit.text] += 1
        found: dict[str, Seen] = {}
        for mark, each in texts.items():
            if each.total() >= len(left[mark].stored.locations):
                seen = Seen(Sight.FOUND, is_doubled=each.total() > len(each))
                found[mark] = self._suspicious(slug, left[mark], seen)
        return found

    def _suspicious(self, slug: str, asked: Asked, seen: Seen) -> Seen:
        """What was seen, without what proves nothing: what is listed by now, and what a document says twice itself."""
        seen = self._embedding.suspicious(seen, asked.stored.locations, is_new=asked.is_new)
        return seen._replace(others=seen.others - standing(self._place(slug).rows)) if seen.others else seen

    def _lasting(self, place: _Place, strangers: frozenset[str]) -> frozenset[str]:
        """Those whose rows had time to follow: what others embed at this moment is found before it is listed."""
        is_alone = place.on_the_way == 0 and place.embedding.is_idle
        lasting = strangers if is_alone else strangers & place.suspected
        place.suspected = strangers
        return lasting

    async def _renewed(self, slug: str, asked: Asked, seen: Seen) -> Seen:
        """Put in anew what is not among the nearest to its own words; if that helps, others may be missing, too."""
        place = self._place(slug)
        if await self._embedding.renew(slug, asked.stored, asked.title, tries=_TRIES if place.is_doubted else 1):
            await self._doubt(slug)
            return Seen(Sight.FOUND)
        place.accepted.append(asked)
        return seen

    async def _doubt(self, slug: str) -> None:
        """Look at what was taken for searchable here, now that a document was not."""
        place = self._place(slug)
        place.is_doubted = True
        accepted, place.accepted = list(place.accepted), deque(maxlen=_ACCEPTED)
        async with asyncio.TaskGroup() as group:
            for asked in accepted:
                group.create_task(self._look_again(slug, asked))

    async def _look_again(self, slug: str, asked: Asked) -> None:
        async with self._few:
            seen = await look_for(self._api, self._patience, slug, asked.stored, asked.title)
            if seen.sight is not Sight.FOUND and not seen.is_cut_short:
                rows = await self._patience.call(self._api.rows, slug)
                if all(rows[location] for location in asked.stored.locations):  # nobody removed it since
                    await self._embedding.renew(slug, asked.stored, asked.title, tries=_TRIES)


def _keys(hits: Sequence[Hit]) -> set[str]:
    keys = {naming.key_of_mark(hit.metadata.chunk_source) for hit in hits}
    return {key for key in keys if key is not None}
