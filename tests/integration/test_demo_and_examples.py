"""What a newcomer runs first, run as a newcomer does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.settings import Settings

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(150)


def _environment(**variables: str) -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | variables


def test_the_demo_answers_the_question_set_and_shows_the_broken_file(tmp_path: Path) -> None:
    report = tmp_path / "a report"
    command = [sys.executable, "-m", "worker", "demo", "--json", "--report", str(report)]
    environment = _environment(DATA_DIR=str(tmp_path / "data"))

    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {event["event"] for event in events} == {"job", "totals"}
    totals = events[-1]
    assert (totals["questions"], totals["failed"]) == (40, 0)
    # The promise of the first version: the questions were fixed before the engine existed.
    assert totals["answerable"]["rate"] >= 0.85
    assert totals["unanswerable"]["rate"] >= 0.80
    written = json.loads((report / "report.json").read_text())
    assert len(written["rows"]) == 40
    (broken,) = [file for file in written["upload"]["files"] if file["status"] == "failed"]
    assert (broken["name"], broken["error_code"]) == ("service/vibration-survey-harbour-works.pdf", "corrupt")
    assert "vibration-survey-harbour-works.pdf" in (report / "report.html").read_text()
    assert (report / "report.csv").read_text().count("\nq") >= 39


@pytest.mark.slow
def test_the_example_for_services_enqueues_and_prints_the_answers(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """With a worker process beside it, as in a terminal of its own."""
    environment = _environment(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        STORAGE_URL=str(tmp_path / "storage"),
        LOG_LEVEL="WARNING",
    )
    worker = subprocess.Popen([sys.executable, "-m", "worker", "run"], env=environment, cwd=tmp_path)
    try:
        ran = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "enqueue.py")],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    finally:
        worker.terminate()
        worker.wait(30)

    assert ran.returncode == 0, ran.stderr
    assert "document_upload: completed, 3 of 3 items" in ran.stdout
    assert "question_processing: completed, 2 of 2 items" in ran.stdout
    assert "4711" in ran.stdout
    assert "[all_found]" in ran.stdout
    assert "[refused_rightly]" in ran.stdout
    assert worker.returncode == 0
