"""The parts of AnythingLLM's replies that this engine reads, checked: whatever else a reply holds is ignored.

Strings were cut while they arrived (:mod:`worker.engines.anythingllm.abridging`); no field here needs more than its
beginning.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_ROWS = 1_000_000


def _text(value: object) -> object:
    """The server checks no type of what it was told about a document: what is no text is none of ours."""
    return value if isinstance(value, str) else ""


LooseText = Annotated[str, BeforeValidator(_text)]


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Row(_Reply):
    """A document in a workspace. The same ``docpath`` twice means that it was embedded twice."""

    docpath: str


class Workspace(_Reply):
    """A workspace, with its documents where the call tells them."""

    id: int
    name: str
    slug: Annotated[str, Field(min_length=1)]
    top_n: Annotated[int | None, Field(alias="topN")] = None
    similarity_threshold: Annotated[float | None, Field(alias="similarityThreshold")] = None
    chat_mode: Annotated[str | None, Field(alias="chatMode")] = None
    prompt: Annotated[str | None, Field(alias="openAiPrompt")] = None
    refusal: Annotated[str | None, Field(alias="queryRefusalResponse")] = None
    search_mode: Annotated[LooseText, Field(alias="vectorSearchMode")] = ""
    temperature: Annotated[float | None, Field(alias="openAiTemp")] = None
    history: Annotated[int | None, Field(alias="openAiHistory")] = None
    chat_provider: Annotated[str | None, Field(alias="chatProvider")] = None
    chat_model: Annotated[str | None, Field(alias="chatModel")] = None
    agent_provider: Annotated[str | None, Field(alias="agentProvider")] = None
    agent_model: Annotated[str | None, Field(alias="agentModel")] = None
    documents: Annotated[tuple[Row, ...], Field(max_length=MAX_ROWS)] = ()


class Workspaces(_Reply):
    """All workspaces."""

    workspaces: Annotated[tuple[Workspace, ...], Field(max_length=MAX_ROWS)]


class OneWorkspace(_Reply):
    """A workspace looked up by its slug: a list of one, or of none."""

    workspace: Annotated[tuple[Workspace, ...], Field(max_length=1)]


class MadeWorkspace(_Reply):
    """A workspace that was made or changed."""

    workspace: Workspace


class _Embedded(_Reply):
    documents: Annotated[tuple[Row, ...], Field(max_length=MAX_ROWS)]


class EmbeddedWorkspace(_Reply):
    """What stands in a workspace after a change of its documents."""

    workspace: _Embedded


class UploadedDocument(_Reply):
    """A document that was made of an upload."""

    location: Annotated[str, Field(min_length=3)]
    words: Annotated[int, Field(alias="wordCount", ge=0)] = 0
    text: Annotated[LooseText, Field(alias="pageContent")] = ""
    url: LooseText = ""


class Uploaded(_Reply):
    """The documents that were made of a file."""

    success: bool
    documents: Annotated[tuple[UploadedDocument, ...], Field(max_length=MAX_ROWS)] = ()


class FiledDocument(_Reply):
    """A document as a folder lists it; its location is the folder's name, ``/`` and ``name``."""

    name: str
    chunk_source: Annotated[LooseText, Field(alias="chunkSource")] = ""
    words: Annotated[int, Field(alias="wordCount", ge=0)] = 0
    url: LooseText = ""


class _Titled(_Reply):
    title: LooseText = ""


class FoundDocument(_Reply):
    """A document that was looked up by its name."""

    document: _Titled


class Folder(_Reply):
    """What a folder holds."""

    documents: Annotated[tuple[FiledDocument, ...], Field(max_length=MAX_ROWS)]


class _Marks(_Reply):
    chunk_source: Annotated[LooseText, Field(alias="chunkSource")] = ""


class Hit(_Reply):
    """A passage that a search found; of its text the beginning."""

    text: LooseText = ""
    metadata: _Marks


class Hits(_Reply):
    """What a search found, best first."""

    results: Annotated[tuple[Hit, ...], Field(max_length=10_000)]


class ChatSource(_Reply):
    """A passage that an answer rests on; a pinned document has no score."""

    title: LooseText = ""
    doc_source: Annotated[LooseText, Field(alias="docSource")] = ""
    chunk_source: Annotated[LooseText, Field(alias="chunkSource")] = ""
    text: LooseText = ""
    score: float | None = None
    distance: Annotated[float | None, Field(alias="_distance")] = None


class ChatReply(_Reply):
    """What came of a question. ``error`` is ``None`` or false where all is well."""

    type: str
    text: Annotated[str | None, Field(alias="textResponse")] = None
    error: Any = None
    chat_id: Annotated[int | None, Field(alias="chatId")] = None
    sources: Annotated[tuple[ChatSource, ...], Field(max_length=10_000)] = ()


class Vectors(_Reply):
    """What the embedder makes of a text, as the OpenAI-compatible call gives it."""

    data: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=10)]
