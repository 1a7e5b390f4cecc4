"""The documents of one workspace in the hands of a test, without any engine."""

import hashlib
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.documents import DocumentRepository, Reservation, ReservationOutcome
from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.schemas import Finish, Held, ItemOutcome, NewItem
from repositories.states import ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.factories import ERROR, LEASE, expire_lease, hold, running_jobs

MINE, HELD, BUSY, ABANDONED, LOST = ReservationOutcome
# Somebody in this database waits for another transaction to end.
WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()
"""


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


class Desk:
    """The documents of one workspace, within one session, and what tests ask of them again and again."""

    def __init__(self, session: AsyncSession, workspace_id: int) -> None:
        self.session, self.workspace_id = session, workspace_id
        self.documents, self.jobs, self.items = (
            DocumentRepository(session),
            JobRepository(session),
            ItemRepository(session),
        )

    async def job(self, files: int = 3) -> Held:
        (job,) = await running_jobs(self.jobs)
        names = [f"file-{at}" for at in range(files)]
        await self.items.expand(
            hold(job), [NewItem(position=at, key=name, spec={"name": name}) for at, name in enumerate(names)]
        )
        return hold(job)

    async def reserve(
        self, held: Held, position: int = 0, content: str = "hours", name: str = "hours.md", **more: Any
    ) -> Reservation:
        return await self.documents.reserve(
            self.workspace_id,
            held,
            position,
            name,
            more.pop("source", None),
            sha256(content),
            len(content),
            "text/plain",
            **more,
        )

    async def store(self, held: Held, position: int, content: str, name: str, **more: Any) -> None:
        assert (await self.reserve(held, position, content, name, **more)).outcome is MINE
        assert await self.documents.store(held, position, [f"place-{name}-{content}"])

    async def again(self, held: Held) -> Held:
        """The next attempt at the job: its worker was lost."""
        await expire_lease(self.session, held.job_id)
        await self.jobs.rescue()
        (claimed,) = await self.jobs.claim([held.job_id], "worker-2", LEASE)
        return hold(claimed)

    async def leave(self, held: Held, end: str, long_ago: str) -> None:
        """Have a job end, or its attempt be lost (``lost and claimed``: by another one), or the job be ``deleted``."""
        match end:
            case "lost":
                await expire_lease(self.session, held.job_id)
                await self.jobs.rescue()
            case "lost and claimed":
                await self.again(held)
            case "deleted":
                await self.session.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": held.job_id})
                await self.session.execute(text(long_ago))
            case _:
                error = ERROR if end == JobStatus.FAILED else None
                await self.jobs.finish([Finish(held, JobStatus(end), None, error)])

    async def end(self, held: Held, position: int, status: ItemStatus) -> None:
        error = ERROR if status is ItemStatus.FAILED else None
        assert await self.items.record(held, [ItemOutcome(position=position, status=status, error=error)])

    async def names(self) -> list[str]:
        return [row.name for row in await self.documents.standing(self.workspace_id)]


async def workspace(session: AsyncSession, name: str = "Shop") -> int:
    return (await WorkspaceRepository(session, "local").register(name, name.lower())).id
