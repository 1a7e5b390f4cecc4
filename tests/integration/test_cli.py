"""The command line: what it prints, where, and with which exit status."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from repositories.database import DatabaseManager
from repositories.workspaces import WorkspaceRepository
from worker.cli import main
from worker.cli.exits import MEANINGS, Exit

NOBODY = "01a20c21-c349-77ee-a3f8-36c03af62079"


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Its errors, as one line: a narrow terminal may have wrapped them."""
        return " ".join(self.err.split())


Worker = Callable[..., Ran]


@pytest.fixture
def worker(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> Worker:
    """Run ``worker ARGUMENTS`` on this test's servers; keywords set variables, ``None`` unsets one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("STORAGE_URL", str(tmp_path / "storage"))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOG_LEVEL", "ERROR")

    def run(*arguments: str, **variables: str | None) -> Ran:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["worker", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "docs"
    path.mkdir()
    (path / "a.txt").write_text("alpha")
    return path


def register(database_url: str, name: str) -> None:
    async def write() -> None:
        async with DatabaseManager(database_url) as database, database.get_transaction() as session:
            await WorkspaceRepository(session, "local").register(name, name)

    asyncio.run(write())


def test_an_upload_prints_the_jobs_id_and_the_job_is_listed(worker: Worker, folder: Path) -> None:
    uploaded = worker("upload", str(folder), "--workspace", "handbook")
    job_id = uploaded.out.strip()

    listed = worker("jobs", "list", "--json")
    shown = worker("jobs", "show", job_id, "--json")

    assert (uploaded.status, listed.status, shown.status) == (Exit.OK, Exit.OK, Exit.OK)
    (row,) = [json.loads(line) for line in listed.out.splitlines()]
    assert (row["job_id"], row["status"], row["workspace"]) == (job_id, "queued", "handbook")
    assert row["queue_position"] == 1
    assert json.loads(shown.out)["failures"] == "0 of 3"


def test_a_cancelled_job_can_be_retried_and_a_queued_one_cannot(worker: Worker, folder: Path) -> None:
    job_id = worker("upload", str(folder), "--workspace", "handbook").out.strip()

    cancelled = worker("jobs", "cancel", job_id, "--reason", "not yet")
    retried = worker("jobs", "retry", job_id, "--json")
    refused = worker("jobs", "retry", job_id)

    assert (cancelled.status, cancelled.out.split()) == (Exit.OK, [job_id, "cancelled"])
    assert json.loads(retried.out) == {"job_id": job_id, "status": "queued"}
    assert refused.status == Exit.FAILED
    assert f"job {job_id} is queued and cannot become queued" in refused.words


def test_a_path_that_does_not_exist_is_named(worker: Worker) -> None:
    ran = worker("upload", "nowhere", "--workspace", "handbook")

    assert ran.status == Exit.USAGE
    assert "nowhere does not exist: check the spelling" in ran.words


def test_an_empty_folder_is_named(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    ran = worker("upload", "empty", "--workspace", "handbook")

    assert ran.status == Exit.USAGE
    assert "there is no file in empty: nothing to upload" in ran.words


def test_an_empty_workspace_name_is_refused_before_anything_is_stored(
    worker: Worker, folder: Path, tmp_path: Path
) -> None:
    ran = worker("upload", str(folder), "--workspace", "")

    assert ran.status == Exit.USAGE
    assert "workspace" in ran.words
    assert not list((tmp_path / "storage").rglob("*")) or ran.status == Exit.USAGE


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id,text\nq1,What?\n", "expected_fragments"),
        (b"", "empty"),
        (b"question,expected_fragments\nWas ist gr\xf6\xdfer?,x\n", "UTF-8"),
        (b"question,expected_fragments\n,42\n", "line 2"),
    ],
)
def test_a_question_file_that_cannot_be_taken_names_what_to_mend(
    worker: Worker, tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "set.csv").write_bytes(content)

    ran = worker("ask", "set.csv", "--workspace", "handbook")

    assert ran.status == Exit.USAGE
    assert "set.csv" in ran.words
    assert told in ran.words


def test_a_bom_and_a_repeated_question_are_taken_with_a_word(worker: Worker, tmp_path: Path, database_url: str) -> None:
    register(database_url, "handbook")
    (tmp_path / "set.csv").write_bytes("\ufeffquestion,expected_fragments\nWhat?,42\nWhat?,42\n".encode())

    ran = worker("ask", "set.csv", "--workspace", "handbook")

    assert ran.status == Exit.OK
    assert "line" in ran.words


def test_asking_an_unknown_workspace_offers_near_names(worker: Worker, tmp_path: Path, database_url: str) -> None:
    register(database_url, "handbook")
    (tmp_path / "set.csv").write_text("question,expected_fragments\nWhat?,42\n")

    ran = worker("ask", "set.csv", "--workspace", "handbok")

    assert ran.status == Exit.USAGE
    assert "there is no workspace 'handbok': did you mean 'handbook'?" in ran.words


@pytest.mark.parametrize("job_id", [NOBODY, "nonsense"])
def test_a_job_id_that_names_no_job_is_told(worker: Worker, job_id: str) -> None:
    ran = worker("jobs", "show", job_id)

    assert ran.status == Exit.FAILED
    assert f"there is no job {job_id}" in ran.words


def test_cancelling_an_unknown_job_is_refused(worker: Worker) -> None:
    ran = worker("jobs", "cancel", NOBODY)

    assert ran.status == Exit.FAILED
    assert f"there is no job {NOBODY}" in ran.words


def test_a_malformed_variable_is_named(worker: Worker) -> None:
    ran = worker("settings", ITEM_CONCURRENCY="lots")

    assert ran.status == Exit.USAGE
    assert "ITEM_CONCURRENCY: should be a valid integer" in ran.words


def test_without_servers_the_next_step_is_told(worker: Worker) -> None:
    ran = worker("jobs", "list", DATABASE_URL=None)

    assert ran.status == Exit.USAGE
    assert "DATABASE_URL is not set and no `worker dev` runs here" in ran.words


def test_a_postgresql_that_does_not_answer_is_told_without_its_password(worker: Worker) -> None:
    ran = worker("jobs", "list", DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/db")

    assert ran.status == Exit.UNAVAILABLE
    assert "PostgreSQL does not answer" in ran.words
    assert "hunter2" not in ran.out + ran.err


@pytest.mark.slow
def test_a_worker_without_redis_says_so_and_ends(worker: Worker) -> None:
    ran = worker("run", REDIS_URL="redis://:hunter2@127.0.0.1:1/0")

    assert ran.status == Exit.UNAVAILABLE
    assert "hunter2" not in ran.out + ran.err
    assert "Redis" in ran.words


def test_an_upload_without_redis_is_still_enqueued(worker: Worker, folder: Path) -> None:
    ran = worker("upload", str(folder), "--workspace", "handbook", REDIS_URL="redis://127.0.0.1:1/0")

    assert ran.status == Exit.OK
    assert len(ran.out.strip()) == len(NOBODY)


def test_a_database_that_was_never_migrated_is_told(worker: Worker, empty_database_url: str, folder: Path) -> None:
    ran = worker("upload", str(folder), "--workspace", "handbook", DATABASE_URL=empty_database_url)

    assert ran.status == Exit.USAGE
    assert "worker db upgrade" in ran.words


def test_db_upgrade_migrates_once_and_db_current_tells(worker: Worker, empty_database_url: str) -> None:
    before = worker("db", "current", DATABASE_URL=empty_database_url)
    first = worker("db", "upgrade")
    second = worker("db", "upgrade")
    after = worker("db", "current")

    assert (before.status, first.status, second.status, after.status) == (Exit.FAILED, Exit.OK, Exit.OK, Exit.OK)
    assert "run `worker db upgrade`" in before.out
    assert "migrated from nothing" in first.out
    assert "nothing to do" in second.out


def test_settings_show_every_variable_and_mask_secrets(worker: Worker) -> None:
    ran = worker("settings", "--json", DATABASE_URL="postgresql://me:hunter2@host/db")

    shown = json.loads(ran.out)
    assert shown["DATABASE_URL"] == "postgresql+asyncpg://***@host/db"
    assert shown["MAX_FILE_BYTES"] == 104_857_600
    assert "hunter2" not in ran.out


def test_brackets_in_a_name_of_another_service_are_only_text(worker: Worker, folder: Path) -> None:
    worker("upload", str(folder), "--workspace", "plans[/old] [red]x")

    ran = worker("jobs", "list")

    assert ran.status == Exit.OK
    assert "plans[/old] [red]x" in ran.out


def test_debug_lets_the_traceback_through(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITEM_CONCURRENCY", "lots")
    monkeypatch.setattr(sys, "argv", ["worker", "--debug", "settings"])

    with pytest.raises(ValueError, match="ITEM_CONCURRENCY"):
        main()


@pytest.mark.parametrize(
    "command",
    [[], ["demo"], ["dev"], ["run"], ["upload"], ["ask"], ["jobs", "watch"], ["db", "upgrade"], ["settings"]],
)
def test_every_command_explains_itself(worker: Worker, command: list[str]) -> None:
    ran = worker(*command, "--help")

    assert ran.status == Exit.OK
    assert "Usage:" in ran.out
    assert os.environ["DATABASE_URL"] not in ran.out


def test_the_exit_statuses_are_in_the_help(worker: Worker) -> None:
    text = " ".join(worker("--help").out.replace("│", " ").split())

    for meaning in MEANINGS.values():
        assert meaning.split(",")[0].split("(")[0].strip() in text


def test_a_worker_on_a_database_that_was_never_migrated_says_what_to_run(
    worker: Worker, empty_database_url: str
) -> None:
    ran = worker("run", DATABASE_URL=empty_database_url)

    assert ran.status == Exit.USAGE
    assert "run `worker db upgrade`" in ran.words
