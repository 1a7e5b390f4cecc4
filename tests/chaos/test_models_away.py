"""A question set whose language model goes away in each of its words, and its embedder, too: all is answered.

``OUTAGE_SECONDS`` makes the outages longer than they are by default.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from repositories.states import ItemStatus, JobStatus
from tests.anythingllm_server import Behaviour, ModelTrouble, Server, anythingllm_server
from tests.chaos.programs import Programs
from worker.client import JobClient
from worker.files import FileSource
from worker.questions.question_set import read_question_set
from worker.reasons import Reason
from worker.settings import Settings

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "8"))
QUESTIONS = 40
OUTAGES: tuple[dict[str, object], ...] = (
    {"model_down": ModelTrouble.ERROR},
    {"model_down": ModelTrouble.RATE},
    {"embedder_down": True},
    {"model_down": ModelTrouble.EMPTY},
)
HEALTHY: dict[str, object] = {"model_down": None, "embedder_down": False}

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(120 + 6 * OUTAGE_SECONDS)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    behaviour = Behaviour.quick().changed({"llm_seconds": 1.0})
    async with anythingllm_server(behaviour, tmp_path / "state") as running:
        yield running


@pytest.fixture
def settings(settings: Settings, server: Server) -> Settings:
    return settings.model_copy(update={"anythingllm_url": server.url, "anythingllm_api_key": server.api_key})


async def test_a_question_set_outlives_every_model_that_goes_away(
    programs: Programs, client: JobClient, server: Server
) -> None:
    await programs.start("worker", "run", LEASE_SECONDS="4", ITEM_CONCURRENCY="2")
    text = "\n".join(f"Pump P{number} needs {number} litres of oil." for number in range(QUESTIONS))
    upload = await client.upload_documents("pumps", [FileSource("pumps.txt", text.encode())])
    await client.wait([upload.id], timeout_seconds=60)
    lines = "\n".join(f"q{number},How much oil does pump P{number} need?,{number}" for number in range(QUESTIONS))
    table = read_question_set(f"id,question,expected_fragments\n{lines}\n".encode(), "pumps.csv")
    job = await client.process_questions("pumps", table)
    told: list[str] = []

    for number, outage in enumerate(OUTAGES):
        async for view in client.events([job.id]):
            assert not view.status.is_final, f"{view.status} before outage {number}: {told}"
            if view.items_finished >= 5 * (number + 1):
                break
        await server.control(**outage)
        ends = asyncio.get_running_loop().time() + OUTAGE_SECONDS
        while asyncio.get_running_loop().time() < ends:
            why = await client.why(job.id)
            if why.reason is Reason.ENGINE_AWAY and why.sentence not in told:
                told.append(why.sentence)
            await asyncio.sleep(0.5)  # a person who asks now and then
        await server.control(**HEALTHY)

    (ended,) = await client.wait([job.id], timeout_seconds=60 + OUTAGE_SECONDS)
    print(*told, {"attempts": ended.attempt, "seconds": ended.duration_seconds}, sep="\n")  # noqa: T201 - shown with -s
    assert (ended.status, ended.failures, ended.errors) == (JobStatus.COMPLETED, 0, [])
    items = await client.items(job.id)
    assert {item.status for item in items} == {ItemStatus.DONE}
    questions = (await server.counters()).questions
    asked = [questions[f"How much oil does pump P{number} need?"] for number in range(QUESTIONS)]
    assert len(asked) == QUESTIONS
    for part in ("language model", "embedder"):
        assert any(part in sentence for sentence in told), told
