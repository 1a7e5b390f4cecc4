"""Every error text that was observed on AnythingLLM is sorted, and nothing secret or endless is repeated."""

import io

import pytest

from worker.engines.anythingllm.errors import TABLE, TroubleError, judge
from worker.engines.anythingllm.transport import Call, Upload, _in_our_words
from worker.engines.base import (
    DocumentRejectedError,
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    WorkspaceUnknownError,
)

OBSERVED: list[tuple[str, int, str, type[Exception], str]] = [
    # upload
    (
        "upload",
        500,
        "File extension .exe not supported for parsing and cannot be assumed as text file type.",
        DocumentRejectedError,
        "unsupported_type",
    ),
    (
        "upload",
        500,
        "No file extension found. This file cannot be processed.",
        DocumentRejectedError,
        "unsupported_type",
    ),
    ("upload", 500, "No text content found in empty.txt.", DocumentRejectedError, "no_text"),
    ("upload", 500, "No valid sheets found in empty.xlsx.", DocumentRejectedError, "no_text"),
    ("upload", 500, "A processing error occurred.", DocumentRejectedError, "corrupt"),
    ("upload", 413, "", DocumentRejectedError, "too_large"),
    (
        "upload",
        500,
        "Document processing API is not online. Document X will not be processed automatically.",
        EngineUnavailableError,
        "engine_unavailable",
    ),
    ("upload", 500, "Response could not be completed", TroubleError, ""),
    ("upload", 500, "fetch failed", TroubleError, ""),
    ("upload", 500, "File does not exist in upload directory.", TroubleError, ""),
    ("upload", 500, "Invalid file upload. Unexpected end of form", TroubleError, ""),
    ("upload", 500, "Internal Server Error", TroubleError, ""),
    ("upload", 500, "", TroubleError, ""),  # its JSON was cut off
    ("chat", 500, "", TroubleError, ""),
    ("workspace/delete", 400, "Bad Request", WorkspaceUnknownError, "workspace_unknown"),
    ("vector-search", 400, "Bad Request", WorkspaceUnknownError, "workspace_unknown"),
    ("vector-search", 400, "Invalid request\\nquery cannot be empty", EngineRefusedError, "refused"),
    # any
    ("auth", 403, "No valid api key found.", EngineRefusedError, "key_refused"),
    (
        "workspace/delete",
        403,
        "Workspace deletion is blocked by the system administrator.",
        EngineRefusedError,
        "deletion_protected",
    ),
    ("workspaces", 429, "Too Many Requests", EngineUnavailableError, "engine_unavailable"),
    ("workspaces", 502, "", TroubleError, ""),
    ("workspaces", 503, "", TroubleError, ""),
    ("workspace/new", 400, "name cannot be null", EngineRefusedError, "refused"),
    ("update-embeddings", 500, "Internal Server Error", TroubleError, ""),
    # workspaces
    ("update-embeddings", 400, "Bad Request", WorkspaceUnknownError, "workspace_unknown"),
    ("workspace/update", 400, "Bad Request", WorkspaceUnknownError, "workspace_unknown"),
    ("vector-search", 400, "Workspace x is not a valid workspace.", WorkspaceUnknownError, "workspace_unknown"),
    ("chat", 400, "Workspace x is not a valid workspace.", WorkspaceUnknownError, "workspace_unknown"),
    # embedder and collector
    ("accepted-file-types", 404, "Not Found", EngineUnavailableError, "engine_unavailable"),
    ("openai/embeddings", 500, "", EngineUnavailableError, "engine_unavailable"),
    (
        "vector-search",
        500,
        "GenericOpenAI Failed to embed: Connection error.",
        EngineUnavailableError,
        "engine_unavailable",
    ),
    ("vector-search", 500, "connect ECONNREFUSED 127.0.0.1:11434", EngineUnavailableError, "engine_unavailable"),
    ("chat", 500, "GenericOpenAI Failed to embed: Connection error.", EngineUnavailableError, "engine_unavailable"),
    (
        "chat",
        500,
        "No vector column found to match with the query vector dimension: 384",
        EngineRefusedError,
        "embedder_changed",
    ),
    # the language model
    ("chat", 200, "No text completion could be completed with this input.", TroubleError, ""),
    ("chat", 500, "400 fake LLM told to fail", EngineError, "unanswered"),
    ("chat", 500, "401 Incorrect API key provided", EngineRefusedError, "refused"),
    ("chat", 500, "429 Rate limit reached", EngineUnavailableError, "engine_unavailable"),
    ("chat", 500, "503 overloaded", EngineUnavailableError, "engine_unavailable"),
    ("chat", 400, "Message is empty", EngineRefusedError, "refused"),
]


@pytest.mark.parametrize(("call", "status", "text", "kind", "code"), OBSERVED)
def test_an_observed_error_is_sorted(call: str, status: int, text: str, kind: type[Exception], code: str) -> None:
    error = judge(call, status, text, "hours.txt")
    assert type(error) is kind, error
    if isinstance(error, EngineError):
        assert error.code == code
        assert len(str(error).splitlines()) == 1


def test_every_row_of_the_table_is_reached_by_an_observed_error() -> None:
    said = [(call, status, text or f"status {status}") for call, status, text, *_ in OBSERVED]
    reached = {next((row for row in TABLE if row.is_about(*each)), None) for each in said}
    assert [row.pattern for row in TABLE if row not in reached] == ["encrypt|password"]  # where parsers will say so


def test_an_endless_text_is_not_repeated_and_is_one_line() -> None:
    message = str(judge("upload", 500, "A processing\nerror " * 10_000, "hours.txt"))
    assert len(message) < 500
    assert "\n" not in message


def test_a_rejection_names_the_document_and_what_the_server_said() -> None:
    error = judge("upload", 500, "No text content found in 0198-0-1.txt.", "manuals/hours.txt")
    assert "manuals/hours.txt" in str(error)
    assert "No text content found" in str(error)


def test_the_time_to_wait_is_handed_on() -> None:
    error = judge("upload", 429, "", "hours.txt", retry_after=7.0)
    assert isinstance(error, EngineUnavailableError)
    assert error.retry_after == 7.0


def test_what_nobody_knows_is_trouble_if_it_is_the_servers_and_a_refusal_if_it_is_ours() -> None:
    assert isinstance(judge("workspaces", 507, "Insufficient Storage", "the server"), TroubleError)
    assert isinstance(judge("workspaces", 418, "I'm a teapot", "the server"), EngineRefusedError)


@pytest.mark.parametrize("path", ["", "/app/collector/hotdir/", "../hotdir/"])
@pytest.mark.parametrize("around", ["{}", "ENOENT: no such file, open '{}'", "cannot read {} twice"])
def test_the_name_that_a_server_knows_becomes_the_one_that_a_person_knows(path: str, around: str) -> None:
    upload = Upload("0190-1-2.pdf", "application/pdf", io.BytesIO(), "{}")
    call = Call("upload", "POST", "/document/upload", "Pump manual.pdf", 60.0, upload=upload)

    assert _in_our_words(around.format(f"{path}{upload.name}"), call) == around.format("Pump manual.pdf")
