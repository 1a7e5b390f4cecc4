"""One question, one answer, with the passages it rests on."""

import re
from typing import Final
from uuid import uuid4

from worker.engines.anythingllm.api import Api
from worker.engines.anythingllm.patience import Patience
from worker.engines.anythingllm.replies import ChatReply, ChatSource
from worker.engines.base import Answer, Source

LONGEST_QUESTION: Final = 2_000
_PROBE: Final = "Answer with the one word: ready."
_PINNED_SCORE: Final = 1.0  # a pinned document is put into every prompt, whole; it has no score
_OURS: Final = "job://"
_HEADER: Final = re.compile(r"\A\s*<document_metadata>.*?</document_metadata>\s*", re.DOTALL)
_TO_AN_AGENT: Final = re.compile(r"\A\s*+@agent\b", re.IGNORECASE)


async def ask(api: Api, patience: Patience, slug: str, question: str) -> Answer:
    """Answer one question from a workspace alone, in a session of its own: an older one has a part in the answer.

    Args:
        api: the server.
        patience: how often it is asked again.
        slug: the workspace's.
        question: 1 to 2,000 characters.

    Raises:
        ValueError: the question is empty or longer.
    """
    if not 0 < len(question.strip()) <= LONGEST_QUESTION:
        raise ValueError(f"a question has 1 to {LONGEST_QUESTION:,} characters, this one has {len(question):,}")
    # Words at the beginning would send it to an agent, which names no sources.
    message = f"Question: {question.strip()}" if _TO_AN_AGENT.match(question) else question
    return answer_of(await patience.run(lambda _: api.chat(slug, message, f"job-{uuid4()}")))


async def check_model(api: Api, patience: Patience, slug: str) -> None:
    """Ask the workspace's language model for a word, without the documents; return if it says anything.

    Raises:
        EngineUnavailableError: the model, or the embedder, does not answer.
        EngineError: it answers, though not this.
    """
    await patience.run(lambda _: api.chat(slug, _PROBE, f"probe-{uuid4()}", mode="chat"))


def answer_of(reply: ChatReply) -> Answer:
    """Return a reply as an answer; one that rests on nothing and was not kept by the server is its refusal."""
    refused = reply.chat_id is None and not reply.sources
    sources = sorted(map(_source, reply.sources), key=lambda source: -source.score)
    return Answer(text=reply.text or "", refused=refused, sources=tuple(sources))


def _source(source: ChatSource) -> Source:
    ours = source.chunk_source.startswith(_OURS)
    return Source(
        document=(source.doc_source if ours else "") or source.title or "unknown",
        text=_HEADER.sub("", source.text),
        score=_score(source),
    )


def _score(source: ChatSource) -> float:
    """The server gives 1, its best, to what is farther than a right angle away: that fits least of all."""
    if source.score is None:
        return _PINNED_SCORE
    is_opposite = source.score == 1 and source.distance is not None and source.distance >= 1
    return 0.0 if is_opposite else source.score
