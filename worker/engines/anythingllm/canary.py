"""A document that nothing can die of: whether the collector reads it says whether another one is to blame."""

import io
from dataclasses import replace
from hashlib import sha256
from typing import Final
from uuid import uuid4

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.errors import TroubleError, unavailable
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.removing import Removing
from worker.engines.base import Document
from worker.engines.slots import Slots

_TEXT: Final = b"This document was sent to see whether the server reads any."


class Canary:
    """Sends it, and takes it away again.

    Args:
        api: the server.
        patience: how often a call is made again.
        removing: takes away what was stored.
        slots: bound on uploads at once, over all workers.
    """

    def __init__(self, api: Api, patience: Patience, removing: Removing, slots: Slots) -> None:
        self._api, self._patience, self._removing, self._slots = api, patience, removing, slots

    async def sing(self, suspect: Document) -> None:
        """Return if the collector reads a harmless document now.

        It lies in a folder of the suspect's job, so that the job's sweep finds what a lost reply leaves behind.

        Raises:
            EngineUnavailableError: it does not; nothing can be said of the suspect.
        """
        harmless = replace(
            suspect,
            name="canary.txt",
            file=io.BytesIO(_TEXT),
            size=len(_TEXT),
            sha256=sha256(_TEXT).hexdigest(),
            media_type="text/plain",
            metadata=None,
        )
        folder = naming.folder_of_job(suspect.job_id)
        async with self._slots.hold(alone=True):
            try:
                made = await self._api.upload(folder, f"canary-{uuid4()}.txt", harmless, mark="canary")
            except TroubleError as error:
                raise unavailable(f"AnythingLLM reads no document at all: {error.reason}") from error
        await self._removing.remove_stored([part.location for part in made])
