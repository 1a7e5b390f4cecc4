"""Workspaces, the record of what stands in them, and the local engine's store: documents and their passages.

The passages' vector column exists only where the server has pgvector, so it is not mapped here: the migration makes it
and the local engine reads it.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from repositories.mapping import Base, one_of
from repositories.states import DocumentState


class Workspace(Base):
    """A workspace as its engine knows it. The slug is stored as the engine gave it, never computed.

    ``created_at`` is when the engine made it, as far as the record knows: again if it was made anew. ``embedded_at`` is
    when its first document was seen to be searchable; ``None`` if none was yet. ``orphans_seen_at`` is when vectors
    were first seen that belong to no document. ``rebuild`` is how far a rebuild is that is under way, in its engine's
    words; ``rebuilt_at`` when the last one ended.
    """

    __tablename__ = "workspaces"

    id: Mapped[int] = mapped_column(primary_key=True)
    engine: Mapped[str]
    name: Mapped[str]
    slug: Mapped[str]
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    embedded_at: Mapped[datetime | None]
    orphans_seen_at: Mapped[datetime | None]
    rebuild: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    rebuilt_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 255", name="name_length"),
        UniqueConstraint("engine", "name"),
        UniqueConstraint("engine", "slug"),
    )


class WorkspaceDocument(Base):
    """What stands in a workspace, or is about to: which content, under which name, by which item of which job.

    Written by :class:`repositories.documents.DocumentRepository` alone. It outlives its job, so ``job_id`` is no
    foreign key. ``locations`` are the engine's ids; ``source`` is the label of the set of files it came from;
    ``shared`` says that another name or set relies on it, so that no new version and no sync removes it; ``found_by``
    is the newest job that found it there, and no older one removes it. One that is ``removing`` has a remover: a job
    with its attempt, or whoever holds the lock of that id. It is deleted once it is gone from the engine.
    """

    __tablename__ = "workspace_documents"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    name: Mapped[str]
    source: Mapped[str | None]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str]
    locations: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    job_id: Mapped[UUID]
    position: Mapped[int]
    attempt: Mapped[int]
    is_copy: Mapped[bool] = mapped_column(server_default=text("false"))
    shared: Mapped[bool] = mapped_column(server_default=text("false"))
    state: Mapped[DocumentState]
    found_by: Mapped[UUID | None]
    remover_id: Mapped[UUID | None]
    remover_attempt: Mapped[int | None]
    removing_at: Mapped[datetime | None]
    reserved_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    stored_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("state", DocumentState), name="state_known"),
        CheckConstraint(
            "(state = 'reserved') = (stored_at IS NULL) AND (state = 'reserved') = (cardinality(locations) = 0)",
            name="stored_has_time_and_locations",
        ),
        CheckConstraint(
            "(state = 'removing') = (remover_id IS NOT NULL) AND (remover_id IS NULL) = (remover_attempt IS NULL) "
            "AND (remover_id IS NULL) = (removing_at IS NULL)",
            name="removing_has_remover",
        ),
        CheckConstraint("length(name) BETWEEN 1 AND 4096", name="name_length"),
        CheckConstraint("length(source) BETWEEN 1 AND 255", name="source_length"),
        CheckConstraint("length(media_type) BETWEEN 1 AND 255", name="media_type_length"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_spelled"),
        CheckConstraint("size >= 0 AND position >= 0 AND attempt >= 1", name="numbers_in_range"),
        CheckConstraint("cardinality(locations) <= 1000", name="locations_in_range"),
        UniqueConstraint("job_id", "position"),
        # The same content stands in a workspace once, unless somebody asked for copies.
        Index(
            "uq_workspace_documents_content",
            "workspace_id",
            "sha256",
            unique=True,
            postgresql_where=text("NOT is_copy"),
        ),
        Index("ix_workspace_documents_copies", "workspace_id", "sha256", postgresql_where=text("is_copy")),
        # The name's hash: a name of 4,096 characters does not fit into an entry.
        Index("ix_workspace_documents_name", "workspace_id", text("md5(name)")),
        Index("ix_workspace_documents_page", "workspace_id", "id"),
        Index("ix_workspace_documents_removing", "remover_id", postgresql_where=text("state = 'removing'")),
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

    __table_args__ = (UniqueConstraint("workspace_id", "key"),)


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
