"""A client for tests that hides nothing: every call returns the raw reply, and what was made is removed at the end."""

import json
import mimetypes
import ssl
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

TLS = ssl.create_default_context()
"""Made once: reading the certificates takes longer than most tests."""
_TIMEOUT_SECONDS = 60


class Driver:
    """Calls the developer API of one server, stand-in or real.

    Args:
        url: with ``/api``.
        api_key: opens it.

    Attributes:
        http: the client behind it, for calls that have no method here.
        folder: a folder of this driver's own; uploads go there unless they name another.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self.http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=_TIMEOUT_SECONDS, verify=TLS
        )
        self.folder = f"contract-{uuid4().hex[:12]}"
        self._folders, self._slugs, self._locations = {self.folder}, list[str](), list[str]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was made here, and close the connections."""
        for slug in self._slugs:
            await self.http.delete(f"/v1/workspace/{slug}")
        await self.http.request("DELETE", "/v1/system/remove-documents", json={"names": self._locations})
        for folder in self._folders:
            await self.http.request("DELETE", "/v1/document/remove-folder", json={"name": folder})
        await self.http.aclose()

    async def get(self, path: str, **params: str | int) -> httpx.Response:
        return await self.http.get(f"/v1/{path}", params=params)

    async def post(self, path: str, body: object = None) -> httpx.Response:
        return await self.http.post(f"/v1/{path}", json=body)

    async def delete(self, path: str, body: object = None) -> httpx.Response:
        return await self.http.request("DELETE", f"/v1/{path}", json=body)

    async def new_workspace(self, name: str | None = None, **settings: object) -> dict[str, Any]:
        """Make a workspace and return it as the reply told it."""
        reply = await self.post("workspace/new", {"name": name or f"Contract {uuid4().hex[:12]}", **settings})
        reply.raise_for_status()
        workspace: dict[str, Any] = reply.json()["workspace"]
        self._slugs.append(workspace["slug"])
        return workspace

    async def upload(
        self, name: str, content: bytes | str, *, folder: str | None = None, **fields: object
    ) -> httpx.Response:
        """Upload a file to a folder (``""``: the server's own); fields that are no text are sent as JSON."""
        content = content.encode() if isinstance(content, str) else content
        folder = self.folder if folder is None else folder
        path = f"/v1/document/upload/{folder}" if folder else "/v1/document/upload"
        data = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        reply = await self.http.post(path, files={"file": (name, content, media_type)}, data=data)
        self.note(reply, folder)
        return reply

    def note(self, reply: httpx.Response, folder: str = "") -> None:
        """Remember what a reply says was stored, so that it is removed at the end."""
        if folder:
            self._folders.add(folder)
        if reply.status_code == httpx.codes.OK and "json" in reply.headers["content-type"]:
            documents = reply.json().get("documents", [])
            self._locations += [document["location"] for document in documents]
            self._folders |= {document["location"].partition("/")[0] for document in documents} - {"custom-documents"}

    async def stored(self, name: str, content: bytes | str, *, folder: str | None = None, **fields: object) -> str:
        """Upload a file and return the location of its document."""
        reply = await self.upload(name, content, folder=folder, **fields)
        reply.raise_for_status()
        location: str = reply.json()["documents"][0]["location"]
        return location

    async def embed(self, slug: str, *adds: str, deletes: tuple[str, ...] = ()) -> httpx.Response:
        return await self.post(f"workspace/{slug}/update-embeddings", {"adds": [*adds], "deletes": [*deletes]})

    async def listed(self, slug: str) -> list[str]:
        """Return the locations of a workspace's rows, sorted, duplicates included."""
        (workspace,) = (await self.get(f"workspace/{slug}")).json()["workspace"]
        return sorted(row["docpath"] for row in workspace["documents"])

    async def found(self, slug: str, query: str, most: int = 20) -> list[str]:
        """Return the titles of the documents whose passages a search finds, best first, duplicates included."""
        body = {"query": query, "topN": most, "scoreThreshold": 0}
        results = (await self.post(f"workspace/{slug}/vector-search", body)).json()["results"]
        return [result["metadata"]["title"] for result in results]

    async def ask(self, slug: str, message: object, **fields: object) -> httpx.Response:
        """Ask in query mode and in a session of its own, unless the fields say otherwise."""
        body = {"message": message, "mode": "query", "sessionId": uuid4().hex, **fields}
        return await self.post(f"workspace/{slug}/chat", body)
