"""A stock ARQ worker and ours drain one queue together."""

import asyncio
import re
import signal
from pathlib import Path

import pytest
from arq.connections import ArqRedis

from repositories.states import JobStatus
from tests.chaos.programs import Programs, pid_of
from worker.client import JobClient
from worker.files import FileSource
from worker.questions.question_set import Question, QuestionSet

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(180)]

JOBS = 30  # of each type
OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def documented_keys() -> re.Pattern[str]:
    """What ``docs/operating.md`` says that stays in Redis when no job is left; ``{...}`` stands for anything."""
    section = OPERATING.read_text().split("\n## What is in Redis\n")[1].split("\n## ")[0]
    keys = re.findall(r"^\| `([^`]+)` \| stays", section, re.MULTILINE)
    assert keys, "the table is written otherwise now"
    return re.compile("|".join(re.sub(r"\\{[^}]*\\}", ".+", re.escape(key)) for key in keys))


async def test_a_stock_worker_and_ours_drain_one_queue_and_every_job_runs_once(
    programs: Programs, client: JobClient, redis: ArqRedis
) -> None:
    made = await client.upload_documents("handbook", [FileSource("pump.txt", b"A pump needs 7 litres of oil.")])
    stock = await programs.start("arq", "worker.main.WorkerSettings", WORKER_CONCURRENCY="2")
    ours = await programs.start("worker", "run", WORKER_CONCURRENCY="2")
    await programs.workers(2)
    await client.wait([made.id], timeout_seconds=30)

    ids = []
    question = QuestionSet(name="pumps", questions=(Question(id="1", text="How much oil does a pump need?"),))
    for number in range(JOBS):
        text = f"Valve {number} opens at {number} bar.".encode()
        ids.append((await client.upload_documents("handbook", [FileSource(f"{number}.txt", text)])).id)
        ids.append((await client.process_questions("handbook", question)).id)
    jobs = await client.wait(ids, timeout_seconds=120)

    assert {(job.status, job.attempt, job.failures, job.crashes) for job in jobs} == {(JobStatus.COMPLETED, 1, 0, 0)}
    assert {job.items_done for job in jobs} == {1}
    assert {pid_of(str(job.worker_id)) for job in jobs} == {stock.pid, ours.pid}, "one of them did everything"
    ended = [line["job_id"] for line in programs.lines("job.finished")]
    assert sorted(ended) == sorted(str(job_id) for job_id in [made.id, *ids])
    for worker in (stock, ours):
        worker.send_signal(signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(stock.wait(), ours.wait()), 30)
    assert ours.returncode == 0
    known = documented_keys()
    assert [key for key in await redis.keys("*") if not known.fullmatch(key.decode())] == []
