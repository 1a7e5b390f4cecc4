"""Vectors of nobody: passages that a search finds, of documents that do not stand in the workspace.

A server that dies while it embeds has written vectors and no row. Embedded again, the document stands twice in the
vectors, and no call removes the first set: what takes its place later is answered from the old text. A search shows
that. What it shows is proved before it is said: a document may say something twice, and a row may be on its way.
"""

import asyncio
from collections.abc import Collection

import structlog

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api, Rows
from worker.engines.anythingllm.finding import Seen, Sight, look_for
from worker.engines.anythingllm.patience import Patience
from worker.engines.base import StoredDocument

_LOG = structlog.get_logger(__name__)


class Orphans:
    """Looks for them in what searches show anyway.

    Args:
        api: the server.
        patience: how often a call is made again.
        settle_seconds: how long a row may take to follow its vectors.
    """

    def __init__(self, api: Api, patience: Patience, settle_seconds: float) -> None:
        self._api, self._patience, self._settle_seconds = api, patience, settle_seconds

    async def are_proved(self, slug: str, stored: StoredDocument, title: str | None, seen: Seen, rows: Rows) -> bool:
        """Return whether vectors of nobody stand in a workspace, by what a search for a document showed.

        Args:
            slug: the workspace's.
            stored: the document that was looked for; if it is doubled it is taken out for a moment, and put back.
            title: what it is called on the server, if that is known here.
            seen: what the search showed.
            rows: what stands in the workspace.
        """
        strangers = seen.others - standing(rows) - {stored.key} if seen.others else frozenset()
        of: str | None = None
        if strangers and await self._are_strangers(slug, stored, title, strangers):
            of = min(strangers)
        elif seen.is_doubled and await self._is_doubled(slug, stored, title):
            of = stored.key
        if of is not None:
            _LOG.warning("engine.orphans", workspace=slug, location=stored.locations[0], of=of)
        return of is not None

    async def _are_strangers(
        self, slug: str, stored: StoredDocument, title: str | None, strangers: Collection[str]
    ) -> bool:
        """Return whether one of these still is found, and still stands nowhere, after a row had time to follow."""
        await asyncio.sleep(self._settle_seconds)
        again = await look_for(self._api, self._patience, slug, stored, title)
        rows = await self._patience.call(self._api.rows, slug)
        return bool(again.others.intersection(strangers) - standing(rows))

    async def _is_doubled(self, slug: str, stored: StoredDocument, title: str | None) -> bool:
        """Take the document out, and return whether it is found still; put it back in any case."""
        locations = list(stored.locations)
        try:
            await self._patience.call(self._api.update_embeddings, slug, (), locations)
            again = await look_for(self._api, self._patience, slug, stored, title)
        finally:
            rows = await self._patience.call(self._api.rows, slug)
            if missing := [location for location in locations if not rows[location]]:
                await self._patience.call(self._api.update_embeddings, slug, missing)
        return again.sight is Sight.FOUND


def standing(rows: Rows) -> set[str]:
    """Return the keys of the jobs' documents among these rows."""
    return {key for location in rows if (key := naming.key_of(location)) is not None}
