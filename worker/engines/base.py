"""What a task needs of a RAG system, whichever it is.

An engine keeps workspaces, stores documents in them, makes them searchable and answers questions from them. This module
names those five calls, what goes in and out of them, and the errors that tell a task what to do next. It knows nothing
of jobs, queues or any one system; a new engine passes the same contract suite (``tests/contract``).
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Document(BaseModel):
    """One file on its way into a workspace.

    Attributes:
        key: the same for every attempt at this document (``<job id>/<position>``); an engine that already holds this
            key in the workspace returns what it holds instead of storing a second copy.
        name: the file name a person knows it by, its folders included (``manuals/kestrel.pdf``).
        content: the bytes of the file.
        sha256: lower-case hex digest of ``content``.
        media_type: by content and extension (``application/pdf``).
    """

    model_config = ConfigDict(frozen=True)

    key: Text
    name: Text
    content: bytes = Field(repr=False)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: Text


class StoredDocument(BaseModel):
    """Where a document stands in a workspace.

    Attributes:
        location: the engine's own id for it, used to embed it later.
        duplicate_of: the name under which the same content already stood in the workspace, put there under another key;
            ``None`` if this call (or an earlier attempt with the same key) stored it.
        pages: number of pages where the format has them.
        words: number of words in the text.
        passages: number of passages that will be searchable; 0 where the engine does not tell.
    """

    model_config = ConfigDict(frozen=True)

    location: Text
    duplicate_of: str | None = None
    pages: int | None = Field(default=None, ge=0)
    words: int = Field(ge=0)
    passages: int = Field(default=0, ge=0)


class Source(BaseModel):
    """A passage that an answer rests on.

    Attributes:
        document: the name the document was uploaded under.
        page: its page, from 1, where the format has pages.
        heading: the title and headings above it, joined by `` > ``.
        text: the passage itself, as the engine quotes it.
        score: the engine's own measure of fit, higher is better; comparable within one engine only.
    """

    model_config = ConfigDict(frozen=True)

    document: str
    page: int | None = Field(default=None, ge=1)
    heading: str | None = None
    text: str
    score: float


class Answer(BaseModel):
    """What an engine said to a question.

    Attributes:
        text: the answer, or the refusal in the engine's words.
        refused: the engine found nothing in the workspace that answers the question.
        sources: best first; empty for a refusal.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    refused: bool
    sources: tuple[Source, ...] = ()


class EngineError(Exception):
    """An engine could not do what was asked.

    Attributes:
        code: stable, lower-case, for machines and reports (``corrupt``); each subclass says which it uses.
        message: one sentence for a person, naming the file or workspace.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class DocumentRejectedError(EngineError):
    """This document can never be stored as it is; the others of its job can.

    Codes: ``corrupt`` (cannot be parsed), ``no_text`` (nothing to search in it), ``unsupported_type``, ``encrypted``,
    ``too_large``, ``not_stored`` (asked to embed what is not there).
    """


class WorkspaceUnknownError(EngineError):
    """There is no such workspace (code ``workspace_unknown``); the whole job cannot go on."""


class EngineUnavailableError(EngineError):
    """The engine does not answer now (code ``engine_unavailable``); the same call may work later."""


class Engine(Protocol):
    """The calls a task makes. Every one may raise :class:`EngineUnavailableError`; none of them retries by itself."""

    @property
    def name(self) -> str:
        """What the record calls this engine (``local``, ``anythingllm``)."""
        ...

    async def ensure_workspace(self, name: str) -> str:
        """Return the slug of the workspace called ``name`` (1 to 255 characters), made now if it is new."""
        ...

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        """Store a document, once per key; it need not be searchable before :meth:`embed`.

        Raises:
            DocumentRejectedError: this document can never be stored.
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def embed(self, slug: str, locations: Sequence[str]) -> None:
        """Make stored documents searchable. Asked again for the same location, it changes nothing.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
            DocumentRejectedError: a location is not in the workspace, or nothing of it can be embedded.
        """
        ...

    async def ask(self, slug: str, question: str) -> Answer:
        """Answer one question (1 to 2,000 characters) from the workspace alone, without memory of earlier questions.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def health(self) -> None:
        """Return if the engine answers; raise :class:`EngineUnavailableError`, saying why, if it does not."""
        ...

    async def aclose(self) -> None:
        """Give back what the engine holds (connections, processes). It is not used afterwards."""
        ...
