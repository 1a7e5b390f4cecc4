"""What the calls of :class:`repositories.documents.DocumentRepository` answer, where it is not a row."""

from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class ReservationOutcome(StrEnum):
    """Whose a content is."""

    MINE = "mine"  # store it, unless an earlier attempt did
    HELD = "held"  # it stands in the workspace already
    BUSY = "busy"  # another item is storing it now, or it is being removed: wait, then ask again
    ABANDONED = "abandoned"  # who was removing it did not finish, and the removal is ours: finish it, then ask again
    LOST = "lost"  # the attempt no longer owns its job: nothing was written, and the task must stop


class Reservation(NamedTuple):
    """What became of a wish to store a content.

    Attributes:
        outcome: whose the content is.
        name, job_id: of the document that holds it or is about to; ``None`` where the outcome is ``LOST``, or where
            another item came first this very moment.
        locations: where it stands, or where ``ABANDONED`` left it to be removed; empty where it does not yet.
        is_copy: ``MINE``, and the same content stands in the workspace besides.
        document_id: ``ABANDONED``: what is to be forgotten once it is removed.
    """

    outcome: ReservationOutcome
    name: str | None = None
    job_id: UUID | None = None
    locations: tuple[str, ...] = ()
    is_copy: bool = False
    document_id: int | None = None


class Removal(NamedTuple):
    """A document that is the caller's to remove from the engine, then from the record; nobody counts on it any more.

    Attributes:
        id: of its row.
        name: what a person knows it by.
        locations: where it stands in the engine, as far as it still does.
    """

    id: int
    name: str
    locations: tuple[str, ...]


class Reference(NamedTuple):
    """A document of an upload that stands in the workspace now: its name there, and its content."""

    name: str
    sha256: str


class Verdict(StrEnum):
    """What storing a file would do."""

    NEW = "new"  # neither its name nor its content stands in the workspace
    CHANGED = "changed"  # its name stands there with another content
    UNCHANGED = "unchanged"  # its name stands there with this content
    DUPLICATE = "duplicate"  # its content stands there under another name, or comes earlier in the plan


class PlannedDocument(NamedTuple):
    """One file of a plan, and what storing it would do; ``duplicate_of`` names the document with the same content."""

    name: str
    sha256: str
    verdict: Verdict
    duplicate_of: str | None = None


class Plan(NamedTuple):
    """What storing a set of files would do.

    Attributes:
        documents: one for each file, in the order given.
        orphaned: names that stand in the workspace from the same source and are not in the set, in order.
    """

    documents: list[PlannedDocument]
    orphaned: list[str]
