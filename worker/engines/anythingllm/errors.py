"""What a reply that is no success means, as a table.

AnythingLLM answers most errors with 500, whatever they are, and only the text tells them apart. :data:`TABLE` holds one
row for each text that is known; :func:`judge` reads it from the top. What a row cannot decide (whether a call may
simply be made again) is its caller's affair: :class:`TroubleError` only says that it is worth trying.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from worker.engines.base import (
    DocumentRejectedError,
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    WorkspaceUnknownError,
)

UPLOAD: Final = "upload"
EMBED: Final = "update-embeddings"
SEARCH: Final = "vector-search"
CHAT: Final = "chat"
NEW: Final = "workspace/new"
UPDATE: Final = "workspace/update"
DELETE: Final = "workspace/delete"
COLLECTOR: Final = "accepted-file-types"
EMBEDDER: Final = "openai/embeddings"

_LONGEST_TEXT: Final = 300


class TroubleError(Exception):
    """A call went wrong in a way that passes: it may be made again, once it is known what the first one did.

    Attributes:
        reason: what happened, for a person.
        if_it_stays: what is to be raised if it does not pass; ``None`` for an engine that is unavailable.
        was_told: the server, or a proxy, answered that it went wrong; not so where no answer came.
    """

    def __init__(self, reason: str, if_it_stays: EngineError | None = None, *, was_told: bool = False) -> None:
        super().__init__(reason, if_it_stays)
        self.reason, self.if_it_stays, self.was_told = reason, if_it_stays, was_told

    def lasting(self, addition: str = "") -> EngineError:
        """Return what is to be raised now that it did not pass; ``addition`` goes behind the reason."""
        return self.if_it_stays or unavailable(self.reason + addition)


class Verdict(StrEnum):
    """What is to be done about an error."""

    REPEAT = "repeat"
    UNAVAILABLE = "unavailable"
    REJECTED = "rejected"
    REFUSED = "refused"
    WORKSPACE_UNKNOWN = "workspace_unknown"
    UNANSWERED = "unanswered"


class Row(NamedTuple):
    """One known error.

    Attributes:
        statuses: HTTP statuses it comes with.
        pattern: found in the text of the reply, whatever the case of its letters; empty: any text.
        verdict: what is to be done.
        code: of the error that is raised, where the verdict leaves a choice.
        message: ``{subject}`` is what the call was about, ``{text}`` what the server said.
        calls: the calls it belongs to; empty: every call.
    """

    statuses: tuple[int, ...]
    pattern: str
    verdict: Verdict
    code: str = ""
    message: str = "{subject}: AnythingLLM said: {text}"
    calls: tuple[str, ...] = ()

    def is_about(self, call: str, status: int, said: str) -> bool:
        """Return whether this is what a call was answered."""
        return (
            status in self.statuses
            and (not self.calls or call in self.calls)
            and re.search(self.pattern, said, re.IGNORECASE) is not None
        )


_CONNECTION: Final = (
    "connection error|econnrefused|econnreset|enotfound|etimedout|socket hang up|fetch failed|terminated|timed? ?out|"
    "und_err|premature close|overloaded|service unavailable|bad gateway"
)

TABLE: Final = (
    # Whatever was called
    Row(
        (403,),
        "deletion is blocked",
        Verdict.REFUSED,
        "deletion_protected",
        "{subject} is protected from deletion: unset WORKSPACE_DELETION_PROTECTION on the AnythingLLM server",
    ),
    Row(
        (401, 403),
        "",
        Verdict.REFUSED,
        "key_refused",
        "AnythingLLM refused the API key: set ANYTHINGLLM_API_KEY to one of its keys",
    ),
    Row((413,), "", Verdict.REJECTED, "too_large", "{subject} is larger than AnythingLLM or a proxy takes", (UPLOAD,)),
    Row((429,), "", Verdict.UNAVAILABLE, "", "AnythingLLM, or a proxy before it, asks to wait"),
    Row((502, 503, 504), "", Verdict.REPEAT),
    # An error that was cut off on its way says nothing about the document or the question.
    Row((500,), r"^status 500$|^\{", Verdict.REPEAT, calls=(UPLOAD, CHAT)),
    # Uploads
    Row((500,), "not online", Verdict.UNAVAILABLE, "", "AnythingLLM's collector is down: {text}", (UPLOAD,)),
    Row((500,), "does not exist in upload directory", Verdict.REPEAT, calls=(UPLOAD,)),
    Row((500,), f"could not be completed|unexpected end of form|{_CONNECTION}", Verdict.REPEAT, calls=(UPLOAD,)),
    Row(
        (500,),
        "no text content|no valid sheets",
        Verdict.REJECTED,
        "no_text",
        "{subject} holds no text: {text}",
        (UPLOAD,),
    ),
    Row(
        (500,),
        "not supported|no file extension|reserved",
        Verdict.REJECTED,
        "unsupported_type",
        "{subject} is of a kind that AnythingLLM does not read: {text}",
        (UPLOAD,),
    ),
    Row((500,), "encrypt|password", Verdict.REJECTED, "encrypted", "{subject} is encrypted: {text}", (UPLOAD,)),
    Row((500,), "^internal server error$", Verdict.REPEAT),
    Row((500,), "", Verdict.REJECTED, "corrupt", "{subject} could not be read by AnythingLLM: {text}", (UPLOAD,)),
    # Workspaces
    Row((400,), "not a valid workspace", Verdict.WORKSPACE_UNKNOWN, calls=(CHAT,)),
    Row((400, 404), "", Verdict.WORKSPACE_UNKNOWN, calls=(EMBED, UPDATE, DELETE)),
    Row((400,), r"\A(?!(?s:.*?)(?:query|topn|message))", Verdict.WORKSPACE_UNKNOWN, calls=(SEARCH,)),
    # The collector and the embedder
    Row((404, 500), "", Verdict.UNAVAILABLE, "", "AnythingLLM's collector is down: start it again", (COLLECTOR,)),
    Row((400, 500), "", Verdict.UNAVAILABLE, "", "AnythingLLM's embedder is down: {text}", (EMBEDDER,)),
    Row((400, 500), "embed", Verdict.UNAVAILABLE, "", "AnythingLLM's embedder is down: {text}", (SEARCH, CHAT)),
    Row((400, 500), _CONNECTION, Verdict.UNAVAILABLE, "", "AnythingLLM's embedder is down: {text}", (SEARCH,)),
    Row(
        (200, 400, 500),
        "no vector column|vector dimension",
        Verdict.REFUSED,
        "embedder_changed",
        "{subject} holds the vectors of another embedder than AnythingLLM has now ({text}): set that one again, or "
        "delete the workspace and upload its documents anew",
        (SEARCH, CHAT),
    ),
    # The language model: 200 is an abort that came as a success
    Row((200, 500), "no text completion", Verdict.REPEAT, calls=(CHAT,)),
    Row(
        (200, 500),
        r"^(401|403)\b|api key|unauthorized",
        Verdict.REFUSED,
        "refused",
        "the language model refused AnythingLLM: {text}; correct its settings there",
        (CHAT,),
    ),
    Row(
        (200, 500),
        rf"^(408|429|5\d\d)\b|rate limit|quota|{_CONNECTION}",
        Verdict.UNAVAILABLE,
        "",
        "the language model does not answer AnythingLLM: {text}",
        (CHAT,),
    ),
    Row((200, 500), "", Verdict.UNANSWERED, "unanswered", "the language model gave no answer: {text}", (CHAT,)),
)

_RAISED: Final[dict[Verdict, Callable[[str, str], EngineError]]] = {
    Verdict.UNANSWERED: EngineError,
    Verdict.REJECTED: DocumentRejectedError,
    Verdict.REFUSED: EngineRefusedError,
}


def judge(call: str, status: int, text: str, subject: str, retry_after: float | None = None) -> Exception:
    """Return what is to be raised for a reply that is no success.

    Args:
        call: its name, one of this module's or any other.
        status: of the reply; 200 for one that says itself that it failed.
        text: what it said, without secrets; only its first characters are repeated.
        subject: the document or workspace it was about.
        retry_after: seconds that the reply asked to wait.

    Returns:
        An :class:`~worker.engines.base.EngineError`, or :class:`TroubleError` if the call is worth making again.
    """
    said = " ".join(text.split())[:_LONGEST_TEXT] or f"status {status}"
    row = next((row for row in TABLE if row.is_about(call, status, said)), None)
    if row is None:
        message = f"{subject}: AnythingLLM answered {call} with {status}: {said}"
        return TroubleError(message, was_told=True) if status >= 500 else EngineRefusedError("refused", message)  # noqa: PLR2004 - HTTP
    message = row.message.format(subject=subject, text=said)
    match row.verdict:
        case Verdict.REPEAT:
            return TroubleError(f"{call}: {status}: {said}", was_told=True)
        case Verdict.UNAVAILABLE:
            return unavailable(message, retry_after)
        case Verdict.WORKSPACE_UNKNOWN:
            return workspace_unknown(subject)
        case _:
            return _RAISED[row.verdict](row.code, message)


def unavailable(message: str, retry_after: float | None = None) -> EngineUnavailableError:
    """Return the error of an engine that does not answer now.

    Args:
        message: what does not answer, and why.
        retry_after: seconds, where they are known.
    """
    return EngineUnavailableError("engine_unavailable", message, retry_after)


def workspace_unknown(slug: str) -> WorkspaceUnknownError:
    """Return the error of a workspace that is not there."""
    return WorkspaceUnknownError(
        "workspace_unknown", f"AnythingLLM has no workspace {slug}: it was deleted, or never made; upload into it again"
    )
