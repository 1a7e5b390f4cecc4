"""What AnythingLLM replies is read with its quirks: loose types, scores that lie, refusals without a name."""

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from worker.engines.anythingllm.asking import answer_of
from worker.engines.anythingllm.replies import ChatReply, FiledDocument, OneWorkspace, Uploaded
from worker.engines.anythingllm.transport import Call, Transport
from worker.engines.base import EngineRefusedError

SOURCE = {
    "title": "hours.txt",
    "docSource": "manuals/hours.txt",
    "chunkSource": "job://0198/3",
    "text": "<document_metadata>\nsourceDocument: hours.txt\n</document_metadata>\n\nThe shop opens at nine.",
    "_distance": 0.29,
    "score": 0.71,
}


def reply(**changes: object) -> ChatReply:
    said = {"type": "textResponse", "textResponse": "At nine.", "error": None, "chatId": 2, "sources": [SOURCE]}
    return ChatReply.model_validate(said | changes)


def test_a_passage_is_quoted_without_its_header_under_the_name_people_know() -> None:
    (source,) = answer_of(reply()).sources
    assert (source.document, source.text, source.score) == ("manuals/hours.txt", "The shop opens at nine.", 0.71)


def test_a_document_that_is_not_ours_keeps_its_title() -> None:
    (source,) = answer_of(reply(sources=[SOURCE | {"chunkSource": "", "docSource": "pdf file uploaded"}])).sources
    assert source.document == "hours.txt"


def test_a_best_score_at_a_distance_of_one_or_more_is_not_believed() -> None:
    sources = [SOURCE | {"score": 1, "_distance": 1.995}, SOURCE, SOURCE | {"score": 1, "_distance": 0.0}]
    assert [source.score for source in answer_of(reply(sources=sources)).sources] == [1.0, 0.71, 0.0]


def test_only_what_rests_on_nothing_and_was_not_kept_is_a_refusal() -> None:
    assert answer_of(reply(sources=[], chatId=None)).refused
    assert not answer_of(reply(sources=[])).refused  # answered from knowledge or history: no sources, but kept
    assert not answer_of(reply(chatId=None)).refused


def test_metadata_of_any_type_is_read_and_none_of_ours() -> None:
    assert FiledDocument.model_validate({"name": "a.json", "chunkSource": {"x": 1}}).chunk_source == ""
    assert FiledDocument.model_validate({"name": "a.json", "chunkSource": None}).chunk_source == ""


@pytest.mark.parametrize("wrong", [{}, {"workspace": {}}, {"workspace": [{"id": 1}]}, {"workspace": None}])
def test_a_reply_of_another_shape_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OneWorkspace.model_validate(wrong)


def test_an_upload_without_a_location_is_refused() -> None:
    with pytest.raises(ValidationError):
        Uploaded.model_validate({"success": True, "documents": [{"id": "x"}]})


# The transport


def transport_answering(status: int, content: bytes, kind: str, **bounds: int) -> Transport:
    made = Transport("http://someone:hidden@host.invalid:3001/api/", SecretStr("KEY-0001"), **bounds)
    answer = httpx.MockTransport(lambda _: httpx.Response(status, content=content, headers={"content-type": kind}))
    made._client = httpx.AsyncClient(transport=answer, base_url=made.url + "/")
    return made


CALL = Call(name="workspaces", method="GET", path="v1/workspaces", subject="Shop", seconds=5)


@pytest.mark.parametrize("url", ["", "host:3001", "ftp://host/api", "http://", "nonsense"])
def test_what_is_no_url_of_a_server_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="ANYTHINGLLM_URL"):
        Transport(url, SecretStr("KEY-0001"))


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="ANYTHINGLLM_API_KEY") as caught:
        Transport("http://host:3001/api", SecretStr(key))
    assert not key.strip() or key not in str(caught.value)


def test_the_url_is_shown_without_credentials() -> None:
    assert Transport("http://someone:hidden@host:3001/api/?key=1", SecretStr("K")).url == "http://host:3001/api"


async def test_an_error_that_repeats_the_key_is_shown_without_it() -> None:
    transport = transport_answering(400, b'{"error": "bad key KEY-0001 given"}', "application/json")
    with pytest.raises(EngineRefusedError) as caught:
        await transport.send(CALL)
    assert "KEY-0001" not in str(caught.value)
    assert "bad key ***" in str(caught.value)


@pytest.mark.parametrize(("status", "kind"), [(200, "text/html"), (404, "text/html"), (302, "text/html")])
async def test_a_page_is_not_the_api(status: int, kind: str) -> None:
    with pytest.raises(EngineRefusedError, match="is /api missing") as caught:
        await transport_answering(status, b"<html></html>", kind).send(CALL)
    assert caught.value.code == "not_the_api"
    assert "hidden" not in str(caught.value)


async def test_a_reply_that_is_too_large_is_not_read_to_its_end() -> None:
    many = b"[" + b"1," * 100_000 + b"1]"
    with pytest.raises(EngineRefusedError, match="larger than"):
        await transport_answering(200, many, "application/json", max_kept_bytes=10_000).send(CALL)
    long = b'["' + b"x" * 100_000 + b'"]'
    assert await transport_answering(200, long, "application/json", max_kept_bytes=10_000).send(CALL) == ["x" * 300]
    with pytest.raises(EngineRefusedError, match="larger than"):
        await transport_answering(200, long, "application/json", max_reply_bytes=10_000).send(CALL)


async def test_a_text_that_was_cut_within_a_pair_is_read() -> None:
    reply = await transport_answering(200, b'{"t": "cut \\ud83d", "n": 1}', "application/json").send(CALL)
    assert reply == {"t": "cut ?", "n": 1}
