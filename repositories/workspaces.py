"""Workspaces as the engines know them: a name that people use, and the slug that the engine gave it."""

import difflib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, ColumnElement, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.errors import NotFoundError, translated
from repositories.models import Workspace, WorkspaceDocument

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
    """Look up, register, suggest, and keep up with the engine. The caller owns the transaction; nothing here commits.

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

    async def by_slug(self, slug: str) -> Workspace | None:
        """Return the workspace that the engine calls ``slug``."""
        with translated():
            found: Workspace | None = await self._session.scalar(
                select(Workspace).where(self._is(slug)).execution_options(populate_existing=True)
            )
            return found

    async def forget(self, slug: str) -> bool:
        """Delete a workspace from the record, with all that the record knows of it: the engine has it no more.

        Returns:
            Whether it was on the record.
        """
        return await self._delete(self._is(slug))

    async def forget_seen(self, seen: Workspace) -> bool:
        """Delete a workspace from the record as it was read there: one that was made anew meanwhile stays.

        Returns:
            Whether it was on the record still.
        """
        return await self._delete(Workspace.id == seen.id, Workspace.slug == seen.slug)

    async def rename_slug(self, name: str, slug: str) -> bool:
        """Record that the engine made the workspace called ``name`` anew, as ``slug``: nothing stands in it now.

        The new slug may be the old one. The record of its documents is deleted, reservations included, and it counts
        as never embedded.

        Returns:
            Whether a workspace of this name is on the record; if not, nothing was written.

        Raises:
            ConflictError: another workspace is on the record with this slug.
        """
        renamed = (
            update(Workspace)
            .where(Workspace.engine == self._engine, Workspace.name == name)
            .values(slug=slug, embedded_at=None, created_at=func.clock_timestamp())
            .returning(Workspace.id)
            .cte("renamed")
        )
        cleared = _cleared(renamed.c.id)
        with translated():
            found = await self._session.scalar(select(func.count()).select_from(renamed).add_cte(cleared))
            return bool(found)

    async def is_embedded(self, slug: str) -> bool:
        """Return whether a document of this workspace was seen to be searchable since the engine made it."""
        with translated():
            found: int | None = await self._session.scalar(
                select(Workspace.id).where(self._is(slug), Workspace.embedded_at.is_not(None))
            )
            return found is not None

    async def mark_embedded(self, slug: str) -> bool:
        """Record that a document of this workspace was seen to be searchable; the first time stays.

        Returns:
            Whether this was the first time; ``False`` also if there is no such workspace.
        """
        with translated():
            marked: int | None = await self._session.scalar(
                update(Workspace)
                .where(self._is(slug), Workspace.embedded_at.is_(None))
                .values(embedded_at=func.clock_timestamp())
                .returning(Workspace.id)
                .execution_options(synchronize_session=False)
            )
            return marked is not None

    async def everything(self) -> list[Workspace]:
        """Return every workspace of the engine, by name."""
        with translated():
            rows = await self._session.scalars(
                select(Workspace).where(Workspace.engine == self._engine).order_by(Workspace.name)
            )
            return [*rows]

    async def mark_orphans(self, slug: str) -> bool:
        """Record that vectors stand in this workspace that belong to no document; the first time stays.

        Returns:
            Whether this was the first time since the last rebuild.
        """
        return await self._change(
            self._is(slug), Workspace.orphans_seen_at.is_(None), orphans_seen_at=func.clock_timestamp()
        )

    async def note_rebuild(self, name: str, slug: str, state: dict[str, Any]) -> bool:
        """Record how far the rebuild of a workspace is, and what the engine calls it now.

        Returns:
            Whether the workspace is on the record.
        """
        return await self._change(self._named(name), slug=slug, rebuild=state)

    async def end_rebuild(self, name: str) -> bool:
        """Record that a workspace was rebuilt: every vector in it belongs to a document."""
        now = func.clock_timestamp()
        return await self._change(
            self._named(name), rebuild=None, rebuilt_at=now, orphans_seen_at=None, embedded_at=now
        )

    async def _change(self, *conditions: ColumnElement[bool], **values: Any) -> bool:
        with translated():
            changed: int | None = await self._session.scalar(
                update(Workspace)
                .where(*conditions)
                .values(**values)
                .returning(Workspace.id)
                .execution_options(synchronize_session=False)
            )
            return changed is not None

    async def _delete(self, *conditions: ColumnElement[bool]) -> bool:
        gone = delete(Workspace).where(*conditions).returning(Workspace.id).cte("gone")
        # The foreign key would delete these as well, but in no order.
        cleared = _cleared(select(Workspace.id).where(*conditions).scalar_subquery())
        with translated():
            found = await self._session.scalar(select(func.count()).select_from(gone).add_cte(cleared))
            return bool(found)

    def _named(self, name: str) -> ColumnElement[bool]:
        return and_(Workspace.engine == self._engine, Workspace.name == name)

    def _is(self, slug: str) -> ColumnElement[bool]:
        return and_(Workspace.engine == self._engine, Workspace.slug == slug)

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


def _cleared(workspace_id: Any) -> CTE:
    """Delete the record of a workspace's documents; locked in id order, as those who store and remove lock them."""
    chosen = (
        select(WorkspaceDocument.id)
        .where(WorkspaceDocument.workspace_id == workspace_id)
        .order_by(WorkspaceDocument.id)
        .with_for_update(of=WorkspaceDocument)
        .cte("chosen")
    )
    return (
        delete(WorkspaceDocument)
        .where(WorkspaceDocument.id == chosen.c.id)
        .returning(WorkspaceDocument.id)
        .cte("cleared")
    )
