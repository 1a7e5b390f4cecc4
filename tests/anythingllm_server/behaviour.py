"""How the stand-in behaves: its times, its outages and the faults it injects. Changeable while it runs."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, le=3600)]

API_KEY = "AAAAAAA-BBBBBBB-CCCCCCC-DDDDDDD"
"""The key that opens the API unless another one is set."""


class FaultKind(StrEnum):
    """What can go wrong with a request. The work of the request is done unless it says otherwise."""

    DROP_BEFORE = "drop_before"  # the connection is closed before anything is done
    DROP_AFTER = "drop_after"  # the connection is closed without a reply
    DROP_MIDWAY = "drop_midway"  # half of the reply, then the connection is closed
    SLOW = "slow"  # the reply comes after ``slow_seconds``
    TRUNCATED_JSON = "truncated_json"  # a whole reply that holds half of its JSON
    HTML_200 = "html_200"  # nothing is done; the single-page app answers
    HTTP_500 = "http_500"  # nothing is done; bare text
    HTTP_502 = "http_502"  # nothing is done; the page of a proxy
    HTTP_429 = "http_429_retry_after"  # nothing is done; a proxy asks to wait ``retry_after_seconds``
    UPLOAD_CLASH = "upload_clash"  # uploads: as if another upload had taken the file away (§3.5)
    EMBED_SILENT = "embed_silent"  # embeddings: answered as if done (§4), drawn for each document
    EMBED_ROW_WITHOUT_VECTORS = "embed_row_without_vectors"  # embeddings: listed, not found (§4.1), for each document
    EMBED_KILLED = (
        "embed_killed"  # embeddings: the server dies between the vectors and the row (§10), for each document
    )
    COLLECTOR_DOWN = "collector_down"  # a window of ``window_seconds`` begins with this request
    EMBEDDER_DOWN = "embedder_down"  # the same for the embedder
    LLM_ERROR = "llm_error"  # chats: the provider refuses (§5)
    LLM_EMPTY = "llm_empty"  # chats: the provider answers nothing (§5)


class ModelTrouble(StrEnum):
    """In which words the language model is away (§5)."""

    ERROR = "error"
    RATE = "rate"
    EMPTY = "empty"


class Fault(BaseModel):
    """How often a fault happens, and to what.

    Attributes:
        rate: share of the requests that it happens to, 0 to 1.
        routes: names of the routes it is restricted to (``upload-to-folder``, ``chat``; app.py names them); empty: all.
        most: it happens so many times at most, counted anew when ``faults`` is set; ``None``: without end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    routes: tuple[str, ...] = ()
    most: Annotated[int, Field(ge=0)] | None = None


class Behaviour(BaseModel):
    """Everything that can be told to the stand-in.

    Attributes:
        seed: of all its chance; setting it begins the sequence anew.
        api_key: the only key it accepts.
        collector_seconds: for each file; the collector works on one at a time (§9).
        embedder_seconds: for each call, give or take ``embedder_jitter`` of it; calls run in parallel.
        embed_seconds: what the server itself needs to embed a document, beside the embedder.
        search_seconds: what the server needs for a search, and ``search_seconds_a_document`` for each document of the
            workspace beside that; one search after the other (§10: 0.025 and 0.00024).
        table_seconds: bound on the time between looking for a workspace's first vector table and making it: the race
            of first embeddings (§4.1). 0: no race.
        write_seconds: between an upload's file being there and its content being in it (§3.5).
        poison: a document that holds these bytes kills the collector (§3.4: a scan without OCR data); empty: none does.
        collector_restart_seconds: until somebody has started it again.
        dies_with_collector: so does the server, which its image restarts: connections break, and none is taken.
        llm_seconds: for each answer of the language model.
        latency_seconds: bound on the random time added to each request.
        slow_seconds: for the fault ``slow``; longer than a client waits.
        retry_after_seconds: what ``http_429_retry_after`` asks for.
        window_seconds: how long an outage drawn by a fault lasts.
        collector_down, embedder_down: an outage until it is set back.
        model_down: the language model is away, in these words, until it is set back.
        deletion_protection: workspaces cannot be deleted (§2).
        chunk_characters: bound on the length of what one vector stands for.
        embedder_dimensions: of its vectors; a table keeps those of its first (§10: another embedder than it was).
        opposite_word: a text with this word gets the opposite of its vector, so that its distances exceed 1 (§5).
        faults: by kind; a kind that is not named does not happen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    api_key: Annotated[str, Field(min_length=1)] = API_KEY
    collector_seconds: Seconds = 0.07
    embedder_seconds: Seconds = 0.2
    embedder_jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    embed_seconds: Seconds = 0.015
    search_seconds: Seconds = 0.0
    search_seconds_a_document: Seconds = 0.0
    table_seconds: Seconds = 0.03
    write_seconds: Seconds = 0.002
    poison: str = ""
    collector_restart_seconds: Seconds = 0.5
    dies_with_collector: bool = False
    llm_seconds: Seconds = 0.03
    latency_seconds: Seconds = 0.0
    slow_seconds: Seconds = 600.0
    retry_after_seconds: Annotated[int, Field(ge=0, le=3600)] = 2
    window_seconds: Seconds = 2.0
    collector_down: bool = False
    embedder_down: bool = False
    model_down: ModelTrouble | None = None
    deletion_protection: bool = False
    chunk_characters: Annotated[int, Field(ge=50, le=10_000)] = 400
    embedder_dimensions: Annotated[int, Field(ge=1, le=1024)] = 1024
    opposite_word: str = ""
    faults: dict[FaultKind, Fault] = {}

    @classmethod
    def quick(cls) -> Self:
        """The same server on a fast machine: for tests that are not about time."""
        return cls(
            collector_seconds=0.005, embedder_seconds=0.005, embed_seconds=0.001, table_seconds=0.02, llm_seconds=0.0
        )

    def changed(self, changes: dict[str, object]) -> "Behaviour":
        """Return a behaviour with these fields replaced, each as a whole (``faults`` too).

        Raises:
            pydantic.ValidationError: a field is unknown or out of its range.
        """
        return type(self).model_validate({**self.model_dump(), **changes})
