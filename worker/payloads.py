"""What a job of each type is asked to do, as it stands in ``jobs.payload``: versioned, validated, without bytes.

A newer worker reads what an older client wrote: fields are only ever added, with a default.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from repositories.schemas import MAX_ITEMS, JobError, ShortText, Storable
from worker.questions.question_set import Question


class StoredFile(BaseModel):
    """A file that waits in storage under the digest of its content, or the reason why it could not be put there.

    Attributes:
        name: as a person knows it, folders included (``manuals/kestrel.pdf``).
        sha256: lower-case hex digest; the storage key is made from it.
        bytes: its size.
        error: why the file could not be stored (``unreadable``, ``too_large``, ``empty``); it becomes a failed item.
    """

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=4_096), Storable]
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(default=0, ge=0)
    error: JobError | None = None

    @model_validator(mode="after")
    def _stored_or_refused(self) -> Self:
        if (self.sha256 is None) == (self.error is None):
            raise ValueError("a file has either a digest or an error")
        return self


class DocumentUploadPayload(BaseModel):
    """Put files into a workspace, which is made if it is new, and embed them. Zip files are opened by the worker."""

    version: Literal[1] = 1
    workspace: ShortText
    files: list[StoredFile] = Field(min_length=1, max_length=MAX_ITEMS)


class QuestionProcessingPayload(BaseModel):
    """Ask a question set against a workspace, which must exist when the job runs."""

    version: Literal[1] = 1
    workspace: ShortText
    question_set: ShortText
    questions: list[Question] = Field(min_length=1, max_length=10_000)
