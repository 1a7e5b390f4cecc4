"""Looking at the server with nothing but HTTP: what stands in a workspace, what lies in the folders, what is found."""

import json
from collections import Counter
from typing import Any

import httpx

from tests.anythingllm_server import Server


class Inspection:
    """What a person would see who asks the server.

    Args:
        server: which.
    """

    def __init__(self, server: Server) -> None:
        self._client = httpx.AsyncClient(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.api_key.get_secret_value()}"},
            timeout=60,
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def keys_of(self, slug: str) -> Counter[str]:
        """How often each document of ours stands in a workspace, by its ``chunkSource``."""
        reply = await self._client.get(f"/v1/workspace/{slug}")
        rows = reply.json()["workspace"][0]["documents"]
        return Counter(json.loads(row["metadata"])["chunkSource"] for row in rows)

    async def locations_of(self, slug: str) -> list[str]:
        """The places of all documents of a workspace, as often as they stand there."""
        reply = await self._client.get(f"/v1/workspace/{slug}")
        return [row["docpath"] for row in reply.json()["workspace"][0]["documents"]]

    async def stored(self) -> list[str]:
        """The places of all documents on the server, embedded or not."""
        folders = (await self._client.get("/v1/documents")).json()["localFiles"]["items"]
        return [f"{folder['name']}/{file['name']}" for folder in folders for file in folder["items"]]

    async def finds(self, slug: str, query: str, most: int) -> set[str]:
        """The ``chunkSource`` of what a search finds; with ``most`` large enough, of all that has vectors."""
        asked: dict[str, Any] = {"query": query, "topN": most, "scoreThreshold": 0}
        reply = await self._client.post(f"/v1/workspace/{slug}/vector-search", json=asked)
        return {found["metadata"]["chunkSource"] for found in reply.json()["results"]}
