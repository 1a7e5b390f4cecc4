"""How a question is answered (§5): retrieval over the workspace's vectors, and a quotation where a model would write.

It knows nothing of HTTP but the form of a whole answer; :mod:`.chat` reads questions and sends the replies.
"""

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

from tests.anythingllm_server.behaviour import FaultKind, ModelTrouble
from tests.anythingllm_server.counters import add
from tests.anythingllm_server.embedding import score_of, vector_of
from tests.anythingllm_server.embeddings import EmbedderDownError, call_embedder
from tests.anythingllm_server.records import Chat, Thread, Workspace, new_id, now
from tests.anythingllm_server.workspaces import REFUSAL
from tests.anythingllm_server.world import World

EMPTY_ANSWER = "No text completion could be completed with this input."
LLM_ERROR = "400 the language model was told to fail"
_OTHER_DIMENSION = "No vector column found to match with the query vector dimension: {}"
_MODEL_IS_AWAY = {
    ModelTrouble.ERROR: (500, "500 The model is overloaded"),
    ModelTrouble.RATE: (500, "429 Rate limit reached for requests"),
    ModelTrouble.EMPTY: (200, EMPTY_ANSWER),
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_HEADER = re.compile(r"^<document_metadata>.*?</document_metadata>\s*", re.DOTALL)
_PINNED_CHARACTERS = 1000


class AbortError(Exception):
    """A question that is not answered: the status and the ``error`` of the abort object."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(status, error)
        self.status, self.error = status, error


@dataclass
class Asked:
    """A question in its scope: a workspace with a session or none, or a thread."""

    workspace: Workspace
    message: str
    mode: str
    thread: Thread | None
    session: str | None
    route: str
    attachments: list[Any] = field(default_factory=list)


def whole(answer: str, sources: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a whole message; without ``chatId``, which only an answer has."""
    told = {"id": new_id(), "type": "textResponse", "close": True, "error": None, "textResponse": answer}
    return {**told, "sources": sources or [], "metrics": {}}


def scope(world: World, workspace: Workspace, thread: Thread | None, session: str | None) -> list[Chat]:
    """Return the chats of a thread, or of a session of the workspace (``None``: of those without one)."""
    slug = thread.slug if thread else None
    return [
        each
        for each in world.chats
        if each.workspace_id == workspace.id and each.thread == slug and each.session == session
    ]


def forget(world: World, workspace: Workspace, thread: Thread | None, session: str | None) -> None:
    """Make history unusable; without a session that of every thread of the workspace as well (§5)."""
    if thread is None and session is None:
        forgotten = [each for each in world.chats if each.workspace_id == workspace.id and each.session is None]
    else:
        forgotten = scope(world, workspace, thread, session)
    for each in forgotten:
        world.chats.put(str(each.id), each.model_copy(update={"included": False}))


async def answer(world: World, asked: Asked) -> dict[str, Any]:
    """Answer a question and keep it.

    Raises:
        AbortError: the embedder or the language model does not answer, or answers nothing.
    """
    settings = asked.workspace.settings
    if asked.mode == "automatic" or asked.message.startswith("@agent"):
        # The agent names no sources and stores no chat, also where query mode would answer from documents (§5).
        return {**whole("I looked at the workspace with my tools."), "thoughts": [], "outputs": []}
    add(world.counters.questions, asked.message)
    sources = _pinned(world, asked.workspace) + [found for found in map(_attached, asked.attachments) if found]
    if world.vector_count(asked.workspace.slug):
        sources += await _retrieved(world, asked)
    elif asked.mode == "query":
        return _refuse(world, asked)  # an empty workspace is refused whatever is attached (§5)
    history = [each for each in scope(world, asked.workspace, asked.thread, asked.session) if each.included]
    history = history[-settings["openAiHistory"] :] if settings["openAiHistory"] else []
    # Sources of earlier answers fill up the context, so that a nonsense question is answered without sources (§5).
    earlier = [source for each in reversed(history) for source in each.sources]
    context = [*sources, *earlier[: max(settings["topN"] - len(sources), 0)]]
    if not context and asked.mode == "query":
        return _refuse(world, asked)
    await asyncio.sleep(world.behaviour.llm_seconds)
    if (trouble := world.behaviour.model_down) is not None:
        raise AbortError(*_MODEL_IS_AWAY[trouble])
    if world.draw(FaultKind.LLM_ERROR, asked.route):
        raise AbortError(500, LLM_ERROR)
    if world.draw(FaultKind.LLM_EMPTY, asked.route):
        raise AbortError(200, EMPTY_ANSWER)
    said = quote(asked.message, [str(source["text"]) for source in context])
    metrics = _metrics(asked.message, said)
    kept = _keep(world, asked, said, sources, metrics, included=True)
    return {**whole(said, sources), "chatId": kept.id, "metrics": metrics}


def _refuse(world: World, asked: Asked) -> dict[str, Any]:
    """Say that the documents hold nothing: a usual answer without ``chatId``, stored but no history (§5)."""
    refusal = asked.workspace.settings["queryRefusalResponse"] or REFUSAL
    _keep(world, asked, refusal, [], {}, included=False)
    return whole(refusal)


def _keep(
    world: World,
    asked: Asked,
    answer: str,
    sources: list[dict[str, Any]],
    metrics: dict[str, Any],
    *,
    included: bool,
) -> Chat:
    kept = Chat(
        id=world.number(),
        workspace_id=asked.workspace.id,
        thread=asked.thread.slug if asked.thread else None,
        session=asked.session,
        question=asked.message,
        answer=answer,
        kind=asked.mode,
        sources=sources,
        metrics=metrics,
        included=included,
    )
    world.chats.put(str(kept.id), kept)
    return kept


async def _retrieved(world: World, asked: Asked) -> list[dict[str, Any]]:
    """Return the pieces that fit, one source each; its id is the vector's, so no document can be told by it (§5)."""
    settings = asked.workspace.settings
    try:
        question = await call_embedder(world, asked.message)
    except EmbedderDownError as error:
        raise AbortError(500, str(error)) from error
    if not world.takes_vectors(asked.workspace.slug):
        raise AbortError(500, _OTHER_DIMENSION.format(world.behaviour.embedder_dimensions))
    return [
        {
            **stored.facts,
            "id": stored.id,
            "text": stored.text,
            "_distance": distance,
            "score": score_of(distance),
        }
        for stored, distance in world.search(asked.workspace.slug, question, settings["topN"])
        if score_of(distance) >= settings["similarityThreshold"]
    ]


def _pinned(world: World, workspace: Workspace) -> list[dict[str, Any]]:
    pinned = [world.document(row.location) for row in world.rows(workspace) if row.pinned]
    return [
        {
            **document.facts,
            "text": document.content[:_PINNED_CHARACTERS] + "...continued on in source document...",
        }
        for document in pinned
        if document is not None
    ]


def _attached(attachment: Any) -> dict[str, Any] | None:
    """Return what is attached to this question as a source; a broken attachment is left out silently (§5)."""
    if not isinstance(attachment, dict) or attachment.get("mime") != "application/anythingllm-document":
        return None
    _, comma, encoded = str(attachment.get("contentString", "")).partition(";base64,")
    try:
        content = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return {"title": attachment.get("name"), "text": content} if comma and content else None


def quote(question: str, context: list[str]) -> str:
    """Answer from the context: its sentence that is nearest to the question, quoted."""
    passages = [_HEADER.sub("", each) for each in context]
    sentences = [sentence.strip() for each in passages for sentence in _SENTENCE.split(each) if sentence.strip()]
    if not sentences:
        return "Nothing in the conversation answers this."
    asked = vector_of(question)
    return f"According to the documents: {max(sentences, key=lambda sentence: float(vector_of(sentence) @ asked))}"


def _metrics(question: str, answer: str) -> dict[str, Any]:
    prompt, completion = -(-len(question) // 4), -(-len(answer) // 4)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "duration": 0.005,
        "outputTps": completion / 0.005,
        "model": "quotation",
        "provider": "GenericOpenAiLLM",
        "timestamp": now(),
    }
