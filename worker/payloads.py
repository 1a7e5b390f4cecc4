"""What a job of each type is asked to do, as it stands in ``jobs.payload``: versioned, validated, without bytes.

A newer worker reads what an older client wrote: fields are only ever added, with a default.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from repositories.schemas import MAX_ITEMS, JobError, ShortText, Storable
from worker.engines.base import DocumentMetadata, WorkspaceSettings
from worker.lengths import checked_url
from worker.questions.question_set import Question

LONGEST_NAME = 4_096
"""Of a file or document that an older client wrote, folders included, in characters."""

LONGEST_OBJECT_URL = 4_096
"""Of an object that was found below a prefix: signs of its name may take three characters each."""

Url = Annotated[str, Field(min_length=1), AfterValidator(checked_url), Storable]
"""Of what a person names."""


class StoredFile(BaseModel):
    """A file that waits in storage under the digest of its content, or the reason why it could not be put there.

    Attributes:
        name: as a person knows it, folders included (``manuals/kestrel.pdf``).
        sha256: lower-case hex digest; the storage key is made from it.
        bytes: its size.
        metadata: what is told of it besides; of an archive, of each document in it.
        error: why the file could not be stored (``unreadable``, ``too_large``, ``empty``); it becomes a failed item.
    """

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), Storable]
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(default=0, ge=0)
    metadata: DocumentMetadata | None = None
    error: JobError | None = None

    @model_validator(mode="after")
    def _stored_or_refused(self) -> Self:
        if (self.sha256 is None) == (self.error is None):
            raise ValueError("a file has either a digest or an error")
        return self


class LinkSource(BaseModel):
    """A document that is fetched from the web when the job runs. A link that ends like an archive is opened as one."""

    model_config = ConfigDict(frozen=True)

    url: Url


class ObjectSource(BaseModel):
    """Objects of a store that the workers may read (``OBJECT_SOURCES``): one key, or all under a prefix.

    Attributes:
        url: of an object, or of a prefix, which ends with a slash.
        include, exclude: globs of the names below the prefix, as for folders.
    """

    model_config = ConfigDict(frozen=True)

    url: Url
    include: tuple[str, ...] = Field(default=(), max_length=100)
    exclude: tuple[str, ...] = Field(default=(), max_length=100)


class ObjectVersion(BaseModel):
    """An object as it was listed: what is read later must be the same."""

    model_config = ConfigDict(frozen=True)

    url: Annotated[str, Field(min_length=1, max_length=LONGEST_OBJECT_URL)]
    size: int = Field(ge=0)
    etag: str | None = None
    modified: AwareDatetime


class DocumentItem(BaseModel):
    """One document of a job: where its bytes are, or why there are none. It is the item's ``spec``.

    Attributes:
        name: as a person knows it; the item's key.
        sha256: its bytes, or those of the archive that holds it, are in storage under this digest.
        object: they are an object of a store.
        link: they are fetched from here.
        archive: what the archive is called, if it is in one.
        path: where in the archive, from the outermost inwards; empty if it is in none.
        metadata: what is told of it besides.
        error: why it cannot be had.
    """

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), Storable]
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    object: ObjectVersion | None = None
    link: str | None = Field(default=None, max_length=4_096)
    archive: str | None = None
    path: tuple[str, ...] = Field(default=(), max_length=16)
    metadata: DocumentMetadata | None = None
    error: JobError | None = None


class OnDuplicate(StrEnum):
    """What becomes of a document whose content, or whose name with another content, stands in the workspace."""

    SKIP = "skip"  # the same content is not stored again; another content under the same name stands beside it
    REPLACE = "replace"  # as skip, but another content takes the place of what stood under its name
    ADD = "add"  # stored in any case


class DocumentUploadPayload(BaseModel):
    """Put documents into a workspace, which is made if it is new, and embed them. Archives are opened by the worker.

    Attributes:
        source: a label of this set of documents, at most 255 characters: ``sync`` looks at those with the same one.
        sync: remove what stands in the workspace from ``source`` and is not among these documents. Nothing is removed
            if one of them failed.
        settings: given to the workspace.
        items: documents of an earlier job that are tried again, instead of any other source.
    """

    version: Literal[1] = 1
    workspace: ShortText
    files: list[StoredFile] = Field(default_factory=list, max_length=MAX_ITEMS)
    links: list[LinkSource] = Field(default_factory=list, max_length=10_000)
    objects: list[ObjectSource] = Field(default_factory=list, max_length=1_000)
    items: list[DocumentItem] = Field(default_factory=list, max_length=MAX_ITEMS)
    on_duplicate: OnDuplicate = OnDuplicate.SKIP
    source: ShortText | None = None
    sync: bool = False
    settings: WorkspaceSettings | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if not (self.files or self.links or self.objects or self.items):
            raise ValueError("there is nothing to upload: name files, links or objects")
        if self.items and self.sync:
            raise ValueError("the items of an earlier job are not the whole set: they cannot be synced")
        if self.sync and self.source is None:
            raise ValueError("sync needs a source: the label of the set that is kept in step")
        return self


class WorkspacePayload(BaseModel):
    """Make a workspace, or give one settings (``workspace_creation``); remove it, or make it new from its documents.

    The latter two are ``workspace_deletion`` and ``workspace_rebuild``.
    """

    version: Literal[1] = 1
    workspace: ShortText
    settings: WorkspaceSettings | None = None


class QuestionProcessingPayload(BaseModel):
    """Ask a question set against a workspace, which must exist when the job runs."""

    version: Literal[1] = 1
    workspace: ShortText
    question_set: ShortText
    questions: list[Question] = Field(min_length=1, max_length=10_000)
