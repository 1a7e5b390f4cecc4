"""Seeing that a document can be found in its workspace, by a search for its own words.

The server lists documents that have no vectors, and tells by no call which have. A search tells; but one that is full
of other documents' passages, or that the workspace cuts short, tells nothing of those beyond: a document is absent only
where all passages were seen.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import structlog

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.diagnosis import search
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.replies import Hit
from worker.engines.base import StoredDocument

MOST_SEARCHED: Final = 1_000
_NEAREST: Final = (4, 50, MOST_SEARCHED)
"""How many passages are searched for the document's own; more only if as many of others are nearer."""

_OPENING_CHARACTERS: Final = 300
_TITLE_CHARACTERS: Final = 100
_CUTS_SHORT: Final = "rerank"  # looks at 50 passages at most, however many are asked for

_LOG = structlog.get_logger(__name__)


class Seen(NamedTuple):
    """What a search showed.

    Attributes:
        sight: of the document that was looked for.
        is_doubled: passages of it came twice: perhaps it was embedded twice, perhaps it says something twice.
        others: keys of other documents whose passages came.
        is_cut_short: the workspace shows fewer passages than it was asked for, so most cannot be found at all.
    """

    sight: "Sight"
    is_doubled: bool = False
    others: frozenset[str] = frozenset()
    is_cut_short: bool = False


class Sight(StrEnum):
    """What a search told of a document."""

    FOUND = "found"
    ABSENT = "absent"
    UNKNOWN = "unknown"


async def look_for(api: Api, patience: Patience, slug: str, stored: StoredDocument, title: str | None) -> Seen:
    """Search for a document until it is found, or until nothing else can be.

    Args:
        api: the server.
        patience: how often a call is made again.
        slug: the workspace's.
        stored: the document; one of several parts is found if there are as many passages of it as parts.
        title: what it is called on the server, if that is known here.
    """
    query = await query_for(api, patience, stored, title)
    mark, parts = naming.chunk_source(stored.key), len(stored.locations)
    seen = Seen(Sight.UNKNOWN)
    for most in _NEAREST:
        if most < parts and most < MOST_SEARCHED:
            continue
        hits = await search(api, patience, slug, query, most)
        own = [hit.text for hit in hits if hit.metadata.chunk_source == mark]
        others = {hit.metadata.chunk_source for hit in hits} - {mark}
        seen = Seen(Sight.UNKNOWN, len(set(own)) < len(own), frozenset(filter(None, map(naming.key_of_mark, others))))
        if len(own) >= parts:
            return seen._replace(sight=Sight.FOUND)
        if len(hits) < most:
            cut_short = await is_cut_short(api, patience, slug, hits)
            if not cut_short:
                return seen._replace(sight=Sight.ABSENT)
            seen = seen._replace(is_cut_short=True)
            break
    note_not_seen(slug, stored)
    return seen


def note_not_seen(slug: str, stored: StoredDocument) -> None:
    """Say that a document is taken for searchable because it is listed.

    Rows lose their vectors only in a workspace without any, and here are more than can be looked at.
    """
    _LOG.info("engine.not_seen", workspace=slug, location=stored.locations[0], searched=MOST_SEARCHED)


async def is_cut_short(api: Api, patience: Patience, slug: str, hits: Sequence[Hit]) -> bool:
    """Return whether the workspace tells fewer passages than were asked for, though it holds more."""
    if not hits:
        return False
    workspace = await patience.call(api.workspace, slug)
    return workspace is not None and workspace.search_mode == _CUTS_SHORT


async def query_for(api: Api, patience: Patience, stored: StoredDocument, title: str | None) -> str:
    """Return what is most like the document's first passage, and least like another's that begins as it does."""
    opening = stored.opening.strip()
    if not opening and title is None:
        title = await patience.call(api.title, stored.locations[0])
    if not title:
        return opening[:_OPENING_CHARACTERS] or stored.key
    # The server puts this above every passage before it embeds it.
    header = f"<document_metadata>\nsourceDocument: {title[-_TITLE_CHARACTERS:]}\n</document_metadata>"
    return f"{header}\n\n{opening[:_OPENING_CHARACTERS]}".strip()
