"""The record of what stands in each workspace: which content, under which name, by which item of which job.

An engine knows keys; this record knows contents. It decides that the same content stands in a workspace once, however
many jobs bring it at the same time, and tells a sync what changed, what is there already and what is gone. Engines are
not asked here: whoever removes a document from an engine tells the record.
"""

from repositories.documents.fences import REMOVAL_LOCK
from repositories.documents.outcomes import (
    Plan,
    PlannedDocument,
    Reference,
    Removal,
    Reservation,
    ReservationOutcome,
    Verdict,
)
from repositories.documents.planning import Planning
from repositories.documents.removing import Abandoned, Removing
from repositories.documents.reserving import Reserving
from repositories.documents.settling import Settling
from repositories.documents.standing import MAX_PAGE, Standing

__all__ = [
    "MAX_PAGE",
    "REMOVAL_LOCK",
    "Abandoned",
    "DocumentRepository",
    "Plan",
    "PlannedDocument",
    "Reference",
    "Removal",
    "Reservation",
    "ReservationOutcome",
    "Verdict",
]


class DocumentRepository(Reserving, Standing, Settling, Removing, Planning):
    """Reserve, store, read, compare and forget. The caller owns the transaction; nothing here commits.

    - An item's own steps: ``reserve``, ``store``, ``release``. Each locks the job's row, so commit right after it.
    - What stands: ``standing``, ``of_job``; what is left of it to do: ``uploads_to_sweep``, ``bytes_still_needed``.
    - After an upload: ``settle``, then ``superseded`` and ``gone`` say what may be removed.
    - What stands no more: ``begin_removal``, then, once it is gone from the engine, ``forget_removed``;
      ``forget_missing``, as of a time of ``clock``; ``abandoned`` and ``adopt`` for what others did not finish.
    - What an upload would do: ``plan``.

    Args:
        session: the caller's.
    """
