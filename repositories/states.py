"""The state machine of a job, written once, as data.

Everything that decides where a job may go reads :data:`TRANSITIONS`: the repository's statements bind their allowed
states from it, the tests try every pair of states against it, and ``docs/architecture.md`` is drawn from it.
"""

from enum import StrEnum
from typing import NamedTuple


class JobStatus(StrEnum):
    """Where a job stands. A runnable job begins as ``queued``; ``pending`` waits for parents or is the caller's own."""

    PENDING = "pending"
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the job by itself."""
        return self in FINAL


class JobType(StrEnum):
    """What a job does. The value is also the name of the ARQ function that carries it out, where a worker has one.

    A type is text, and this is no list of what can run: a worker leaves alone what it has no task for.
    """

    DOCUMENT_UPLOAD = "document_upload"
    QUESTION_PROCESSING = "question_processing"
    WORKSPACE_CREATION = "workspace_creation"
    WORKSPACE_DELETION = "workspace_deletion"
    WORKSPACE_REBUILD = "workspace_rebuild"


class ItemStatus(StrEnum):
    """Where one document or question of a job stands."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class DocumentState(StrEnum):
    """What the record knows of a document in a workspace."""

    RESERVED = "reserved"  # an item is about to store it
    STORED = "stored"
    REMOVING = "removing"  # on its way out: whoever wants its content waits for that, and stores it anew


class Verb(StrEnum):
    """What moves a job. Each is one method of the repository."""

    RELEASE = "release"  # its last parent completed
    ABANDON = "abandon"  # it can never run: a parent failed or was cancelled
    CLAIM = "claim"  # a worker starts it
    REPORT = "report"  # its caller drives it through update_job_status
    FINISH = "finish"  # the attempt that holds it ends it
    PUT_BACK = "put back"  # the attempt that holds it returns it: retry, snooze, engine outage, shutdown
    RESCUE = "rescue"  # its lease ran out
    CANCEL = "cancel"  # somebody asked; a job that a worker holds is only marked
    RETRY = "retry"  # a person asks again


class Transition(NamedTuple):
    """One row of the table. ``fenced``: the caller names the attempt it holds, and a lost attempt moves nothing."""

    verb: Verb
    source: JobStatus
    target: JobStatus
    fenced: bool


_S = JobStatus

FINAL = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})

TRANSITIONS: tuple[Transition, ...] = (
    Transition(Verb.RELEASE, _S.PENDING, _S.QUEUED, fenced=False),
    Transition(Verb.ABANDON, _S.PENDING, _S.FAILED, fenced=False),
    Transition(Verb.ABANDON, _S.QUEUED, _S.FAILED, fenced=False),
    Transition(Verb.CLAIM, _S.QUEUED, _S.PROCESSING, fenced=False),
    Transition(Verb.REPORT, _S.PENDING, _S.PROCESSING, fenced=False),
    Transition(Verb.REPORT, _S.PENDING, _S.COMPLETED, fenced=False),
    Transition(Verb.REPORT, _S.PENDING, _S.FAILED, fenced=False),
    Transition(Verb.REPORT, _S.PROCESSING, _S.COMPLETED, fenced=False),
    Transition(Verb.REPORT, _S.PROCESSING, _S.FAILED, fenced=False),
    Transition(Verb.FINISH, _S.PROCESSING, _S.COMPLETED, fenced=True),
    Transition(Verb.FINISH, _S.PROCESSING, _S.FAILED, fenced=True),
    Transition(Verb.FINISH, _S.PROCESSING, _S.CANCELLED, fenced=True),
    Transition(Verb.PUT_BACK, _S.PROCESSING, _S.QUEUED, fenced=True),
    Transition(Verb.RESCUE, _S.PROCESSING, _S.QUEUED, fenced=False),
    Transition(Verb.RESCUE, _S.PROCESSING, _S.FAILED, fenced=False),
    Transition(Verb.RESCUE, _S.PROCESSING, _S.CANCELLED, fenced=False),
    Transition(Verb.CANCEL, _S.PENDING, _S.CANCELLED, fenced=False),
    Transition(Verb.CANCEL, _S.QUEUED, _S.CANCELLED, fenced=False),
    Transition(Verb.CANCEL, _S.PROCESSING, _S.CANCELLED, fenced=False),  # the caller's own job; a worker's is marked
    Transition(Verb.RETRY, _S.FAILED, _S.QUEUED, fenced=False),
    Transition(Verb.RETRY, _S.CANCELLED, _S.QUEUED, fenced=False),
    Transition(Verb.RETRY, _S.FAILED, _S.PENDING, fenced=False),  # its parents have not ended
    Transition(Verb.RETRY, _S.CANCELLED, _S.PENDING, fenced=False),
)


def sources(verb: Verb, target: JobStatus) -> list[str]:
    """Return the states from which ``verb`` may move a job to ``target``, as the database spells them; may be empty."""
    return [str(row.source) for row in TRANSITIONS if row.verb is verb and row.target is target]


def mermaid() -> str:
    """Draw the table as a Mermaid state diagram: one arrow a pair of states, labelled with its verbs."""
    arrows: dict[tuple[JobStatus, JobStatus], list[str]] = {}
    for row in TRANSITIONS:
        arrows.setdefault((row.source, row.target), []).append(str(row.verb))
    lines = [
        "stateDiagram-v2",
        "    [*] --> queued: enqueue",
        "    [*] --> pending: waits for parents, or caller-driven",
    ]
    lines += [f"    {source} --> {target}: {', '.join(verbs)}" for (source, target), verbs in arrows.items()]
    lines += [f"    {status} --> [*]" for status in JobStatus if status.is_final]
    return "\n".join(lines)
