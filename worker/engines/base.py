"""What a task needs of a RAG system, whichever it is.

An engine keeps workspaces, stores documents in them, makes them searchable and answers questions from them. This module
names those five calls, what goes in and out of them, and the errors that tell a task what to do next. It knows nothing
of jobs, queues or any one system; a new engine passes the same contract suite (``tests/contract``).
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, BinaryIO, NamedTuple, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from repositories.schemas import Storable
from repositories.states import JobType

Text = Annotated[str, Field(min_length=1)]

_LONGEST_NAME = 255


class WorkspaceSettings(BaseModel):
    """How a workspace answers; what is ``None`` stays as the engine has it. An engine may know only some of them.

    Attributes:
        top_n: passages that an answer may rest on, 1 to 100.
        similarity_threshold: how well a passage must fit, 0 (any) to 1.
        chat_mode: ``query`` answers from documents alone, ``chat`` also from the model's own knowledge.
        prompt: what the model is told before each question.
        refusal: what is said when the documents hold no answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_n: int | None = Field(default=None, ge=1, le=100)
    similarity_threshold: float | None = Field(default=None, ge=0, le=1)
    chat_mode: Annotated[str, Field(pattern="^(query|chat)$")] | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    refusal: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None


class DocumentMetadata(BaseModel):
    """What is told of a document besides its name; an engine that has a place for it keeps it there.

    Attributes:
        author: who wrote it, at most 500 characters.
        description: what it is about, at most 2,000 characters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    author: Annotated[str, Field(min_length=1, max_length=500), Storable] | None = None
    description: Annotated[str, Field(min_length=1, max_length=2_000), Storable] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One file on its way into a workspace.

    Attributes:
        job_id, position: whose item it is. Together they are the document's key: an engine that already holds this key
            in the workspace returns what it holds instead of storing a second copy.
        attempt: of the job, from 1. An engine may name what it sends after it, so that two attempts never collide.
        name: the file name a person knows it by, its folders included (``manuals/kestrel.pdf``).
        file: its bytes, to be read from the start and as often as needed; text is UTF-8. Whoever made it closes it.
        size: of ``file``, in bytes.
        sha256: lower-case hex digest of the file as it was uploaded, before its text was made UTF-8.
        media_type: by content and extension (``application/pdf``).
        metadata: what else is told of it.
        crashes: how often the engine died while it read this document.
    """

    job_id: UUID
    position: int
    attempt: int
    name: str
    file: BinaryIO = field(repr=False)
    size: int
    sha256: str
    media_type: str
    metadata: DocumentMetadata | None = None
    crashes: int = 0

    @property
    def key(self) -> str:
        """The same for every attempt at this document."""
        return f"{self.job_id}/{self.position}"

    def read(self) -> bytes:
        """Return all of its bytes."""
        self.file.seek(0)
        return self.file.read()


class StoredDocument(BaseModel):
    """Where a document stands in a workspace.

    Attributes:
        key: the document's (:attr:`Document.key`).
        locations: the engine's own ids for it, used to embed and to remove it: one, or several where the engine makes
            more than one document of a file (a workbook's sheets).
        pages: number of pages where the format has them and the engine tells.
        words: number of words in the text.
        passages: number of passages that will be searchable; 0 where the engine does not tell.
        converted: it was turned into Markdown before the engine read it.
        opening: how the text begins, where the engine told; at most 500 characters.
    """

    model_config = ConfigDict(frozen=True)

    key: Text
    locations: tuple[Text, ...] = Field(min_length=1, max_length=1_000)
    pages: int | None = Field(default=None, ge=0)
    words: int = Field(default=0, ge=0)
    passages: int = Field(default=0, ge=0)
    converted: bool = False
    opening: str = Field(default="", max_length=500)


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


class Work(StrEnum):
    """What a job asks of an engine: each kind needs other parts of it."""

    DOCUMENTS = "documents"
    QUESTIONS = "questions"

    @classmethod
    def of(cls, job_type: str) -> "Work":
        """Return what jobs of this type ask for."""
        return cls.QUESTIONS if job_type == JobType.QUESTION_PROCESSING else cls.DOCUMENTS


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
    ``too_large``, ``not_stored`` (asked to embed what is not there), ``not_embedded`` (the engine gave it no vectors),
    ``kills_the_collector`` (what reads documents died of it, again and again).
    """


class WorkspaceUnknownError(EngineError):
    """There is no such workspace (code ``workspace_unknown``); the whole job cannot go on."""


class EngineRefusedError(EngineError):
    """The engine will not do this whatever the document is; the whole job cannot go on until a person acts.

    Codes: ``key_refused`` (the API key), ``not_the_api`` (something else answers at the URL), ``deletion_protected``,
    ``embedder_changed`` (its vectors do not fit those of the workspace), ``refused`` (any other).
    """


class EngineUnavailableError(EngineError):
    """The engine does not answer now (code ``engine_unavailable``); the same call may work later.

    Attributes:
        retry_after: seconds after which it may be asked again, where that is known.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class EngineDiedError(EngineUnavailableError):
    """What reads documents died while it read this one; that is the document's fault if it happens again and again.

    Attributes:
        alone: it read nothing else then of which is known.
    """

    def __init__(self, message: str, *, alone: bool) -> None:
        super().__init__("engine_unavailable", message)
        self.alone = alone


class Rebuilt(NamedTuple):
    """A workspace that was made new: what the engine calls it now, and how many documents stand in it."""

    slug: str
    documents: int


def check_workspace_name(name: str) -> None:
    """Refuse what no engine takes as the name of a workspace.

    Raises:
        ValueError: the name is empty, or longer than 255 characters.
    """
    if not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"a workspace name has 1 to {_LONGEST_NAME} characters, this one has {len(name)}")


def unnoticed() -> None:
    """What is called where nobody wants to know."""


class Engine(Protocol):
    """The calls a task makes. Every one may raise :class:`EngineUnavailableError` and :class:`EngineRefusedError`.

    An engine may repeat a call by itself within seconds where that is safe. What it did not do is not done: whoever
    gets an error may make the same call again.
    """

    @property
    def name(self) -> str:
        """What the record calls this engine (``local``, ``anythingllm``)."""
        ...

    @property
    def embeds_in_groups(self) -> bool:
        """Whether :meth:`embed` waits for others to come, so that many should wait in it at a time."""
        ...

    async def ensure_workspace(self, name: str, settings: WorkspaceSettings | None = None) -> str:
        """Return the slug of the workspace called ``name`` (1 to 255 characters), made now if it is new.

        Args:
            name: as people call it.
            settings: given to the workspace, also if it was there before.
        """
        ...

    async def delete_workspace(self, slug: str) -> bool:
        """Remove a workspace with all documents that stand in it; ``False`` if there was none."""
        ...

    async def locations(self, slug: str) -> frozenset[str]:
        """Return the locations of all documents that stand in the workspace now.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def add_document(self, slug: str, document: Document) -> StoredDocument:
        """Store a document, once per key; it need not be searchable before :meth:`embed`.

        Raises:
            DocumentRejectedError: this document can never be stored.
            EngineDiedError: what reads documents died while it read this one.
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def embed(self, slug: str, stored: StoredDocument, *, on_embedded: Callable[[], None] = unnoticed) -> bool:
        """Make a stored document searchable, and return once that was seen. Asked again, it changes nothing.

        Returns:
            Whether vectors were seen in the workspace that belong to no document in it: old text that answers may rest
            on. Only :meth:`rebuild` removes them.

        Args:
            slug: the workspace's.
            stored: as :meth:`add_document` returned it.
            on_embedded: called once, when the embedding itself is over. What the engine does from then on is to see
                that the document is listed and has vectors, and to put right what is amiss.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
            DocumentRejectedError: a location is not stored any more, or nothing of it can be embedded.
        """
        ...

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        """Remove documents, with their vectors, from the workspace and from the engine. What is not there is no error.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        """Remove what attempts of this job left behind: everything it stored that is not in ``keep``.

        Returns:
            How many documents were removed.
        """
        ...

    async def rebuild(self, slug: str, recorded: Callable[[], Awaitable[Collection[str]]]) -> Rebuilt:
        """Make a workspace new from the documents that stand in it, so that it holds their vectors and no others.

        Begun again after it broke off, it goes on where it was. Meanwhile the workspace holds a part of its documents:
        whoever asks it waits until then.

        Args:
            slug: the workspace's.
            recorded: tells the locations that the record has in it now.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def ask(self, slug: str, question: str) -> Answer:
        """Answer one question (1 to 2,000 characters) from the workspace alone, without memory of earlier questions.

        Raises:
            WorkspaceUnknownError: no workspace has this slug.
        """
        ...

    async def health(self, work: Work = Work.DOCUMENTS, slug: str | None = None) -> None:
        """Return if everything answers that this kind of work needs.

        Args:
            work: what is to be done next.
            slug: of the workspace that is to answer questions: only there the language model can be asked.

        Raises:
            EngineUnavailableError: something does not; the message names it.
        """
        ...

    async def away(self) -> Mapping[Work, str]:
        """Say for which work the engine is left alone for now, and why. Nothing is asked by that."""
        ...

    async def aclose(self) -> None:
        """Give back what the engine holds (connections, processes). It is not used afterwards."""
        ...
