"""What is on the record of each item of a job: for machines, and as a table."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from repositories.models import JobItem
from worker.visible import cell

_PHASES = ("read", "upload", "embed", "verify")  # of a document
_COLUMNS = (
    "position",
    "key",
    "status",
    "stage",
    "attempt",
    "error_code",
    "error",
    "bytes",
    "media_type",
    "sha256",
    "pages",
    "words",
    "locations",
    "duplicate_of",
    *(f"{phase}_seconds" for phase in _PHASES),
    "seconds",
)


def item_facts(item: JobItem) -> dict[str, Any]:
    """All that is known of an item, as JSON."""
    return {
        "position": item.position,
        "key": item.key,
        "status": str(item.status),
        "attempt": item.attempt,
        "error_code": item.error_code,
        "error": item.error,
        "timings": item.timings,
        "result": item.result,
    }


def as_table(items: Iterable[JobItem]) -> str:
    """The items as CSV with a head, a line each. What a spreadsheet would take for a formula begins with ``'``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    for item in items:
        known = (item.result or {}) | item_facts(item)
        known["locations"] = " ".join(known.get("locations") or ())
        known |= {f"{phase}_seconds": seconds for phase, seconds in item.timings.items()}
        known["seconds"] = round(sum(item.timings.values()), 3)
        writer.writerow({name: cell(value) for name, value in known.items() if value is not None})
    return text.getvalue()
