"""What is known of a workspace, for people and services."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.documents import DocumentRepository
from repositories.workspaces import WorkspaceRepository


class WorkspaceView(BaseModel):
    """A workspace as the record has it.

    Attributes:
        name: as people call it; ``slug``: as the engine does.
        documents: how many jobs put into it; what people uploaded elsewhere is not counted.
        orphans_seen_at: when vectors were first seen in it that belong to no document, since it was last rebuilt:
            answers may rest on old text until ``worker workspaces rebuild NAME``.
        is_being_rebuilt: uploads and questions wait.
        created_at: when the engine made it, as far as is known; ``rebuilt_at``: when it was last rebuilt.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    slug: str
    documents: int
    orphans_seen_at: datetime | None
    is_being_rebuilt: bool
    created_at: datetime
    rebuilt_at: datetime | None


async def workspace_views(session: AsyncSession, engine: str) -> list[WorkspaceView]:
    """Return the workspaces of an engine, by name."""
    counts = await DocumentRepository(session).counts()
    return [
        WorkspaceView(
            name=found.name,
            slug=found.slug,
            documents=counts.get(found.id, 0),
            orphans_seen_at=found.orphans_seen_at,
            is_being_rebuilt=found.rebuild is not None,
            created_at=found.created_at,
            rebuilt_at=found.rebuilt_at,
        )
        for found in await WorkspaceRepository(session, engine).everything()
    ]
