"""What happened in the stand-in since it started, or since its counters were set to zero."""

from pydantic import BaseModel


class Upload(BaseModel):
    """An upload whose document was stored, as its client named it.

    Attributes:
        file: the name of the uploaded file (raw text: its title).
        metadata: as it was sent.
        locations: of the documents made of it.
    """

    file: str
    metadata: dict[str, object]
    locations: list[str]


class Counters(BaseModel):
    """Counts by name. Nothing here survives a restart of the server.

    Attributes:
        requests: by route, when they arrive.
        most_at_once: by route, the most requests that were under way at one time.
        uploads: those that stored a document, in order.
        uploaded: how many uploads stored a document, by the name of the file.
        refused_uploads: by error text.
        embedded: how many times a location was embedded, by ``slug location``.
        skipped: how many times it was left out silently, by ``slug location``.
        lost_vectors: how many times its row was made without vectors, by ``slug location``.
        embedder_calls: calls to the embedder, questions included.
        busy_seconds: how long the collector, embedding and searches kept the server busy, by that name.
        collector_deaths: of a document that it read.
        questions: answered or refused, by message.
        faults: injected, by kind.
        fault_routes: injected, by ``route kind``.
    """

    requests: dict[str, int] = {}
    most_at_once: dict[str, int] = {}
    uploads: list[Upload] = []
    uploaded: dict[str, int] = {}
    refused_uploads: dict[str, int] = {}
    embedded: dict[str, int] = {}
    skipped: dict[str, int] = {}
    lost_vectors: dict[str, int] = {}
    embedder_calls: int = 0
    busy_seconds: dict[str, float] = {}
    collector_deaths: int = 0
    questions: dict[str, int] = {}
    faults: dict[str, int] = {}
    fault_routes: dict[str, int] = {}


def busy(counters: Counters, what: str, seconds: float) -> None:
    """Count time that the server was busy."""
    counters.busy_seconds[what] = counters.busy_seconds.get(what, 0.0) + seconds


def add(counts: dict[str, int], name: str) -> None:
    """Count ``name`` once more."""
    counts[name] = counts.get(name, 0) + 1
