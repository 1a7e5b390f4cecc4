"""Stored bytes and objects over the S3 protocol, spoken by a server on this machine."""

import asyncio
import hashlib
import os
import re
import socket
import zipfile
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.sources import ObjectSources, SourceError
from worker.storage import Storage, StorageUnavailableError, Swept, TooLargeError

MIB = 1024 * 1024
DAY = timedelta(days=1)


class Kept(NamedTuple):
    content: bytes
    modified: datetime

    @property
    def headers(self) -> dict[str, str]:
        etag = f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'
        return {"ETag": etag, "Last-Modified": format_datetime(self.modified, usegmt=True)}


class Bucket:
    """As much of S3 as obstore asks for, with the rules that matter here: times, conditions, copies, parts."""

    def __init__(self) -> None:
        self.objects: dict[str, Kept] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[str] = []
        self._numbers = count()

    def keep(self, key: str, content: bytes) -> Kept:
        self.objects[key] = Kept(content, datetime.now(UTC))
        return self.objects[key]

    def make_old(self) -> None:
        self.objects = {key: Kept(kept.content, kept.modified - 2 * DAY) for key, kept in self.objects.items()}

    async def answer(self, request: Request) -> Response:
        key, query = request.path_params["key"].lstrip("/"), request.query_params
        self.asked.append(f"{request.method} {key.partition('/')[0]}")
        if not key and request.method == "POST":
            named = re.findall(r"<Key>([^<]+)</Key>", (await request.body()).decode())
            for gone in named:
                self.objects.pop(gone, None)
            deleted = "".join(f"<Deleted><Key>{gone}</Key></Deleted>" for gone in named)
            return _xml(f"<DeleteResult>{deleted}</DeleteResult>")
        if not key:
            return self._list(query["prefix"])
        if request.method == "POST" and "uploadId" not in query:
            upload = str(next(self._numbers))
            self.uploads[upload] = {}
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if request.method == "POST":
            parts = self.uploads.pop(query["uploadId"])
            kept = self.keep(key, b"".join(parts[number] for number in sorted(parts)))
            return _xml(
                f"<CompleteMultipartUploadResult><ETag>{kept.headers['ETag']}</ETag></CompleteMultipartUploadResult>"
            )
        if request.method == "PUT":
            return await self._put(request, key)
        return self._get(request, key)

    async def _put(self, request: Request, key: str) -> Response:
        query, headers = request.query_params, request.headers
        if "partNumber" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = await request.body()
            return Response(headers={"ETag": f'"{query["partNumber"]}"'})
        if headers.get("if-none-match") == "*" and key in self.objects:
            return Response(status_code=412)
        if "x-amz-copy-source" in headers:
            source = unquote(headers["x-amz-copy-source"]).lstrip("/").partition("/")[2]
            if source == key:
                return Response("InvalidRequest: a copy onto itself without a change", status_code=400)
            kept = self.keep(key, self.objects[source].content)
            return _xml(_tagged("CopyObjectResult", kept))
        return Response(headers=self.keep(key, await request.body()).headers)

    def _get(self, request: Request, key: str) -> Response:
        kept = self.objects.get(key)
        if kept is None:
            return Response(status_code=404)
        if request.headers.get("if-match", kept.headers["ETag"]) != kept.headers["ETag"]:
            return Response(status_code=412)
        if request.method == "HEAD":
            return Response(headers={**kept.headers, "Content-Length": str(len(kept.content))})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if wanted is None:
            return Response(kept.content, headers=kept.headers)
        start, end = int(wanted[1]), min(int(wanted[2]), len(kept.content) - 1)
        told = {"Content-Range": f"bytes {start}-{end}/{len(kept.content)}"}
        return Response(kept.content[start : end + 1], status_code=206, headers=kept.headers | told)

    def _list(self, prefix: str) -> Response:
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>{kept.modified.isoformat()}</LastModified>"
            f"<ETag>{kept.headers['ETag']}</ETag><Size>{len(kept.content)}</Size></Contents>"
            for key, kept in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return _xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>")


def _tagged(name: str, kept: Kept) -> str:
    return f"<{name}><ETag>{kept.headers['ETag']}</ETag></{name}>"


def _xml(text: str) -> Response:
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>{text}', media_type="application/xml")


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    """A bucket called ``docs`` that the environment leads to."""
    made = Bucket()
    methods = ["GET", "HEAD", "PUT", "POST"]
    app = Starlette(
        routes=[Route(path, made.answer, methods=methods) for path in ("/docs/{key:path}", "/docs{key:path}")]
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listening.getsockname()[1]}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "eu-west-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield made
    server.should_exit = True
    await serving
    listening.close()


async def nobody(digests: Collection[str]) -> Collection[str]:
    return ()


async def test_bytes_go_to_a_bucket_and_back(bucket: Bucket) -> None:
    storage, content = Storage("s3://docs/prefix"), os.urandom(20 * MIB)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), MIB):
            yield content[at : at + MIB]

    small, large = await storage.put(b"small"), await storage.put_stream(pieces(), 20 * MIB)

    assert (await storage.get(small), await storage.get(large.sha256)) == (b"small", content)
    assert sorted(bucket.objects) == sorted(f"prefix/sha256/{sha256[:2]}/{sha256}" for sha256 in (small, large.sha256))
    assert bucket.uploads == {}


async def test_a_stream_that_is_too_long_leaves_no_object_and_no_unfinished_upload(bucket: Bucket) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(MIB)

    with pytest.raises(TooLargeError):
        await Storage("s3://docs").put_stream(endless(), 30 * MIB)

    assert (bucket.objects, bucket.uploads) == ({}, {})


async def test_a_sweep_of_a_bucket_takes_what_is_old_and_what_is_put_again_is_young(bucket: Bucket) -> None:
    storage = Storage("s3://docs")
    again, gone = await storage.put(b"again"), await storage.put(b"gone")
    bucket.make_old()
    await storage.put(b"again")

    assert await storage.sweep(DAY, nobody) == Swept(1, 4)
    assert list(bucket.objects) == [f"sha256/{again[:2]}/{again}"]
    assert gone != again


async def test_a_marker_of_another_sweep_keeps_this_one_away(bucket: Bucket) -> None:
    storage = Storage("s3://docs")
    sha256 = await storage.put(b"x")
    bucket.make_old()
    bucket.keep(f"condemned/{sha256}", b"")

    assert await storage.sweep(DAY, nobody) == Swept(0, 0)
    assert len(bucket.objects) == 2


async def test_a_zip_in_a_bucket_is_read_by_ranges(bucket: Bucket, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(12):
            archive.writestr(f"{number}.bin", content)
    sources = ObjectSources(["s3://docs/inbox/"])
    bucket.keep("inbox/x.zip", (tmp_path / "x.zip").read_bytes())
    bucket.keep("inbox-2/secret.zip", b"x")

    (entry,) = [entry async for entry in sources.expand("s3://docs/inbox/", ["*.zip"])]
    bucket.asked.clear()

    def read() -> bytes:
        with sources.open(entry) as file, zipfile.ZipFile(file) as archive:
            return archive.read("5.bin")

    assert await asyncio.to_thread(read) == content
    assert len(bucket.asked) <= 10
    bucket.keep("inbox/x.zip", b"another")
    with pytest.raises(SourceError, match="has changed since it was listed"):
        await asyncio.to_thread(sources.open, entry)


async def test_a_bucket_that_refuses_is_unavailable_and_its_url_is_not_told(bucket: Bucket) -> None:
    with pytest.raises(StorageUnavailableError) as raised:
        await Storage("s3://elsewhere").put(b"x")

    assert "elsewhere" not in str(raised.value)
