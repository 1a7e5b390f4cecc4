"""Enqueue from your own service: upload three files, ask two questions, print the answers.

Start servers and workers in one terminal (``worker dev``), then run this in another: ``python examples/enqueue.py``.
"""

import asyncio

from worker.cli.context import connected_settings
from worker.client import open_client
from worker.files import FileSource
from worker.questions.question_set import Question, QuestionSet

WORKSPACE = "example"
FILES = [
    FileSource("opening-hours.md", b"# Opening hours\n\nThe workshop is open from 8:00 to 16:30 on weekdays.\n"),
    FileSource("parking.txt", b"Visitors park in row C. The gate code of the car park is 4711.\n"),
    FileSource("canteen.csv", b"day,meal,price\nMonday,lentil soup,5.20 EUR\nTuesday,fish pie,7.80 EUR\n"),
]
QUESTIONS = QuestionSet(
    name="two questions",
    questions=(
        Question(id="q1", text="What is the gate code of the car park?", expected_fragments=("4711",)),
        Question(id="q2", text="Who won the chess world championship?", answerable=False),
    ),
)


async def main() -> None:
    """The bytes go to storage, the jobs to PostgreSQL, their ids to Redis; the second job waits for the first."""
    async with open_client(connected_settings()) as client:
        upload = await client.upload_documents(WORKSPACE, FILES, metadata={"from": "examples/enqueue.py"})
        asked = await client.process_questions(WORKSPACE, QUESTIONS, depends_on=[upload.id])
        for job in await client.wait([upload.id, asked.id], timeout_seconds=60):
            print(f"{job.type}: {job.status}, {job.items_done + job.items_skipped} of {job.items_total} items")
        for item in await client.items(asked.id):
            result = item.result or {}
            print(f"{item.spec['text']}\n  {result['answer']['text']}  [{result['score']['reason']}]")


if __name__ == "__main__":
    asyncio.run(main())
