"""What the tests of the AnythingLLM engine share: documents, an engine that waits little, and a look at the server."""

import hashlib
import io
import zipfile
from typing import Any
from uuid import UUID, uuid4

import httpx
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from tests.anythingllm_server import Server
from worker.engines.anythingllm import AnythingLLMEngine
from worker.engines.anythingllm.patience import Patience
from worker.engines.base import Document, StoredDocument

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
HOURS = "The shop opens at nine on Saturdays. It is closed on Sundays."


def document(
    content: str | bytes = HOURS,
    *,
    name: str = "manuals/hours.txt",
    job_id: UUID | None = None,
    position: int = 0,
    attempt: int = 1,
    media_type: str = "text/plain",
) -> Document:
    held = content.encode() if isinstance(content, str) else content
    return Document(
        job_id=job_id or uuid4(),
        position=position,
        attempt=attempt,
        name=name,
        file=io.BytesIO(held),
        size=len(held),
        sha256=hashlib.sha256(held).hexdigest(),
        media_type=media_type,
    )


def make_engine(server: Server, database: DatabaseManager, redis: ArqRedis, **bounds: Any) -> AnythingLLMEngine:
    """An engine that gives up within a second or two; ``bounds`` are its constructor's."""
    usual: dict[str, Any] = {
        "timeout_seconds": 5,
        "upload_timeout_seconds": 5,
        "embed_timeout_seconds": 5,
        "settle_seconds": 0.3,
        "patience": Patience(tries=4, first_seconds=0.02, longest_seconds=0.1),
    }
    return AnythingLLMEngine(server.url, server.api_key, database, redis, **(usual | bounds))


def workbook(**sheets: str) -> bytes:
    """An xlsx of sheets with one cell each, as small as readers take it."""
    numbered = list(enumerate(sheets.items(), 1))
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    files = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/>'
        + "".join(
            f'<Override PartName="/xl/worksheets/sheet{at}.xml" ContentType="{kinds}.worksheet+xml"/>'
            for at, _ in numbered
        )
        + "</Types>",
        "_rels/.rels": f'<Relationships {package}><Relationship Id="rId1" Type="{office}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>'
        + "".join(f'<sheet name="{title}" sheetId="{at}" r:id="rId{at}"/>' for at, (title, _) in numbered)
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"<Relationships {package}>"
        + "".join(
            f'<Relationship Id="rId{at}" Type="{office}/worksheet" Target="worksheets/sheet{at}.xml"/>'
            for at, _ in numbered
        )
        + "</Relationships>",
    }
    for at, (_, text) in numbered:
        cell = f'<c r="A1" t="inlineStr"><is><t>{text}</t></is></c>'
        files[f"xl/worksheets/sheet{at}.xml"] = (
            f'<worksheet {main}><sheetData><row r="1">{cell}</row></sheetData></worksheet>'
        )
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as book:
        for name, content in files.items():
            book.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + content)
    return held.getvalue()


def empty_workbook() -> bytes:
    """An xlsx of two sheets without a cell."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook(Prices="x", Stock="y"))) as book, zipfile.ZipFile(made, "w") as empty:
        for entry in book.infolist():
            content = book.read(entry)
            if entry.filename.startswith("xl/worksheets/"):
                content = content[: content.index(b"<row")] + b"</sheetData></worksheet>"
            empty.writestr(entry.filename, content)
    return made.getvalue()


class Look:
    """Looks at the server beside the engine, through the API and nothing else."""

    def __init__(self, server: Server) -> None:
        self._http = httpx.AsyncClient(
            base_url=server.url, headers={"Authorization": f"Bearer {server.api_key.get_secret_value()}"}, timeout=20
        )

    async def listed(self, slug: str) -> list[str]:
        """The locations of a workspace's rows, copies included."""
        (workspace,) = (await self._http.get(f"/v1/workspace/{slug}")).json()["workspace"]
        return sorted(row["docpath"] for row in workspace["documents"])

    async def found(self, slug: str, query: str) -> list[str]:
        """What marks the documents of the passages that a search finds, copies included."""
        body = {"query": query, "topN": 100, "scoreThreshold": 0}
        results = (await self._http.post(f"/v1/workspace/{slug}/vector-search", json=body)).json()["results"]
        return [result["metadata"]["chunkSource"] for result in results]

    async def texts(self, slug: str, query: str = HOURS) -> list[str]:
        """The passages that a search finds, without the header that the server puts above them."""
        body = {"query": query, "topN": 100, "scoreThreshold": 0}
        results = (await self._http.post(f"/v1/workspace/{slug}/vector-search", json=body)).json()["results"]
        return [result["text"].partition("</document_metadata>\n\n")[2] for result in results]

    async def on_disk(self, job_id: UUID) -> list[str]:
        """Every document on the server's disk in a folder of this job."""
        folders = (await self._http.get("/v1/documents")).json()["localFiles"]["items"]
        return sorted(
            f"{folder['name']}/{item['name']}"
            for folder in folders
            for item in folder["items"]
            if folder["name"].startswith(f"job-{job_id}")
        )

    async def folders(self, job_id: UUID) -> list[str]:
        folders = (await self._http.get("/v1/documents")).json()["localFiles"]["items"]
        return [folder["name"] for folder in folders if folder["name"].startswith(f"job-{job_id}")]

    async def get(self, path: str) -> dict[str, Any]:
        reply = await self._http.get(f"/v1/{path}")
        reply.raise_for_status()
        told: dict[str, Any] = reply.json()
        return told

    async def empty_folders(self) -> list[str]:
        """Every folder that holds nothing, but for the server's own."""
        folders = (await self._http.get("/v1/documents")).json()["localFiles"]["items"]
        return [folder["name"] for folder in folders if not folder["items"] and folder["name"] != "custom-documents"]

    async def post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        reply = await self._http.post(f"/v1/{path}", json=body)
        reply.raise_for_status()
        told: dict[str, Any] = reply.json()
        return told

    async def delete(self, path: str) -> None:
        (await self._http.delete(f"/v1/{path}")).raise_for_status()

    async def aclose(self) -> None:
        await self._http.aclose()


async def stands_once(look: Look, slug: str, stored: StoredDocument, query: str = HOURS) -> None:
    """Fail unless the document stands in the workspace exactly once, with vectors of one embedding."""
    listed = await look.listed(slug)
    assert sorted(listed) == sorted(stored.locations)
    found = await look.found(slug, query)
    assert found.count(f"job://{stored.key}") == len(stored.locations)
