"""Workspaces as the engines know them: a name that people use, and the slug that the engine gave it."""

import difflib
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import translated
from repositories.models import Workspace

_MOST_NAMES = 5_000


class WorkspaceRepository:
    """Look up, register, and suggest. The caller owns the transaction; nothing here commits.

    Args:
        session: the caller's.
        engine: the engine's name; each engine has its own workspaces.
    """

    def __init__(self, session: AsyncSession, engine: str) -> None:
        self._session = session
        self._engine = engine

    async def get(self, name: str) -> Workspace | None:
        """Return the workspace called ``name``."""
        with translated():
            found: Workspace | None = await self._session.scalar(
                select(Workspace).where(Workspace.engine == self._engine, Workspace.name == name)
            )
            return found

    async def register(self, name: str, slug: str, settings: dict[str, Any] | None = None) -> Workspace:
        """Note that the engine calls ``name`` ``slug``; if the name is known already, the first slug stays."""
        with translated():
            await self._session.execute(
                insert(Workspace)
                .values(engine=self._engine, name=name, slug=slug, settings=settings or {})
                .on_conflict_do_nothing(index_elements=[Workspace.engine, Workspace.name])
            )
            return (
                await self._session.scalars(
                    select(Workspace).where(Workspace.engine == self._engine, Workspace.name == name)
                )
            ).one()

    async def near(self, name: str, most: int = 3) -> list[str]:
        """Return known names that look like ``name``, best first: for "did you mean"."""
        with translated():
            names = await self._session.scalars(
                select(Workspace.name)
                .where(Workspace.engine == self._engine)
                .order_by(Workspace.created_at.desc())
                .limit(_MOST_NAMES)
            )
            return difflib.get_close_matches(name, names.all(), n=most, cutoff=0.5)
