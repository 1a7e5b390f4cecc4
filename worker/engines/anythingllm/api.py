"""AnythingLLM's developer API: one method a call, what goes in and what comes out of it, as far as the engine needs it.

Every method makes one call, once. It raises :class:`~worker.engines.anythingllm.errors.TroubleError` for what may be
made again, when it is known whether the first did its work, and an
:class:`~worker.engines.base.EngineError` for all else.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from worker.engines.anythingllm import errors, naming
from worker.engines.anythingllm.replies import (
    ChatReply,
    EmbeddedWorkspace,
    FiledDocument,
    Folder,
    FoundDocument,
    Hit,
    Hits,
    MadeWorkspace,
    OneWorkspace,
    Row,
    Uploaded,
    UploadedDocument,
    Vectors,
    Workspace,
    Workspaces,
)
from worker.engines.anythingllm.transport import Call, Transport, Upload, failure
from worker.engines.base import Document, EngineRefusedError

_LONG_TEXT: Final = 100_000  # characters of an answer, of a quoted passage, of a prompt
_BYTES_A_SECOND: Final = 200_000  # an upload may take a second more for so many
_PROBE_TEXT: Final = "Does the embedder answer?"

R = TypeVar("R", bound=BaseModel)
Rows = Counter[str]
"""How often each location stands in a workspace; once is right."""


class Api:
    """The calls.

    Args:
        transport: makes them.
        timeout_seconds: bound on a call that does no long work.
        upload_seconds: bound on an upload, beside what its size asks for.
        embed_seconds: bound on embedding, and on an answer.
    """

    def __init__(
        self, transport: Transport, timeout_seconds: float, upload_seconds: float, embed_seconds: float
    ) -> None:
        self._transport = transport
        self._seconds, self._upload_seconds, self._embed_seconds = timeout_seconds, upload_seconds, embed_seconds

    async def check_key(self) -> None:
        """Return if the server answers and takes the key."""
        reply = await self._transport.send(self._call("auth", "GET", "auth", self._transport.url))
        if not isinstance(reply, dict) or reply.get("authenticated") is not True:
            raise EngineRefusedError("not_the_api", f"{self._transport.url} answers, but not as AnythingLLM does")

    async def check_collector(self) -> None:
        """Return if the collector answers, without which no document can be read."""
        await self._transport.send(
            self._call(errors.COLLECTOR, "GET", "document/accepted-file-types", self._transport.url)
        )

    async def check_embedder(self) -> None:
        """Return if the embedder makes a vector, without which no document can be found."""
        body = {"input": [_PROBE_TEXT]}
        await self._ask(self._call(errors.EMBEDDER, "POST", "openai/embeddings", self._transport.url, body), Vectors)

    async def workspaces(self) -> Sequence[Workspace]:
        """Return all workspaces, without their documents."""
        call = self._call("workspaces", "GET", "workspaces", self._transport.url, keep=1_000)
        return (await self._ask(call, Workspaces)).workspaces

    async def workspace(self, slug: str) -> Workspace | None:
        """Return a workspace with what stands in it, ``None`` if there is none."""
        call = self._call("workspace", "GET", f"workspace/{_quoted(slug)}", slug, keep=_LONG_TEXT)
        found = (await self._ask(call, OneWorkspace)).workspace
        return found[0] if found else None

    async def rows(self, slug: str) -> Rows:
        """Return what stands in a workspace.

        Raises:
            WorkspaceUnknownError: there is none.
        """
        call = self._call("workspace", "GET", f"workspace/{_quoted(slug)}", slug, keep=300)
        found = (await self._ask(call, OneWorkspace)).workspace
        if not found:
            raise errors.workspace_unknown(slug)
        return _counted(found[0].documents)

    async def new_workspace(self, name: str) -> Workspace:
        """Make a workspace. It is made whatever else has this name: look first, under a lock."""
        call = self._call(errors.NEW, "POST", "workspace/new", name, {"name": name}, keep=1_000)
        return (await self._ask(call, MadeWorkspace)).workspace

    async def update_workspace(self, slug: str, changes: dict[str, Any]) -> None:
        """Change settings of a workspace, by the names they have on the server."""
        call = self._call(errors.UPDATE, "POST", f"workspace/{_quoted(slug)}/update", slug, changes)
        await self._ask(call, MadeWorkspace)

    async def delete_workspace(self, slug: str) -> None:
        """Delete a workspace that was there a moment ago; its documents stay on the server's disk."""
        await self._transport.send(self._call(errors.DELETE, "DELETE", f"workspace/{_quoted(slug)}", slug))

    async def upload(
        self, folder: str, name: str, document: Document, mark: str | None = None
    ) -> Sequence[UploadedDocument]:
        """Store a document in a folder, which is made if there is none; return what was made of it.

        Args:
            folder: by its name on the server.
            name: of the file there.
            document: its bytes, and what is told of it.
            mark: what it is found by, in place of its key.
        """
        call = Call(
            name=errors.UPLOAD,
            method="POST",
            path=f"v1/document/upload/{_quoted(folder)}",
            subject=document.name,
            seconds=self._upload_seconds + document.size / _BYTES_A_SECOND,
            keep=500,
            upload=Upload(name, document.media_type, document.file, naming.metadata(document, mark)),
        )
        reply = await self._transport.send(call)
        uploaded = _read(call, reply, Uploaded)
        if not uploaded.success or not uploaded.documents:
            raise failure(call, reply)
        return uploaded.documents

    async def folder(self, name: str) -> Sequence[FiledDocument]:
        """Return what a folder holds; nothing if there is none."""
        call = self._call("documents/folder", "GET", f"documents/folder/{_quoted(name)}", name, missing_is_none=True)
        reply = await self._transport.send(call)
        return () if reply is None else _read(call, reply, Folder).documents

    async def title(self, location: str) -> str | None:
        """Return the title of a stored document, ``None`` if it is not stored."""
        name = location.rpartition("/")[2]
        call = self._call("document", "GET", f"document/{_quoted(name)}", "a document", missing_is_none=True)
        reply = await self._transport.send(call)
        return None if reply is None else _read(call, reply, FoundDocument).document.title

    async def update_embeddings(self, slug: str, adds: Sequence[str] = (), deletes: Sequence[str] = ()) -> Rows:
        """Remove one row of each of ``deletes``, embed ``adds``; return what stands in the workspace then.

        It says nothing of what could not be embedded: look for it.
        """
        body = {"adds": list(adds), "deletes": list(deletes)}
        call = self._call(errors.EMBED, "POST", f"workspace/{_quoted(slug)}/update-embeddings", slug, body)
        call = _longer(call, self._embed_seconds)
        return _counted((await self._ask(call, EmbeddedWorkspace)).workspace.documents)

    async def search(self, slug: str, query: str, most: int) -> Sequence[Hit]:
        """Return the passages of a workspace that are nearest to ``query``."""
        body = {"query": query, "topN": most, "scoreThreshold": 0}
        call = self._call(errors.SEARCH, "POST", f"workspace/{_quoted(slug)}/vector-search", slug, body)
        return (await self._ask(call, Hits)).results

    async def remove_documents(self, locations: Sequence[str]) -> None:
        """Remove documents with their vectors, and one row of each in every workspace."""
        call = self._call(
            "remove-documents", "DELETE", "system/remove-documents", _several(locations), {"names": list(locations)}
        )
        await self._transport.send(_longer(call, self._embed_seconds))

    async def remove_folder(self, name: str) -> None:
        """Remove a folder with all documents in it, their vectors and their rows; none is no error."""
        call = self._call("remove-folder", "DELETE", "document/remove-folder", name, {"name": name})
        await self._transport.send(_longer(call, self._embed_seconds))

    async def chat(self, slug: str, message: str, session: str, mode: str = "query") -> ChatReply:
        """Ask one question in a session of its own, so that no other question has a part in the answer.

        Args:
            slug: the workspace's.
            message: the question.
            session: names the session.
            mode: ``query`` answers from the documents alone, ``chat`` asks the language model in any case.
        """
        body = {"message": message, "mode": mode, "sessionId": session}
        call = self._call(errors.CHAT, "POST", f"workspace/{_quoted(slug)}/chat", slug, body, keep=_LONG_TEXT)
        call = _longer(call, self._embed_seconds)
        reply = await self._transport.send(call)
        read = _read(call, reply, ChatReply)
        if read.type != "textResponse" or read.error not in (None, False) or read.text is None:
            raise failure(call, reply)
        return read

    def _call(
        self,
        name: str,
        method: str,
        path: str,
        subject: str,
        body: dict[str, Any] | None = None,
        *,
        keep: int = 300,
        missing_is_none: bool = False,
    ) -> Call:
        return Call(
            name=name,
            method=method,
            path=f"v1/{path}",
            subject=subject,
            seconds=self._seconds,
            keep=keep,
            body=body,
            missing_is_none=missing_is_none,
        )

    async def _ask(self, call: Call, kind: type[R]) -> R:
        return _read(call, await self._transport.send(call), kind)


def _read(call: Call, reply: Any, kind: type[R]) -> R:
    try:
        return kind.model_validate(reply)
    except ValidationError as error:
        raise failure(call, reply if isinstance(reply, dict) else None) from error


def _longer(call: Call, seconds: float) -> Call:
    return Call(call.name, call.method, call.path, call.subject, max(seconds, call.seconds), call.keep, call.body)


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _counted(rows: Sequence[Row]) -> Rows:
    return Counter(row.docpath for row in rows)


def _several(locations: Sequence[str]) -> str:
    return "a document" if len(locations) == 1 else f"{len(locations)} documents"
