"""What a client of AnythingLLM's developer API may rely on, and what it must not.

The suite runs against the stand-in of ``tests/anythingllm_server``; with ``ANYTHINGLLM_URL`` (with ``/api``) and
``ANYTHINGLLM_API_KEY`` in the environment it runs against that real server and leaves nothing behind. So one suite
says that both behave alike. A test that needs an outage or a fault asks for ``stand_in`` and is skipped there.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.anythingllm_server import Behaviour, Server, running_server
from tests.anythingllm_server.driver import Driver

# Read now: the session's fixtures take variables away that are settings of the worker.
_REAL_URL = os.environ.get("ANYTHINGLLM_URL")
_REAL_KEY = os.environ.get("ANYTHINGLLM_API_KEY")
_HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
_QUICK = Behaviour.quick()
_MERLIN = "The Merlin generator needs oil grade 5W30. Service it every 250 hours."
_KESTREL = "The Kestrel pump must be primed with clean water before it is started."
_REFUSAL = "There is no relevant information in this workspace to answer your query."


@pytest.fixture(scope="module")
def running() -> Iterator[Server | None]:
    """The stand-in; ``None`` where a real server was named."""
    if _REAL_URL and _REAL_KEY:
        yield None
        return
    with running_server(_QUICK) as server:
        yield server


@pytest.fixture
async def api(running: Server | None) -> AsyncIterator[Driver]:
    url, key = (running.url, running.api_key.get_secret_value()) if running else (str(_REAL_URL), str(_REAL_KEY))
    async with Driver(url, key) as driver:
        yield driver


@pytest.fixture
async def stand_in(running: Server | None) -> AsyncIterator[Server]:
    """The stand-in under this test's control; afterwards it behaves as before."""
    if running is None:
        pytest.skip("a real server has no outages and faults on demand")
    yield running
    await running.control(**_QUICK.model_dump())


@pytest.fixture
async def slug(api: Driver) -> str:
    """A fresh workspace."""
    return str((await api.new_workspace())["slug"])


def _error(reply: httpx.Response) -> str:
    """Return the ``error`` of a refused upload, after a look at its form."""
    assert reply.status_code == 500
    told = reply.json()
    assert told["success"] is False
    return str(told["error"])


# §1 Basics


@pytest.mark.parametrize("header", [None, "{key}", "Bearer wrong", "Bearer {lower}"])
async def test_without_the_right_key_every_endpoint_answers_403(api: Driver, header: str | None) -> None:
    key = api.http.headers.pop("authorization").removeprefix("Bearer ")
    headers = {} if header is None else {"authorization": header.format(key=key, lower=key.lower())}

    for method, path in (("GET", "workspaces"), ("POST", "document/upload"), ("GET", "auth")):
        reply = await api.http.request(method, f"/v1/{path}", headers=headers)

        assert (reply.status_code, reply.json()) == (403, {"error": "No valid api key found."})
    api.http.headers["authorization"] = f"Bearer {key}"


async def test_any_scheme_word_before_the_key_will_do(api: Driver) -> None:
    key = api.http.headers["authorization"].removeprefix("Bearer ")

    reply = await api.http.get("/v1/auth", headers={"authorization": f"Whatever {key}"})

    assert (reply.status_code, reply.json()) == (200, {"authenticated": True})


async def test_ping_needs_no_key(api: Driver) -> None:
    reply = await api.http.get("/ping", headers={"authorization": ""})

    assert (reply.status_code, reply.json()) == (200, {"online": True})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_an_unknown_path_answers_200_with_a_web_page(api: Driver, method: str) -> None:
    without_api = str(api.http.base_url).rstrip("/").removesuffix("/api")

    for url in (f"{without_api}/v1/workspaces", f"{without_api}/api/v1/there-is-no-such-thing"):
        reply = await api.http.request(method, url, headers={"authorization": ""})

        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/v1/auth/", "//v1/auth"])
async def test_a_slash_at_the_end_and_a_second_one_behind_api_are_forgiven(api: Driver, path: str) -> None:
    reply = await api.http.get(str(api.http.base_url).rstrip("/") + path)

    assert reply.json() == {"authenticated": True}


async def test_a_double_slash_elsewhere_is_answered_with_the_page(api: Driver) -> None:
    reply = await api.http.get(str(api.http.base_url).rstrip("/") + "/v1//auth")

    assert (reply.status_code, reply.headers["content-type"].partition(";")[0]) == (200, "text/html")


async def test_a_body_that_is_no_json_is_refused_as_a_page(api: Driver, slug: str) -> None:
    reply = await api.http.post(
        f"/v1/workspace/{slug}/chat", content=b'{"message', headers={"content-type": "application/json"}
    )

    assert reply.status_code == 400
    assert reply.headers["content-type"].startswith("text/html")


# §2 Workspaces


async def test_one_name_twice_makes_two_workspaces_with_different_slugs(api: Driver) -> None:
    name = f"Twice {uuid4().hex[:12]}"

    first, second = await api.new_workspace(name), await api.new_workspace(name)

    assert first["slug"] == name.lower().replace(" ", "-")
    assert re.fullmatch(rf"{first['slug']}-\d{{8}}", second["slug"])
    assert first["name"] == second["name"] == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Job_17 A&B", "job_17-aandb"),
        ("Probe: Set.tings! (x)", "probe-set-dot-tings-bang-x"),
        ("Проба", "proba"),
        ("a/b?c#d", "abcd"),
    ],
)
async def test_a_slug_is_made_of_the_name_by_the_server(api: Driver, name: str, expected: str) -> None:
    unique = uuid4().hex[:12]

    assert (await api.new_workspace(f"{name} {unique}"))["slug"] == f"{expected}-{unique}"


async def test_a_name_of_which_nothing_is_left_gets_a_uuid(api: Driver) -> None:
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", (await api.new_workspace("工作 😀"))["slug"])


async def test_a_workspace_needs_a_name(api: Driver) -> None:
    reply = await api.post("workspace/new", {})

    assert (reply.status_code, reply.json()) == (400, {"workspace": None, "message": "name cannot be null"})


async def test_bad_settings_are_repaired_silently(api: Driver) -> None:
    made = await api.new_workspace(topN=-3, chatMode="bogus", similarityThreshold="x")

    assert (made["topN"], made["chatMode"], made["similarityThreshold"]) == (1, "automatic", 0.25)


async def test_one_workspace_is_told_as_a_list(api: Driver, slug: str) -> None:
    reply = await api.get(f"workspace/{slug}")

    (told,) = reply.json()["workspace"]
    assert (told["slug"], told["documents"], told["threads"]) == (slug, [], [])


async def test_an_unknown_workspace_is_an_empty_list_and_slugs_have_a_case(api: Driver, slug: str) -> None:
    for unknown in (f"no-{slug}", slug.upper()):
        reply = await api.get(f"workspace/{unknown}")

        assert (reply.status_code, reply.json()) == (200, {"workspace": []})


async def test_all_workspaces_are_listed_without_their_documents(api: Driver, slug: str) -> None:
    told = [each for each in (await api.get("workspaces")).json()["workspaces"] if each["slug"] == slug]

    assert len(told) == 1
    assert "documents" not in told[0]


async def test_an_update_changes_settings_and_name_but_never_the_slug(api: Driver, slug: str) -> None:
    changed = await api.post(f"workspace/{slug}/update", {"name": "Other", "topN": 7, "queryRefusalResponse": "No."})
    nothing = await api.post(f"workspace/{slug}/update", {"bogus": 1})
    unknown = await api.post(f"workspace/no-{slug}/update", {"topN": 7})

    told = changed.json()["workspace"]
    assert (told["slug"], told["name"], told["topN"], told["queryRefusalResponse"]) == (slug, "Other", 7, "No.")
    assert (nothing.status_code, nothing.json()["message"]) == (200, "No valid fields to update!")
    assert (unknown.status_code, unknown.text) == (400, "Bad Request")


async def test_a_deleted_workspace_is_gone_its_slug_is_free_and_its_documents_stay(api: Driver) -> None:
    made = await api.new_workspace()
    slug = made["slug"]
    location = await api.stored("merlin.txt", _MERLIN)
    await api.embed(slug, location)

    deleted, again = await api.delete(f"workspace/{slug}"), await api.delete(f"workspace/{slug}")

    assert (deleted.status_code, deleted.text) == (200, "OK")
    assert (again.status_code, again.text) == (400, "Bad Request")
    assert (await api.get(f"documents/folder/{api.folder}")).json()["totalCount"] == 1
    assert (await api.new_workspace(made["name"]))["slug"] == slug
    assert await api.listed(slug) == []
    assert await api.found(slug, _MERLIN) == []


async def test_deletion_protection_is_told_with_403(api: Driver, stand_in: Server, slug: str) -> None:
    await stand_in.control(deletion_protection=True)

    reply = await api.delete(f"workspace/{slug}")

    assert reply.status_code == 403
    assert reply.json()["error"] == "Workspace deletion is blocked by the system administrator."


# §3 Documents


async def test_an_upload_tells_the_location_and_the_whole_text(api: Driver) -> None:
    reply = await api.upload("Merlin notes (v2).txt", _MERLIN, folder="")

    (document,) = reply.json()["documents"]
    assert document["location"] == f"custom-documents/Merlin-notes-(v2).txt-{document['id']}.json"
    assert (document["title"], document["pageContent"]) == ("Merlin notes (v2).txt", _MERLIN)
    assert "name" not in document


async def test_an_upload_to_a_folder_makes_the_folder_and_tells_a_name(api: Driver) -> None:
    reply = await api.upload("merlin.txt", _MERLIN)

    (document,) = reply.json()["documents"]
    assert document["location"] == f"{api.folder}/merlin.txt-{document['id']}.json"
    assert document["name"] == f"merlin.txt-{document['id']}.json"


async def test_the_same_file_twice_is_two_documents(api: Driver) -> None:
    first, second = await api.stored("merlin.txt", _MERLIN), await api.stored("merlin.txt", _MERLIN)

    assert first != second
    assert (await api.get(f"documents/folder/{api.folder}")).json()["totalCount"] == 2


async def test_what_a_client_says_of_a_document_comes_back_and_other_keys_do_not(api: Driver) -> None:
    said = {"title": "Merlin", "docAuthor": "Ann", "description": "d", "docSource": "a/b.txt", "chunkSource": "job://1"}
    reply = await api.upload("merlin.txt", _MERLIN, metadata={**said, "own": "mine"})

    (document,) = reply.json()["documents"]
    assert {key: document[key] for key in said} == said
    assert "own" not in document


async def test_metadata_that_is_no_json_is_ignored_and_null_is_an_error(api: Driver) -> None:
    ignored = await api.upload("merlin.txt", _MERLIN, metadata='{"title"')
    null = await api.upload("merlin.txt", _MERLIN, metadata="null")

    assert ignored.json()["documents"][0]["title"] == "merlin.txt"
    assert _error(null) == "A processing error occurred."


async def test_file_names_lose_folders_and_characters_that_a_system_forbids(api: Driver) -> None:
    reply = await api.upload("../../etc/pass:wd*.txt", _MERLIN)

    assert reply.json()["documents"][0]["title"] == "passwd.txt"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (
            "tool.exe",
            b"MZ\x90\0",
            "File extension .exe not supported for parsing and cannot be assumed as text file type.",
        ),
        (
            "pack.zip",
            b"PK\3\4",
            "File extension .zip not supported for parsing and cannot be assumed as text file type.",
        ),
        ("empty.txt", b"", "No text content found in empty.txt."),
        ("broken.pdf", b"%PDF-1.4 broken", "A processing error occurred."),
        ("text.pdf", b"just text", "A processing error occurred."),
        ("empty.pdf", b"", "A processing error occurred."),
        ("broken.docx", b"PK\3\4 broken", "A processing error occurred."),
        ("broken.odt", b"PK\3\4 broken", "No text content found in broken.odt."),
        (f"{'n' * 240}.txt", b"text", "A processing error occurred."),
    ],
)
async def test_a_file_without_text_is_refused_with_500_and_a_reason(
    api: Driver, name: str, content: bytes, error: str
) -> None:
    assert _error(await api.upload(name, content)) == error


async def test_a_name_that_is_only_an_extension_is_refused(api: Driver) -> None:
    assert "No file extension found" in _error(await api.upload(".txt", _MERLIN))


@pytest.mark.parametrize("name", ["notes.py", "notes.yaml", "notes.log", "README", "notes.doc", "notes.html"])
async def test_the_extension_decides_and_unknown_ones_are_read_as_text(api: Driver, name: str) -> None:
    reply = await api.upload(name, f"<b>{_MERLIN}</b>")

    assert reply.json()["documents"][0]["pageContent"] == f"<b>{_MERLIN}</b>"


async def test_a_pdf_named_txt_is_stored_as_garbage_without_a_word(api: Driver) -> None:
    reply = await api.upload("manual.txt", (_HANDBOOK / "sales" / "warranty-terms.pdf").read_bytes())

    assert reply.json()["success"] is True
    assert reply.json()["documents"][0]["pageContent"].startswith("%PDF")


async def test_text_is_read_as_utf_8_whatever_it_is(api: Driver) -> None:
    reply = await api.upload("latin.txt", "Größe: 5 µm".encode("latin-1"))

    assert reply.json()["documents"][0]["pageContent"] == "Gr\ufffd\ufffde: 5 \ufffdm"


@pytest.mark.parametrize(
    ("file", "phrase"),
    [
        ("sales/warranty-terms.pdf", "warranty"),
        ("company/travel-policy.docx", "travel"),
        ("service/service-training-level-1.pptx", "seal cartridges"),
    ],
)
async def test_office_documents_are_parsed(api: Driver, file: str, phrase: str) -> None:
    reply = await api.upload(Path(file).name, (_HANDBOOK / file).read_bytes())

    assert phrase in reply.json()["documents"][0]["pageContent"].lower()


async def test_a_workbook_is_a_document_a_sheet(api: Driver) -> None:
    content = (_HANDBOOK / "sales" / "spare-parts-price-list-2025.xlsx").read_bytes()

    in_own_folder = (await api.upload("Prices.xlsx", content, folder="")).json()["documents"]
    in_named_folder = (await api.upload("Prices.xlsx", content)).json()["documents"]

    assert len(in_own_folder) == len(in_named_folder) == 4
    for document in in_own_folder:
        assert re.fullmatch(r"prices\.xlsx-[0-9a-f]{4}/sheet-[^/]+\.json", document["location"])
    assert f"{api.folder}/sheet-Controller.json" in [document["location"] for document in in_named_folder]


async def test_a_workbook_in_a_named_folder_leaves_an_empty_one_that_its_sheets_name(api: Driver) -> None:
    name = f"{uuid4()}.xlsx"
    content = (_HANDBOOK / "sales" / "spare-parts-price-list-2025.xlsx").read_bytes()

    sheets = (await api.upload(name, content)).json()["documents"]

    (left,) = {sheet["url"].split("/")[-2] for sheet in sheets}
    assert re.fullmatch(rf"{name}-[0-9a-f]{{4}}", left)
    assert (await api.get(f"documents/folder/{left}")).json()["totalCount"] == 0
    await api.delete("document/remove-folder", {"name": left})


async def test_a_sheet_overwrites_the_one_of_the_same_name_in_a_folder(api: Driver) -> None:
    content = (_HANDBOOK / "sales" / "spare-parts-price-list-2025.xlsx").read_bytes()

    await api.upload("first.xlsx", content)
    await api.upload("second.xlsx", content)

    told = (await api.get(f"documents/folder/{api.folder}")).json()
    assert told["totalCount"] == 4
    assert all("second.xlsx" in document["title"] for document in told["documents"])


async def test_only_one_file_in_its_own_field_is_taken(api: Driver) -> None:
    other_field = await api.http.post("/v1/document/upload", files={"document": ("a.txt", b"text")})
    two = await api.http.post("/v1/document/upload", files=[("file", ("a.txt", b"a")), ("file", ("b.txt", b"b"))])
    none = await api.post("document/upload", {"file": "a.txt"})

    assert _error(other_field) == _error(two) == "Invalid file upload. Unexpected field"
    assert (none.status_code, none.text) == (500, "Internal Server Error")


async def test_a_form_that_breaks_off_is_refused(api: Driver) -> None:
    body = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhalf of it'

    reply = await api.http.post(
        "/v1/document/upload", content=body, headers={"content-type": "multipart/form-data; boundary=edge"}
    )

    assert _error(reply) == "Invalid file upload. Unexpected end of form"


async def test_a_slash_in_the_folder_is_refused_and_the_document_stays_behind(api: Driver) -> None:
    title = f"left behind {uuid4().hex}"

    reply = await api.upload("merlin.txt", _MERLIN, folder=f"{api.folder}%2Finner", metadata={"title": title})

    assert (reply.status_code, reply.text) == (500, "Internal Server Error")
    told = (await api.get("documents", folder="custom-documents", limit="all")).json()["documents"]
    (left,) = [document["name"] for document in told if document["title"] == title]
    await api.delete("system/remove-documents", {"names": [f"custom-documents/{left}"]})


async def test_raw_text_needs_a_title_and_text_and_loses_what_follows_the_last_dot(api: Driver) -> None:
    said = {"title": "Raven Note v1.2", "docSource": "job:17", "chunkSource": "job://17"}
    reply = await api.post("document/raw-text", {"textContent": _MERLIN, "metadata": said})
    api.note(reply)
    untitled = await api.post("document/raw-text", {"textContent": _MERLIN, "metadata": {}})
    empty = await api.post("document/raw-text", {"textContent": "", "metadata": said})

    (document,) = reply.json()["documents"]
    assert document["location"] == f"custom-documents/raw-raven-note-v1-{document['id']}.json"
    assert (document["title"], document["chunkSource"]) == ("raven-note-v1.txt", "job://17")
    assert (untitled.status_code, empty.status_code) == (422, 422)


async def test_a_bad_link_is_refused(api: Driver) -> None:
    assert "No URL content found at" in _error(await api.post("document/upload-link", {"link": "https://notalink."}))


async def test_eight_uploads_at_once_under_different_names_keep_their_texts(api: Driver) -> None:
    replies = await asyncio.gather(*(api.upload(f"{number}.txt", f"text {number}") for number in range(8)))

    assert [reply.json()["documents"][0]["pageContent"] for reply in replies] == [f"text {n}" for n in range(8)]


async def test_uploads_at_once_under_one_name_lose_documents_and_mix_texts(api: Driver) -> None:
    texts = [f"text {number}" for number in range(8)]

    replies = await asyncio.gather(*(api.upload("same.txt", text) for text in texts))

    good = [reply.status_code == 200 and reply.json()["documents"][0]["pageContent"] for reply in replies]
    assert good != texts
    assert {_error(reply) for reply in replies if reply.status_code != 200} <= {
        "File does not exist in upload directory.",
        "No text content found in same.txt.",
    }


async def test_without_the_collector_uploads_are_refused_and_file_types_are_not_found(
    api: Driver, stand_in: Server
) -> None:
    await stand_in.control(collector_down=True)

    upload, types = await api.upload("merlin.txt", _MERLIN), await api.get("document/accepted-file-types")

    assert _error(upload) == (
        "Document processing API is not online. Document merlin.txt will not be processed automatically."
    )
    assert (types.status_code, types.text) == (404, "Not Found")
    assert (await api.get("auth")).status_code == 200  # which is why `auth` alone is no check of health


async def test_the_accepted_file_types_are_told_by_media_type(api: Driver) -> None:
    assert ".txt" in (await api.get("document/accepted-file-types")).json()["types"]["text/plain"]


# §3.6 Listing, folders, removal


async def test_a_folder_is_listed_by_pages_without_texts(api: Driver) -> None:
    locations = [await api.stored(f"{number}.txt", _MERLIN) for number in range(3)]

    first = (await api.get("documents", folder=api.folder, offset=0, limit=2)).json()
    second = (await api.get("documents", folder=api.folder, offset=2, limit=2)).json()

    assert (first["totalCount"], first["hasMore"], second["hasMore"], first["error"]) == (3, True, False, None)
    listed = first["documents"] + second["documents"]
    assert sorted(f"{api.folder}/{document['name']}" for document in listed) == sorted(locations)
    assert not any("pageContent" in document for document in listed)


async def test_everything_is_listed_by_folders(api: Driver) -> None:
    location = await api.stored("merlin.txt", _MERLIN, metadata={"chunkSource": "job://1/0"})

    tree = (await api.get("documents")).json()["localFiles"]

    (mine,) = [folder for folder in tree["items"] if folder["name"] == api.folder]
    assert [(item["type"], item["name"], item["chunkSource"]) for item in mine["items"]] == [
        ("file", location.partition("/")[2], "job://1/0")
    ]


async def test_an_unknown_folder_is_not_found(api: Driver) -> None:
    reply = await api.get("documents/folder/there-is-none")

    assert reply.status_code == 404
    assert reply.json()["error"]


async def test_a_document_is_told_by_its_name_without_folder_and_says_whether_it_was_embedded(
    api: Driver, slug: str
) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    name = location.partition("/")[2]

    before = (await api.get(f"document/{name}")).json()["document"]["cached"]
    await api.embed(slug, location)
    after = (await api.get(f"document/{name}")).json()["document"]["cached"]

    assert (before, after) == (False, True)
    assert (await api.get(f"document/{location.replace('/', '%2F')}")).status_code == 404


async def test_a_folder_can_be_made_once(api: Driver) -> None:
    first = await api.post("document/create-folder", {"name": api.folder})
    second = await api.post("document/create-folder", {"name": api.folder})

    assert (first.status_code, first.json()) == (200, {"success": True, "message": None})
    assert (second.status_code, second.json()["message"]) == (500, "Folder by that name already exists")


async def test_removing_documents_succeeds_also_for_what_is_not_there(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    await api.embed(slug, location)

    replies = [await api.delete("system/remove-documents", {"names": [location]}) for _ in range(2)]

    assert [(reply.status_code, reply.json()["success"]) for reply in replies] == [(200, True)] * 2
    assert await api.listed(slug) == []
    assert await api.found(slug, _MERLIN) == []
    assert (await api.delete("system/remove-documents", {})).status_code == 500


async def test_removing_a_document_leaves_its_second_row_until_it_is_deleted(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    await api.embed(slug, location, location)

    await api.delete("system/remove-documents", {"names": [location]})

    assert await api.listed(slug) == [location]
    await api.embed(slug, deletes=(location,))
    assert await api.listed(slug) == []


async def test_removing_a_folder_removes_its_documents_everywhere(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    await api.embed(slug, location)

    replies = [await api.delete("document/remove-folder", {"name": api.folder}) for _ in range(2)]

    assert [(reply.status_code, reply.json()["success"]) for reply in replies] == [(200, True)] * 2
    assert await api.listed(slug) == []
    assert (await api.get(f"documents/folder/{api.folder}")).status_code == 404


# §4 Embeddings


async def test_an_embedded_document_is_listed_and_found(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN, metadata={"title": "Merlin", "chunkSource": "job://1/0"})

    reply = await api.embed(slug, location)

    (row,) = reply.json()["workspace"]["documents"]
    assert row["docpath"] == location
    assert json.loads(row["metadata"])["chunkSource"] == "job://1/0"
    assert await api.found(slug, _MERLIN) == ["Merlin"]


async def test_what_cannot_be_embedded_is_left_out_without_a_word(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    blank = await api.stored("blank.txt", " \n ")

    reply = await api.embed(slug, f"{api.folder}/none.json", location.partition("/")[2], "merlin.txt", blank, location)

    assert reply.status_code == 200
    assert await api.listed(slug) == [location]


async def test_without_the_embedder_everything_is_left_out_without_a_word(
    api: Driver, stand_in: Server, slug: str
) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    await stand_in.control(embedder_down=True)

    reply, probe = await api.embed(slug, location), await api.post("openai/embeddings", {"input": ["a"]})

    assert (reply.status_code, reply.json()["workspace"]["documents"]) == (200, [])
    assert probe.status_code == 500


async def test_embedding_again_makes_a_second_row_and_second_vectors(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN, metadata={"title": "Merlin"})

    await api.embed(slug, location)
    await api.embed(slug, location)

    assert await api.listed(slug) == [location] * 2
    assert await api.found(slug, _MERLIN) == ["Merlin"] * 2


async def test_a_delete_removes_one_row_and_its_vectors(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN, metadata={"title": "Merlin"})
    await api.embed(slug, location, location)

    await api.embed(slug, deletes=(location,))

    assert await api.listed(slug) == [location]
    assert await api.found(slug, _MERLIN) == ["Merlin"]


async def test_a_delete_and_an_add_in_one_call_embed_anew(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN, metadata={"title": "Merlin"})
    await api.embed(slug, location)

    await api.embed(slug, location, deletes=(location,))

    assert await api.listed(slug) == [location]
    assert await api.found(slug, _MERLIN) == ["Merlin"]


async def test_deleting_what_is_not_there_and_an_empty_call_change_nothing(api: Driver, slug: str) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    await api.embed(slug, location)

    absent = await api.embed(slug, deletes=(f"{api.folder}/none.json",))
    empty = await api.post(f"workspace/{slug}/update-embeddings", {})
    bare = await api.http.post(f"/v1/workspace/{slug}/update-embeddings")

    assert [reply.status_code for reply in (absent, empty, bare)] == [200] * 3
    assert await api.listed(slug) == [location]


@pytest.mark.parametrize("adds", [None, [None], "a string"])
async def test_adds_that_are_no_list_of_texts_are_an_error(api: Driver, slug: str, adds: object) -> None:
    reply = await api.post(f"workspace/{slug}/update-embeddings", {"adds": adds})

    assert (reply.status_code, reply.text) == (500, "Internal Server Error")


async def test_embedding_into_an_unknown_workspace_is_refused(api: Driver) -> None:
    reply = await api.embed("there-is-no-such-workspace", "a/b.json")

    assert (reply.status_code, reply.text) == (400, "Bad Request")


async def test_an_upload_can_embed_at_once_and_ignores_unknown_workspaces(api: Driver, slug: str) -> None:
    reply = await api.upload("merlin.txt", _MERLIN, addToWorkspaces=f"no-such, {slug.upper()}")

    assert reply.json()["success"] is True
    assert await api.listed(slug) == [reply.json()["documents"][0]["location"]]


async def test_an_upload_embeds_only_the_first_sheet_of_a_workbook(api: Driver, slug: str) -> None:
    content = (_HANDBOOK / "sales" / "spare-parts-price-list-2025.xlsx").read_bytes()

    reply = await api.upload("prices.xlsx", content, addToWorkspaces=slug)

    assert len(reply.json()["documents"]) == 4
    assert len(await api.listed(slug)) == 1


async def test_first_embeddings_at_once_lose_documents_and_all_replies_are_good(
    api: Driver, running: Server | None
) -> None:
    lost = 0
    for _ in range(20 if running else 4):  # on a busy machine a round may come through
        slug = (await api.new_workspace())["slug"]
        titles = [f"title-{number}" for number in range(4)]
        locations = [await api.stored(f"{t}.txt", f"{_MERLIN} {t}", metadata={"title": t}) for t in titles]

        replies = await asyncio.gather(*(api.embed(slug, location) for location in locations))

        assert {reply.status_code for reply in replies} == {200}
        lost += len(set(titles) - set(await api.found(slug, _MERLIN)))
        if lost:
            break
    assert lost > 0 or running is None  # a real server whose embedder is slow comes through now and then


async def test_after_a_first_document_embeddings_at_once_lose_nothing(api: Driver, slug: str) -> None:
    first, *rest = [await api.stored(f"{n}.txt", f"{_MERLIN} {n}", metadata={"title": f"title {n}"}) for n in range(9)]
    await api.embed(slug, first)

    await asyncio.gather(*(api.embed(slug, location) for location in rest))

    assert await api.listed(slug) == sorted([first, *rest])
    assert sorted(await api.found(slug, _MERLIN)) == [f"title {n}" for n in range(9)]


async def test_the_table_stays_when_its_documents_go_so_that_the_race_is_over_for_good(api: Driver, slug: str) -> None:
    first, *rest = [await api.stored(f"{n}.txt", f"{_MERLIN} {n}") for n in range(5)]
    await api.embed(slug, first)
    await api.embed(slug, deletes=(first,))

    await asyncio.gather(*(api.embed(slug, location) for location in rest))

    assert await api.listed(slug) == sorted(rest)
    assert len(await api.found(slug, _MERLIN)) == 4


# §5 Search, chat, history


async def test_a_search_tells_passages_with_what_was_said_of_their_document(api: Driver, slug: str) -> None:
    said = {"title": "Merlin", "docSource": "manuals/merlin.txt", "chunkSource": "job://1/0"}
    merlin = await api.stored("merlin.txt", _MERLIN, metadata=said)
    kestrel = await api.stored("kestrel.txt", _KESTREL, metadata={"title": "Kestrel"})
    await api.embed(slug, merlin, kestrel)

    body = {"query": "Which oil grade does the Merlin need?", "topN": 1, "scoreThreshold": 0}
    (result,) = (await api.post(f"workspace/{slug}/vector-search", body)).json()["results"]

    assert {key: result["metadata"][key] for key in said} == said
    assert _MERLIN in result["text"]
    assert result["score"] == pytest.approx(1 - result["distance"])


async def test_a_search_without_vectors_a_workspace_or_a_query_says_so(api: Driver, slug: str) -> None:
    empty = await api.post(f"workspace/{slug}/vector-search", {"query": "oil"})
    unknown = await api.post(f"workspace/no-{slug}/vector-search", {"query": "oil"})
    nothing = await api.post(f"workspace/{slug}/vector-search", {"query": ""})

    assert empty.json() == {"results": [], "message": "No embeddings found for this workspace."}
    assert (unknown.status_code, nothing.status_code) == (400, 400)
    assert unknown.json()["message"]


async def test_the_rows_of_a_workspace_and_all_vectors_can_be_counted(api: Driver, slug: str) -> None:
    before = (await api.get("system/vector-count")).json()["vectorCount"]
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))

    stores = (await api.get("openai/vector_stores")).json()["data"]

    assert (await api.get("system/vector-count")).json()["vectorCount"] == before + 1
    assert [store["file_counts"]["total"] for store in stores if store["id"] == slug] == [1]


async def test_the_embedder_can_be_asked_directly(api: Driver) -> None:
    data = (await api.post("openai/embeddings", {"input": ["one", "two"]})).json()["data"]

    assert len(data) == 2
    assert len(data[0]["embedding"]) == len(data[1]["embedding"]) > 0


async def test_a_question_is_answered_with_its_sources(api: Driver, slug: str) -> None:
    said = {"title": "Merlin", "docSource": "manuals/merlin.txt", "chunkSource": "job://1/0"}
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN, metadata=said))

    reply = await api.ask(slug, "Which oil grade does the Merlin generator need?")

    told = reply.json()
    assert (reply.status_code, told["type"], told["error"], told["close"]) == (200, "textResponse", None, True)
    assert isinstance(told["chatId"], int)
    assert "5W30" in told["textResponse"]
    (source,) = told["sources"]
    assert {key: source[key] for key in said} == said
    assert source["text"].startswith("<document_metadata>\nsourceDocument: Merlin\n")
    assert source["text"].endswith(f"</document_metadata>\n\n{_MERLIN}")
    assert source["score"] == pytest.approx(1 - source["_distance"])


async def test_a_question_that_the_documents_do_not_answer_is_refused_without_a_chat_id(api: Driver) -> None:
    slug = (await api.new_workspace(queryRefusalResponse="Not in the documents.", similarityThreshold=0.75))["slug"]
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))

    told = (await api.ask(slug, "Who painted the ceiling?")).json()

    assert (told["type"], told["textResponse"], told["sources"]) == ("textResponse", "Not in the documents.", [])
    assert "chatId" not in told


async def test_an_empty_workspace_refuses_in_its_own_words(api: Driver, slug: str) -> None:
    told = (await api.ask(slug, "Which oil?")).json()

    assert (told["textResponse"], told["sources"], told["metrics"]) == (_REFUSAL, [], {})
    assert "chatId" not in told


@pytest.mark.parametrize(
    ("message", "fields", "status", "error"),
    [
        ("", {}, 400, "Message is empty"),
        (None, {}, 400, "Message is empty"),
        (17, {}, 400, "Message is empty"),
        ("oil", {"mode": "agent"}, 400, "agent is not a valid mode."),
        (["oil"], {}, 500, "promptString.startsWith is not a function"),
    ],
)
async def test_a_question_that_cannot_be_asked_is_an_abort(
    api: Driver, slug: str, message: object, fields: dict[str, str], status: int, error: str
) -> None:
    reply = await api.ask(slug, message, **fields)

    told = reply.json()
    assert reply.status_code == status
    assert (told["type"], told["textResponse"], told["sources"]) == ("abort", None, [])
    assert error in told["error"]


async def test_a_question_to_an_unknown_workspace_is_an_abort_with_400(api: Driver) -> None:
    reply = await api.ask("no-such", "oil")

    assert (reply.status_code, reply.json()["error"]) == (400, "Workspace no-such is not a valid workspace.")


async def test_with_an_embedder_of_another_length_only_a_chat_says_what_is_wrong(
    api: Driver, stand_in: Server, slug: str
) -> None:
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))
    await stand_in.control(embedder_dimensions=384)
    late = await api.stored("late.txt", _MERLIN)

    added = await api.embed(slug, late)
    search = await api.post(f"workspace/{slug}/vector-search", {"query": "oil"})
    chat = await api.ask(slug, "Which oil?")

    assert (added.status_code, late in await api.listed(slug)) == (200, False)
    assert (search.status_code, search.text) == (500, "Internal Server Error")
    assert (chat.status_code, "dimension: 384" in chat.json()["error"]) == (500, True)


async def test_without_the_embedder_a_question_is_an_abort_with_500(api: Driver, stand_in: Server, slug: str) -> None:
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))
    await stand_in.control(embedder_down=True)

    reply = await api.ask(slug, "Which oil?")

    assert (reply.status_code, reply.json()["type"]) == (500, "abort")
    assert "Failed to embed" in reply.json()["error"]


@pytest.mark.parametrize(("kind", "status"), [("llm_error", 500), ("llm_empty", 200)])
async def test_a_model_that_fails_is_an_abort_and_an_empty_answer_is_one_with_200(
    api: Driver, stand_in: Server, slug: str, kind: str, status: int
) -> None:
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))
    await stand_in.control(faults={kind: {}})

    reply = await api.ask(slug, "Which oil grade does the Merlin need?")

    assert (reply.status_code, reply.json()["type"], reply.json()["textResponse"]) == (status, "abort", None)


async def test_in_one_session_a_nonsense_question_is_answered_from_earlier_sources(api: Driver) -> None:
    slug = (await api.new_workspace(similarityThreshold=0.3))["slug"]
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))
    await api.ask(slug, "Which oil grade does the Merlin generator need?", sessionId="one")

    same = (await api.ask(slug, "Xyzzy?", sessionId="one")).json()
    fresh = (await api.ask(slug, "Xyzzy?", sessionId="two")).json()

    assert "chatId" in same
    assert same["sources"] == []
    assert fresh["textResponse"] == _REFUSAL


async def test_a_reset_forgets_the_session(api: Driver) -> None:
    slug = (await api.new_workspace(similarityThreshold=0.3))["slug"]
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))
    await api.ask(slug, "Which oil grade does the Merlin generator need?", sessionId="one")

    reset = (await api.ask(slug, None, sessionId="one", reset=True)).json()

    assert reset["textResponse"] == "Chat history was reset!"
    assert (await api.ask(slug, "Xyzzy?", sessionId="one")).json()["textResponse"] == _REFUSAL


async def test_the_history_of_a_session_is_told_oldest_first_and_apart_from_others(api: Driver, slug: str) -> None:
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))
    for question in ("Which oil grade does the Merlin need?", "How often is the Merlin serviced?"):
        await api.ask(slug, question, sessionId="one")

    mine = (await api.get(f"workspace/{slug}/chats", apiSessionId="one")).json()["history"]
    oldest = (await api.get(f"workspace/{slug}/chats", apiSessionId="one", limit=1)).json()["history"]
    others = (await api.get(f"workspace/{slug}/chats")).json()["history"]

    assert [message["role"] for message in mine] == ["user", "assistant"] * 2
    assert [message["content"] for message in mine[::2]] == [
        "Which oil grade does the Merlin need?",
        "How often is the Merlin serviced?",
    ]
    assert oldest == mine[:2]
    assert others == []


async def test_a_stream_says_close_twice_and_its_sources_last(api: Driver, slug: str) -> None:
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))

    body = {"message": "Which oil grade does the Merlin generator need?", "mode": "query"}
    reply = await api.post(f"workspace/{slug}/stream-chat", body)

    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert [event["close"] for event in events].count(True) == 2
    assert events[-1]["type"] == "finalizeResponseStream"
    assert events[-1]["sources"]
    assert "5W30" in "".join(event.get("textResponse", "") for event in events)


# §6 Threads


async def test_a_thread_has_a_history_of_its_own_and_a_taken_slug_is_told_with_200(api: Driver, slug: str) -> None:
    own = f"Job-{uuid4().hex[:12]}"
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))

    made = (await api.post(f"workspace/{slug}/thread/new", {"name": "Job 17", "slug": own})).json()
    taken = await api.post(f"workspace/{slug}/thread/new", {"slug": own})
    body = {"message": "Which oil grade does the Merlin generator need?", "mode": "query"}
    answer = (await api.post(f"workspace/{slug}/thread/{own}/chat", body)).json()
    history = (await api.get(f"workspace/{slug}/thread/{own}/chats")).json()["history"]

    assert (made["thread"]["slug"], made["thread"]["name"]) == (own, "Job 17")
    assert (taken.status_code, taken.json()["thread"]) == (200, None)
    assert "Unique constraint" in taken.json()["message"]
    assert [message["content"] for message in history] == [body["message"], answer["textResponse"]]


async def test_an_unknown_thread_is_404_and_deleting_it_is_ok(api: Driver, slug: str) -> None:
    asked = await api.post(f"workspace/{slug}/thread/none/chat", {"message": "oil", "mode": "query"})
    deleted = await api.delete(f"workspace/{slug}/thread/none")

    assert (asked.status_code, asked.json()["type"]) == (404, "abort")
    assert (deleted.status_code, deleted.text) == (200, "OK")
