"""Taking documents out of a workspace and off the server, so that nothing of them is left.

The server removes one row of a document a call, and says success whatever it did. So what is left is looked for, and
removed again.
"""

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from uuid import UUID

import structlog
from redis.asyncio import Redis

from worker.engines.anythingllm import naming
from worker.engines.anythingllm.api import Api, Rows
from worker.engines.anythingllm.errors import unavailable
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.replies import FiledDocument, UploadedDocument
from worker.engines.asking_redis import Script
from worker.engines.base import WorkspaceUnknownError

_A_CALL: Final = 500
_ROUNDS: Final = 10
_MOST_COPIES: Final = 100
_FOLDERS_KEPT_SECONDS: Final = 30 * 86_400
_EMPTIED_SECONDS: Final = 300.0  # less than passes between the sweeps after a job's end
_MOST_EMPTIED: Final = 10_000

_NOTE: Final = """
redis.call('SADD', KEYS[1], ARGV[1])
return {redis.call('EXPIRE', KEYS[1], ARGV[2])}
"""
_NOTED: Final = "return redis.call('SMEMBERS', KEYS[1])"

_LOG = structlog.get_logger(__name__)


class Removing:
    """Removal, and what a job left behind.

    Args:
        api: the server.
        patience: how often a call is made again.
        redis: remembers the folders of workbooks, which no call lists; without it, those are found that stand in the
            workspace.
    """

    def __init__(self, api: Api, patience: Patience, redis: Redis) -> None:
        self._api, self._patience = api, patience
        self._note, self._noted = Script(redis, _NOTE, "folders", "set"), Script(redis, _NOTED, "folders", "set")
        self._emptied: OrderedDict[str, float] = OrderedDict()
        self._left: OrderedDict[str, None] = OrderedDict()

    async def note_folder(self, job_id: UUID, folder: str) -> None:
        """Remember a folder of a job beside its first, to be found by :meth:`sweep`."""
        await self._note([_key(job_id)], folder, _FOLDERS_KEPT_SECONDS)

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        """Remove documents from the server, and every row of them from the workspace; see the protocol."""
        await self._rows(slug)
        await self.remove_stored(sorted(locations))
        for _ in range(_ROUNDS):
            rows = await self._rows(slug)
            if not (left := [location for location in sorted(locations) if rows[location]]):
                # Only a workbook's: into the first folder of its job another document may be on its way.
                for folder in sorted({naming.folder_of(location) for location in locations}):
                    if naming.has_parts(folder) and not await self._filed(folder):
                        await self.remove_folder(folder)
                return
            await self._patience.call(self._api.update_embeddings, slug, (), left)
        raise unavailable(f"{slug}: {len(left)} removed documents are still listed")

    async def leave_one(self, slug: str, locations: Collection[str], rows: Rows) -> Rows:
        """Remove all rows of each document but one, with their vectors; the server removes one of each a call.

        Args:
            slug: the workspace's.
            locations: the documents.
            rows: what stands in the workspace.

        Returns:
            What stands in it then.
        """
        for _ in range(_MOST_COPIES):
            if not (copies := [location for location in sorted(locations) if rows[location] > 1]):
                return rows
            _LOG.warning("engine.copy_removed", workspace=slug, location=copies[0])
            rows = await self._remove_one(slug, copies)
        raise unavailable(f"{slug}: {len(copies)} documents are still listed more than once, whatever is removed")

    async def _remove_one(self, slug: str, copies: Sequence[str]) -> Rows:
        async def remove(number: int) -> Rows:
            # After trouble it is only looked: the lost call may have removed one already.
            return await (self._api.rows(slug) if number > 1 else self._api.update_embeddings(slug, (), copies))

        return await self._patience.run(remove)

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        """Remove what a job stored and nobody keeps, and second rows of what is kept; see the protocol.

        A call that the server went on with after its client had left, and after it had been made again, shows only now.
        """
        kept, first = frozenset(keep), naming.folder_of_job(job_id)
        try:
            rows = await self._rows(slug)
        except WorkspaceUnknownError:
            rows = None
        standing = [location for location in rows or () if _is_of(first, naming.folder_of(location))]
        noted = await self._noted([_key(job_id)]) or []
        folders = {first, *noted, *map(naming.folder_of, standing), *(naming.folder_of(location) for location in kept)}
        folders = {folder for folder in folders if _is_of(first, folder)}
        found, of_kept = set(standing), {naming.folder_of(location) for location in kept}
        # One for each try at a workbook: a sweep that was cut short goes on where it was.
        folders = {folder for folder in folders if folder in of_kept or not self._was_emptied(folder)}
        for folder in sorted(folders):
            filed = await self._filed(folder)
            found.update(f"{folder}/{document.name}" for document in filed)
            await self.remove_left(job_id, filed)
            if not filed and folder not in of_kept:
                await self._remove_emptied(folder)
        if rows is not None:
            await self.leave_one(slug, kept, rows)
        if left := found - kept:
            await (self.remove_stored(sorted(left)) if rows is None else self.remove(slug, left))
        for folder in sorted(folders - of_kept):
            if not self._was_emptied(folder):
                await self._remove_emptied(folder)
        return len(left)

    async def _remove_emptied(self, folder: str) -> None:
        await self.remove_folder(folder)
        if naming.has_parts(folder):  # into a job's first folder its next attempt stores again
            self._emptied[folder] = time.monotonic()
            while len(self._emptied) > _MOST_EMPTIED:
                self._emptied.popitem(last=False)

    def _was_emptied(self, folder: str) -> bool:
        """Whether nothing was in a folder moments ago; what a dead worker's request makes there is found later."""
        return time.monotonic() - self._emptied.get(folder, -_EMPTIED_SECONDS) < _EMPTIED_SECONDS

    async def remove_stored(self, locations: Sequence[str]) -> None:
        """Remove documents from the server, with their vectors and one row of each in every workspace."""
        for start in range(0, len(locations), _A_CALL):
            some = locations[start : start + _A_CALL]
            await self._patience.call(self._api.remove_documents, some)

    async def remove_folder(self, folder: str) -> None:
        """Remove a folder of a job; none is no error."""
        await self._patience.call(self._api.remove_folder, folder)

    async def remove_left(self, job_id: UUID, sheets: Iterable[UploadedDocument | FiledDocument]) -> None:
        """Remove the empty folders that the server left of a job's workbooks when it moved their sheets to ours."""
        named = {naming.folder_of_sheets(sheet.url) for sheet in sheets}
        for folder in sorted(folder for folder in named if folder is not None and folder.startswith(str(job_id))):
            if folder not in self._left:
                await self.remove_folder(folder)
                self._left[folder] = None
                while len(self._left) > _MOST_EMPTIED:
                    self._left.popitem(last=False)

    async def _filed(self, folder: str) -> Sequence[FiledDocument]:
        return await self._patience.call(self._api.folder, folder)

    async def _rows(self, slug: str) -> Rows:
        return await self._patience.call(self._api.rows, slug)


def _is_of(first: str, folder: str) -> bool:
    """Whether a folder is a job's: its first, or one beside it."""
    return folder == first or folder.startswith(f"{first}-")


def _key(job_id: UUID) -> str:
    return f"anythingllm:folders:{job_id}"
