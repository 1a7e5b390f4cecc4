"""A new job of only those items of an old one that failed."""

from collections.abc import Sequence
from typing import Any

from repositories.models import Job, JobItem
from repositories.states import JobType


class NothingToRetryError(ValueError):
    """A job has no failed items that could be tried again; the message says why."""


def only_failed(job: Job, failed: Sequence[JobItem]) -> dict[str, Any] | None:
    """Return the payload of a job that does these items of ``job`` again; ``None`` if its type has none.

    A sync of the old job is not repeated: the items alone are not the whole set.
    """
    payload = dict(job.payload or {})
    if job.type == JobType.DOCUMENT_UPLOAD:
        for sources in ("files", "links", "objects", "sync"):
            payload.pop(sources, None)
        return payload | {"items": [_anew(item.spec) for item in failed]}
    if job.type == JobType.QUESTION_PROCESSING:
        return payload | {"questions": [item.spec for item in failed]}
    return None


def _anew(spec: dict[str, Any]) -> dict[str, Any]:
    """An item without the error that it met when the sources were listed, if it is known where its bytes are."""
    if spec.keys() & {"sha256", "object", "link"}:
        return {name: value for name, value in spec.items() if name != "error"}
    return spec
