"""Why nothing is embedded or found, where the call that failed does not say it.

A search that fails for its embedder answers three words, an embedding that fails answers success. Only a question in
query mode gets the cause, in the embedder's or the vector store's own words, before any language model is asked; so
one is asked, but only once something went wrong.
"""

from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.errors import TroubleError
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.replies import Hit
from worker.engines.base import EngineError, EngineRefusedError, EngineUnavailableError

_PROBE: Final = "Does the embedder answer?"


async def search(api: Api, patience: Patience, slug: str, query: str, most: int) -> Sequence[Hit]:
    """Return the passages of a workspace that are nearest to ``query``, at most ``most``.

    Raises:
        EngineUnavailableError: the search failed; the message has the cause if the server gives it away.
        EngineRefusedError: the workspace's vectors are another embedder's (``embedder_changed``).
    """
    try:
        return await patience.call(api.search, slug, query, most)
    except EngineUnavailableError as error:
        raise await _cause(api, slug, error) or error from error


async def check_embedding(api: Api, patience: Patience, slug: str) -> None:
    """Return if the embedder answers, and its vectors are of the length of those in a workspace.

    Raises:
        EngineUnavailableError: it does not answer.
        EngineRefusedError: it is another one than it was (``embedder_changed``).
    """
    try:
        await patience.call(api.check_embedder)
    except EngineUnavailableError as error:
        raise await _cause(api, slug, error) or error from error
    await search(api, patience, slug, _PROBE, 1)


async def _cause(api: Api, slug: str, error: EngineUnavailableError) -> EngineError | None:
    lost = error.__cause__
    if isinstance(lost, TroubleError) and not lost.was_told:
        return None  # no answer came, and to a question there would be none for as long as an answer may take
    try:
        await api.chat(slug, _PROBE, f"probe-{uuid4()}")
    except (EngineUnavailableError, EngineRefusedError) as told:
        return told
    except (EngineError, TroubleError):
        return None  # nothing that it would know better
    return None
