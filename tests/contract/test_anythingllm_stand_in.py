"""The stand-in's own promises: faults happen as they were ordered, times hold, and a restart keeps what it should."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.anythingllm_server import Behaviour, Fault, FaultKind, Server, anythingllm_server, running_server
from tests.anythingllm_server.driver import Driver
from tests.waiting import until

pytestmark = pytest.mark.slow  # they try the tests' own server, and take as long as its outages do

_PROJECT = Path(__file__).parents[2]
_QUICK = Behaviour.quick()
_MERLIN = "The Merlin generator needs oil grade 5W30. Service it every 250 hours."
_UPLOAD = "upload-to-folder"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with running_server(_QUICK) as server:
        yield server


@pytest.fixture
async def server(running: Server) -> AsyncIterator[Server]:
    """The module's stand-in with counters at zero; afterwards it behaves as before."""
    await running.reset_counters()
    yield running
    await running.control(**_QUICK.model_dump())


@pytest.fixture
async def api(running: Server) -> AsyncIterator[Driver]:
    async with _driver(running) as driver:
        yield driver


@asynccontextmanager
async def _driver(server: Server) -> AsyncIterator[Driver]:
    async with Driver(server.url, server.api_key.get_secret_value()) as driver:
        yield driver


async def _stored(api: Driver) -> int:
    """Return how many documents stand in the driver's folder."""
    told = (await api.get(f"documents/folder/{api.folder}")).json()
    return int(told["totalCount"])


# What a fault does


@pytest.mark.parametrize(
    ("kind", "done"),
    [("drop_before", False), ("drop_after", True), ("drop_midway", True)],
)
async def test_a_dropped_connection_leaves_the_work_done_or_undone_as_its_name_says(
    server: Server, api: Driver, kind: str, done: bool
) -> None:
    await server.control(faults={kind: {"routes": [_UPLOAD]}})

    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await api.upload("merlin.txt", _MERLIN)

    assert await _stored(api) == int(done)
    counters = await server.counters()
    assert (counters.faults, counters.fault_routes) == ({kind: 1}, {f"{_UPLOAD} {kind}": 1})


@pytest.mark.parametrize(
    ("kind", "status", "media_type"),
    [
        ("html_200", 200, "text/html"),
        ("http_500", 500, "text/plain"),
        ("http_502", 502, "text/html"),
        ("http_429_retry_after", 429, "text/plain"),
    ],
)
async def test_a_reply_in_place_of_the_work_leaves_nothing_done(
    server: Server, api: Driver, kind: str, status: int, media_type: str
) -> None:
    await server.control(faults={kind: {"routes": [_UPLOAD]}}, retry_after_seconds=7)

    reply = await api.upload("merlin.txt", _MERLIN)

    assert (reply.status_code, reply.headers["content-type"].partition(";")[0]) == (status, media_type)
    assert reply.headers.get("retry-after") == ("7" if status == 429 else None)
    assert await _stored(api) == 0


async def test_a_truncated_reply_is_whole_for_http_and_half_for_json(server: Server, api: Driver) -> None:
    await server.control(faults={"truncated_json": {"routes": [_UPLOAD]}})

    with pytest.raises(json.JSONDecodeError):
        await api.upload("merlin.txt", _MERLIN)

    assert await _stored(api) == 1


async def test_a_slow_reply_outlasts_the_client_and_the_work_is_done(server: Server, api: Driver) -> None:
    await server.control(faults={"slow": {"routes": [_UPLOAD]}})
    api.http.timeout = httpx.Timeout(1.0)

    with pytest.raises(httpx.ReadTimeout):
        await api.upload("merlin.txt", _MERLIN)

    assert await _stored(api) == 1


async def test_a_slow_reply_comes_when_its_time_is_over(server: Server, api: Driver) -> None:
    await server.control(faults={"slow": {"routes": [_UPLOAD]}}, slow_seconds=0.3)
    began = time.monotonic()

    reply = await api.upload("merlin.txt", _MERLIN)

    assert reply.json()["success"] is True
    assert time.monotonic() - began >= 0.3


async def test_an_upload_clash_is_told_as_the_real_server_does_and_stores_nothing(server: Server, api: Driver) -> None:
    await server.control(faults={"upload_clash": {}})

    reply = await api.upload("merlin.txt", _MERLIN)

    assert (reply.status_code, reply.json()["error"]) == (500, "File does not exist in upload directory.")
    assert await _stored(api) == 0
    assert (await server.counters()).refused_uploads == {"File does not exist in upload directory.": 1}


async def test_a_silent_embedding_answers_as_if_it_had_been_done(server: Server, api: Driver) -> None:
    slug = (await api.new_workspace())["slug"]
    location = await api.stored("merlin.txt", _MERLIN)
    await server.control(faults={"embed_silent": {}})

    reply = await api.embed(slug, location)

    assert (reply.status_code, await api.listed(slug)) == (200, [])
    assert (await server.counters()).skipped == {f"{slug} {location}": 1}


async def test_a_row_without_vectors_is_listed_not_found_and_can_be_repaired(server: Server, api: Driver) -> None:
    slug = (await api.new_workspace())["slug"]
    location = await api.stored("merlin.txt", _MERLIN, metadata={"title": "Merlin"})
    await server.control(faults={"embed_row_without_vectors": {"most": 1}})

    await api.embed(slug, location)

    assert (await api.listed(slug), await api.found(slug, _MERLIN)) == ([location], [])
    assert (await server.counters()).lost_vectors == {f"{slug} {location}": 1}
    await api.embed(slug, location, deletes=(location,))
    assert (await api.listed(slug), await api.found(slug, _MERLIN)) == ([location], ["Merlin"])


async def test_the_race_of_first_embeddings_also_leaves_rows_without_vectors(server: Server, api: Driver) -> None:
    embedded, listed, found = 0, 0, 0
    for _ in range(40):
        slug = (await api.new_workspace())["slug"]
        locations = [await api.stored(f"{number}.txt", _MERLIN) for number in range(2)]
        await asyncio.gather(*(api.embed(slug, location) for location in locations))
        embedded += len(locations)
        listed, found = listed + len(await api.listed(slug)), found + len(await api.found(slug, _MERLIN))
        if found < listed < embedded:
            break

    assert found < listed < embedded  # some are not listed at all, others are listed in vain
    counters = await server.counters()
    assert (sum(counters.skipped.values()), sum(counters.lost_vectors.values())) == (embedded - listed, listed - found)


async def test_a_workspace_that_is_made_again_is_fresh_again(server: Server, api: Driver) -> None:
    locations = [await api.stored(f"{number}.txt", _MERLIN) for number in range(4)]
    for _ in range(20):  # on a busy machine a round may come through
        made = await api.new_workspace()
        await api.embed(made["slug"], locations[0])
        await api.delete(f"workspace/{made['slug']}")
        assert (await api.new_workspace(made["name"]))["slug"] == made["slug"]
        await asyncio.gather(*(api.embed(made["slug"], location) for location in locations))
        if len(await api.found(made["slug"], _MERLIN)) < len(locations):
            return
    pytest.fail("no document was lost in 20 rounds: the old table is still there")


async def test_without_a_time_for_the_race_first_embeddings_lose_nothing(server: Server, api: Driver) -> None:
    await server.control(table_seconds=0)
    slug = (await api.new_workspace())["slug"]
    locations = [await api.stored(f"{number}.txt", _MERLIN) for number in range(8)]

    await asyncio.gather(*(api.embed(slug, location) for location in locations))

    assert await api.listed(slug) == sorted(locations)
    assert len(await api.found(slug, _MERLIN)) == 8


async def test_an_outage_that_was_drawn_ends_by_itself(server: Server, api: Driver) -> None:
    await server.control(
        faults={"collector_down": {"routes": [_UPLOAD], "most": 1}, "embedder_down": {"routes": ["chat"], "most": 1}},
        window_seconds=0.5,
    )

    async def works() -> bool:
        types, embedded = (
            await api.get("document/accepted-file-types"),
            await api.post("openai/embeddings", {"input": "a"}),
        )
        return (types.status_code, embedded.status_code) == (200, 200)

    assert await works()
    refused = await api.upload("merlin.txt", _MERLIN)
    await api.ask((await api.new_workspace())["slug"], "Which oil?")
    assert "is not online" in refused.json()["error"]
    assert (await api.post("openai/embeddings", {"input": "a"})).status_code == 500
    await until(works, seconds=10)


# Which requests a fault happens to


async def test_a_fault_happens_to_its_routes_alone_and_so_often_at_most(server: Server, api: Driver) -> None:
    await server.control(faults={"http_500": {"routes": ["auth"], "most": 2}})

    statuses = [(await api.get(path)).status_code for path in ("workspaces", "auth", "auth", "auth", "workspaces")]

    assert statuses == [200, 500, 500, 200, 200]


async def test_a_fault_that_is_set_anew_happens_anew(server: Server, api: Driver) -> None:
    statuses = []
    for _ in range(2):
        await server.control(faults={"http_500": {"routes": ["auth"], "most": 1}})
        statuses += [(await api.get("auth")).status_code for _ in range(2)]

    assert statuses == [500, 200, 500, 200]


async def test_one_seed_draws_the_same_faults_again(server: Server, api: Driver) -> None:
    async def drawn(seed: int) -> list[int]:
        await server.control(seed=seed, faults={"http_500": {"rate": 0.5, "routes": ["auth"]}})
        return [(await api.get("auth")).status_code for _ in range(40)]

    first, other, again = await drawn(1), await drawn(2), await drawn(1)

    assert first == again != other
    assert 5 < first.count(500) < 35


@pytest.mark.parametrize(
    "changes",
    [
        {"faults": {"http_500": {"routes": ["uploads"]}}},
        {"faults": {"no_such_fault": {}}},
        {"faults": {"http_500": {"rate": 1.5}}},
        {"collector_seconds": -1},
        {"no_such_field": 1},
    ],
)
async def test_what_could_never_happen_is_refused(server: Server, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"uploads|no_such|rate|collector_seconds"):
        await server.control(**changes)


async def test_all_faults_at_once_leave_the_server_standing(server: Server, api: Driver) -> None:
    every = {kind: Fault(rate=0.2) for kind in FaultKind}
    slug = (await api.new_workspace())["slug"]
    location = await api.stored("merlin.txt", _MERLIN)
    await server.control(faults=every, slow_seconds=0.05, window_seconds=0.05, latency_seconds=0.01)

    async def play(number: int) -> None:
        for call in (
            api.upload(f"{number}.txt", _MERLIN),
            api.embed(slug, location, deletes=(location,)),
            api.ask(slug, "Which oil grade does the Merlin need?"),
        ):
            try:
                await call
            except (httpx.TransportError, json.JSONDecodeError):
                continue  # what the client sees is not the subject: the server must stand

    await asyncio.gather(*(play(number) for number in range(60)))
    await server.control(faults={})

    assert (await api.get("auth")).json() == {"authenticated": True}
    met = (await server.counters()).faults
    assert {"drop_before", "drop_after", "drop_midway", "slow", "truncated_json", "html_200"} <= met.keys()


# Times


async def test_the_collector_works_on_one_file_at_a_time_and_the_embedder_on_many(server: Server, api: Driver) -> None:
    await server.control(collector_seconds=0.1, embedder_seconds=1.0, embedder_jitter=0)
    slug = (await api.new_workspace())["slug"]

    began = time.monotonic()
    locations = await asyncio.gather(*(api.stored(f"{number}.txt", f"{_MERLIN} {number}") for number in range(6)))
    uploaded = time.monotonic()
    await api.embed(slug, locations[0])
    first = time.monotonic()
    await asyncio.gather(*(api.embed(slug, location) for location in locations[1:]))
    rest = time.monotonic()

    assert uploaded - began >= 0.6
    assert first - uploaded >= 1.0
    assert 1.0 <= rest - first < 3.0  # five one after the other would take 5 s
    most = (await server.counters()).most_at_once
    assert (most[_UPLOAD], most["update-embeddings"]) == (6, 5)


async def test_documents_of_one_call_are_embedded_one_after_the_other(server: Server, api: Driver) -> None:
    await server.control(embedder_seconds=0.2, embedder_jitter=0)
    slug = (await api.new_workspace())["slug"]
    locations = [await api.stored(f"{number}.txt", f"{_MERLIN} {number}") for number in range(4)]

    began = time.monotonic()
    await api.embed(slug, *locations)

    assert time.monotonic() - began >= 0.8


async def test_a_document_that_was_embedded_once_asks_the_embedder_no_more(server: Server, api: Driver) -> None:
    location = await api.stored("merlin.txt", _MERLIN)
    for _ in range(3):
        await api.embed((await api.new_workspace())["slug"], location)

    assert (await server.counters()).embedder_calls == 1


# Answers


async def test_a_distance_of_one_or_more_has_the_best_score(server: Server, api: Driver) -> None:
    await server.control(opposite_word="antimerlin")
    slug = (await api.new_workspace())["slug"]
    await api.embed(slug, await api.stored("merlin.txt", _MERLIN))

    told = (await api.ask(slug, f"antimerlin {_MERLIN}")).json()

    (source,) = told["sources"]
    assert source["_distance"] > 1
    assert source["score"] == 1.0


# Processes


async def test_a_restart_keeps_documents_rows_vectors_and_chats_where_there_is_a_folder_for_them(
    tmp_path: Path,
) -> None:
    async with anythingllm_server(_QUICK, tmp_path / "state") as server, _driver(server) as api:
        slug = (await api.new_workspace("Kept", topN=7))["slug"]
        location = await api.stored("merlin.txt", _MERLIN, metadata={"title": "Merlin"})
        await api.embed(slug, location)
        await api.ask(slug, "Which oil grade does the Merlin need?", sessionId="one")
        url = server.url

        await server.restart()

        assert server.url == url
        (told,) = (await api.get(f"workspace/{slug}")).json()["workspace"]
        assert (told["name"], told["topN"]) == ("Kept", 7)
        assert (await api.listed(slug), await api.found(slug, _MERLIN)) == ([location], ["Merlin"])
        assert await _stored(api) == 1
        assert len((await api.get(f"workspace/{slug}/chats", apiSessionId="one")).json()["history"]) == 2
        assert (await api.new_workspace("Kept"))["id"] > told["id"]
        assert (await api.get(f"document/{location.partition('/')[2]}")).json()["document"]["cached"] is True
        # The vectors' table is there as well, so the race of first embeddings does not begin again.
        more = [await api.stored(f"{number}.txt", _MERLIN) for number in range(4)]
        await asyncio.gather(*(api.embed(slug, each) for each in more))
        assert len(await api.found(slug, _MERLIN)) == 5


async def test_a_restart_without_a_folder_forgets_all_but_the_behaviour(server: Server, api: Driver) -> None:
    slug = (await api.new_workspace())["slug"]
    await server.control(deletion_protection=True)

    await server.restart()

    assert (await api.get(f"workspace/{slug}")).json() == {"workspace": []}
    assert (await api.delete(f"workspace/{slug}")).status_code == 403


def test_a_stand_in_ends_with_the_process_that_started_it_even_if_that_is_killed() -> None:
    program = (
        "import sys; from tests.anythingllm_server import running_server\n"
        "with running_server() as server:\n    print(server.url, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().decode().strip()
        (child,) = psutil.Process(starter.pid).children()
        assert httpx.get(f"{url}/ping").json() == {"online": True}

        os.kill(starter.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs([child], timeout=10)

    assert (gone, alive) == ([child], [])


def test_a_stand_in_that_cannot_start_says_so() -> None:
    with (
        pytest.raises(RuntimeError, match="before it listened"),
        running_server(Behaviour(faults={FaultKind.SLOW: Fault(routes=("no-such-route",))})),
    ):
        pass
