"""Where the documents of a job go, and that it may be removed while they are stored."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from repositories.schemas import JobError
from worker.errors import RetryAfterError

_AGAIN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """A workspace as an attempt found it.

    Attributes:
        workspace_id: its row on the record.
        slug: what the engine calls it.
        made_at: when the engine made it: a workspace that was removed and made anew is another one.
    """

    workspace_id: int
    slug: str
    made_at: datetime


class WorkspaceGoneError(RetryAfterError):
    """The workspace was removed while documents were stored in it; the next attempt makes it anew and stores all."""

    def __init__(self) -> None:
        message = "the workspace was removed while documents were stored in it"
        super().__init__(_AGAIN, JobError(code="workspace_gone", message=message))
