"""What the stand-in keeps: documents, workspaces with the rows and vectors of their documents, threads and chats."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, Field

CUSTOM = "custom-documents"
"""The folder that uploads go to unless they name one; always there."""
METADATA_KEYS = ("title", "docAuthor", "description", "docSource", "chunkSource")
"""What a client may say of its document (§3.1)."""


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id() -> str:
    return str(uuid4())


def _published() -> str:
    return f"{datetime.now(UTC):%-m/%-d/%Y, %-I:%M:%S %p}"


class StoredDocument(BaseModel):
    """A document on the server's disk. What a client says of it is not type-checked (§3.1)."""

    folder: str
    name: str
    id: str = Field(default_factory=new_id)
    url: str
    title: Any
    doc_author: Any = "Unknown"
    description: Any = "Unknown"
    doc_source: Any
    chunk_source: Any = ""
    published: str = Field(default_factory=_published)
    content: str

    @property
    def location(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def facts(self) -> dict[str, Any]:
        """What is told of it everywhere."""
        return {
            "id": self.id,
            "url": self.url,
            "title": self.title,
            "docAuthor": self.doc_author,
            "description": self.description,
            "docSource": self.doc_source,
            "chunkSource": self.chunk_source,
            "published": self.published,
            "wordCount": len(self.content.split()),
            "token_count_estimate": -(-len(self.content) // 4),
        }

    @property
    def uploaded(self) -> dict[str, Any]:
        """As the reply to an upload has it, text included."""
        return {**self.facts, "pageContent": self.content, "location": self.location, "isDirectUpload": False}


class Folder(BaseModel):
    """A folder of documents."""

    name: str


class Cached(BaseModel):
    """The pieces of a document that was embedded once, for any workspace."""

    chunks: list[str]


class Row(BaseModel):
    """A document's place in a workspace. Nothing makes it unique (§4)."""

    id: int
    doc_id: str
    workspace_id: int
    location: str
    metadata: str
    pinned: bool = False
    created_at: str = Field(default_factory=now)

    @classmethod
    def of(cls, document: StoredDocument, number: int, doc_id: str, workspace_id: int) -> "Row":
        """Return the row of a document in a workspace."""
        return cls(
            id=number,
            doc_id=doc_id,
            workspace_id=workspace_id,
            location=document.location,
            metadata=json.dumps(document.facts),
        )

    @property
    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "docId": self.doc_id,
            "filename": self.location.partition("/")[2],
            "docpath": self.location,
            "workspaceId": self.workspace_id,
            "metadata": self.metadata,
            "pinned": self.pinned,
            "watched": False,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.created_at,
        }


class StoredVector(BaseModel):
    """A piece of a document in a workspace's vector table; the vector itself follows from the text."""

    id: str = Field(default_factory=new_id)
    table: str
    doc_id: str
    text: str
    facts: dict[str, Any]


class Table(BaseModel):
    """A workspace's vector table; it is made by the first embedding and stays when it is empty (§4.1)."""

    slug: str
    dimensions: int = 1024


class Workspace(BaseModel):
    """A workspace and its settings, under the API's own names."""

    id: int
    name: str
    slug: str
    created_at: str = Field(default_factory=now)
    settings: dict[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "slug": self.slug,
            "vectorTag": None,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.created_at,
            "pfpFilename": None,
            "router_id": None,
            **self.settings,
        }


class Thread(BaseModel):
    """A conversation of its own in a workspace."""

    id: int
    name: str
    slug: str
    workspace_id: int
    created_at: str = Field(default_factory=now)

    @property
    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "slug": self.slug,
            "workspace_id": self.workspace_id,
            "user_id": None,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.created_at,
        }


class Chat(BaseModel):
    """A question with its answer.

    Attributes:
        included: it is history for later questions of its scope; refusals and what was reset are not.
    """

    id: int
    workspace_id: int
    thread: str | None
    session: str | None
    question: str
    answer: str
    kind: str
    sources: list[dict[str, Any]]
    metrics: dict[str, Any] = {}
    included: bool
    sent_at: int = Field(default_factory=lambda: int(datetime.now(UTC).timestamp()))
