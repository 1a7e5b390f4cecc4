"""Workspaces as the engines know them: a name that people use, and the slug that the engine gave it."""

import difflib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import NotFoundError, translated
from repositories.models import Workspace

_MOST_NAMES = 5_000


class WorkspaceNotFoundError(NotFoundError):
    """There is no such workspace.

    Attributes:
        name: what was asked for.
        near: known names that look like it, best first.
    """

    def __init__(self, name: str, near: Sequence[str]) -> None:
        super().__init__("workspace", name)
        self.args = (name, near)
        self.name, self.near = name, near

    def __str__(self) -> str:
        if self.near:
            return f"there is no workspace {self.name!r}: did you mean {' or '.join(map(repr, self.near))}?"
        return f"there is no workspace {self.name!r}: upload documents into it first"


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

    async def get_or_raise(self, name: str) -> Workspace:
        """Return the workspace called ``name``.

        Raises:
            WorkspaceNotFoundError: there is none; the error offers names that look like it.
        """
        workspace = await self.get(name)
        if workspace is None:
            raise WorkspaceNotFoundError(name, await self.near(name))
        return workspace

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
