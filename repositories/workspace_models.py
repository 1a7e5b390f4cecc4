"""Workspaces, and what the local engine stores of them: documents and their passages.

The passages' vector column exists only where the server has pgvector, so it is not mapped here: the migration makes it
and the local engine reads it.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from repositories.mapping import Base


class Workspace(Base):
    """A workspace as its engine knows it. The slug is stored as the engine gave it, never computed."""

    __tablename__ = "workspaces"

    id: Mapped[int] = mapped_column(primary_key=True)
    engine: Mapped[str]
    name: Mapped[str]
    slug: Mapped[str]
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 255", name="name_length"),
        UniqueConstraint("engine", "name"),
        UniqueConstraint("engine", "slug"),
    )


class StoredDocument(Base):
    """A document of the local engine; ``key`` is the engine protocol's, the same for every attempt at it."""

    __tablename__ = "documents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    key: Mapped[str]
    name: Mapped[str]
    sha256: Mapped[str]
    media_type: Mapped[str]
    pages: Mapped[int | None]
    words: Mapped[int]
    passages: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    embedded_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("workspace_id", "key"),
        # The same content stands in a workspace once.
        UniqueConstraint("workspace_id", "sha256"),
    )


class Passage(Base):
    """A piece of a document that can be quoted: bounded text that knows its page and heading."""

    __tablename__ = "passages"

    document_id: Mapped[UUID] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    text: Mapped[str]
    page: Mapped[int | None]
    heading: Mapped[str | None]
    search: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed("to_tsvector('english', coalesce(heading, '') || ' ' || text)", persisted=True),
    )

    __table_args__ = (
        Index("ix_passages_search", "search", postgresql_using="gin"),
        Index("ix_passages_workspace_id", "workspace_id"),
    )
