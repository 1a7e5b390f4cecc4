"""``worker upload`` and what it leads to: what is planned, chosen, refused, kept in step, tried again and followed."""

import asyncio
import csv
import io
import json
import signal
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis

from repositories.database import DatabaseManager
from repositories.hot_status import HotStatus
from repositories.models import Job
from repositories.schemas import JobFilters, PaginationParams
from repositories.states import JobStatus
from tests.chaos.programs import Programs
from tests.engines import NotingEngine
from tests.integration.test_cli import Worker, folder, worker
from tests.waiting import until
from worker.cli.exits import Exit
from worker.client import JobClient
from worker.execution import execute
from worker.leases import LeaseKeeper
from worker.queue import JobQueue, connect
from worker.run import Runtime
from worker.settings import Settings, load_settings, require
from worker.storage import Storage
from worker.tasks import TASKS
from worker.uploads.opening import make_sources

__all__ = ["folder", "worker"]  # fixtures

PROGRAM = b"\x7fELF\x02\x01\x01" + bytes(100)
SEVERAL = PaginationParams(page=1, size=20)


class LocalEngine(NotingEngine):
    """The noting engine under the name that the commands look for."""

    name = "local"


@pytest.fixture
def engine() -> NotingEngine:
    return LocalEngine()


@pytest.fixture
def work(engine: NotingEngine, redis_url: str) -> Callable[[], None]:
    """Carry out every job that is queued; if there is none, wait for the first."""

    async def carry_out() -> None:
        settings = load_settings()
        redis = connect(redis_url)
        leases = LeaseKeeper(
            require(settings.database_url, "DATABASE_URL"), lease=timedelta(seconds=4), every=timedelta(seconds=1)
        )
        await leases.start()
        try:
            async with DatabaseManager.of(settings) as database:
                queue = JobQueue(redis)
                client = JobClient(database, queue, Storage(settings.storage_url), settings)
                sources = make_sources(settings)
                hot = HotStatus(redis)
                runtime = Runtime(settings, database, queue, sources, engine, leases, "worker-1", TASKS, hot=hot)

                async def queued() -> list[Job]:
                    return (await client.list_jobs(JobFilters(status=JobStatus.QUEUED), SEVERAL))[0]

                async def is_any_queued() -> bool:
                    return bool(await queued())

                await until(is_any_queued)
                while jobs := await queued():
                    for job in jobs:
                        await execute(runtime, str(job.id))
                await hot.settled()
        finally:
            await leases.stop()
            await redis.aclose(close_connection_pool=True)

    return lambda: asyncio.run(carry_out())


@pytest.fixture
def working(work: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Do the same beside the test, for a command that waits for its job."""
    threads: list[threading.Thread] = []

    def start() -> None:
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def fates(worker: Worker, *arguments: str) -> dict[str, str]:
    """What a dry run says of each document."""
    return {one["name"]: one["fate"] for one in lines(worker("upload", *arguments, "--dry-run", "--json").out)}


# --- before anything is done ----------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_does_nothing(worker: Worker, folder: Path, tmp_path: Path) -> None:
    (folder / "same.txt").write_text("alpha")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("b.txt", "beta")

    told = worker("upload", str(folder), "-w", "handbook", "--dry-run")

    assert told.status == Exit.OK
    assert [line.split()[:2] for line in told.out.splitlines()[:-1]] == [
        ["new", "a.txt"],
        ["new", "more.zip/b.txt"],
        ["duplicate", "same.txt"],
    ]
    assert "same.txt  is the same as a.txt" in told.out
    assert told.out.splitlines()[-1] == "2 new, 1 duplicate; nothing was done"
    assert worker("jobs", "list").out.strip() == "no jobs"
    assert not [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]


def test_a_dry_run_with_a_file_that_would_fail_says_why_and_ends_with_status_3(worker: Worker, folder: Path) -> None:
    (folder / "program.pdf").write_bytes(PROGRAM)

    text = worker("upload", str(folder), "-w", "handbook", "--dry-run")
    data = worker("upload", str(folder), "-w", "handbook", "--dry-run", "--json")

    assert (text.status, data.status) == (Exit.PARTLY, Exit.PARTLY)
    assert "unsupported program.pdf  program.pdf is" in text.out
    found = {one["name"]: one for one in lines(data.out)}
    assert (found["a.txt"]["fate"], found["a.txt"]["code"]) == ("new", None)
    assert found["program.pdf"]["fate"] == "unsupported"
    assert found["program.pdf"]["code"] in {"unsupported_type", "corrupt"}
    assert found["program.pdf"]["code"] in text.out


def test_a_dry_run_without_files_says_what_it_can_look_at(worker: Worker) -> None:
    ran = worker("upload", "-w", "handbook", "--link", "https://example.org/a.pdf", "--dry-run")

    assert ran.status == Exit.USAGE
    assert "--dry-run looks at files and folders: name one" in ran.words


def test_a_dry_run_after_an_upload_tells_changed_from_unchanged_and_orphaned(
    worker: Worker, folder: Path, work: Callable[[], None]
) -> None:
    for name in ("b", "c"):
        (folder / f"{name}.txt").write_text(name)
    worker("upload", str(folder), "-w", "handbook")
    work()
    (folder / "b.txt").write_text("another b")
    (folder / "c.txt").unlink()

    assert fates(worker, str(folder), "-w", "handbook") == {"a.txt": "unchanged", "b.txt": "changed"}
    assert fates(worker, str(folder), "-w", "handbook", "--sync") == {
        "a.txt": "unchanged",
        "b.txt": "changed",
        "c.txt": "orphaned",
    }


def test_include_and_exclude_choose_among_the_files_of_a_folder(worker: Worker, folder: Path) -> None:
    (folder / "drafts").mkdir()
    for name in ("b.md", "c.txt", "drafts/d.txt"):
        (folder / name).write_text(name)

    chosen = fates(worker, str(folder), "-w", "h", "--include", "*.txt", "--exclude", "drafts/", "--exclude", "c.*")

    assert chosen == {"a.txt": "new"}


@pytest.mark.parametrize(
    ("pattern", "told"), [("!a.txt", "begins with !"), ("../*.txt", "has a part that is empty, . or .."), ("/", "/")]
)
def test_a_pattern_that_cannot_be_used_is_wrong_usage(worker: Worker, folder: Path, pattern: str, told: str) -> None:
    ran = worker("upload", str(folder), "-w", "handbook", "--include", pattern)

    assert ran.status == Exit.USAGE
    assert "the pattern" in ran.words
    assert told in ran.words
    assert worker("jobs", "list").out.strip() == "no jobs"


def test_a_sync_of_links_alone_needs_a_label(worker: Worker) -> None:
    ran = worker("upload", "-w", "handbook", "--link", "https://example.org/a.pdf", "--sync")

    assert ran.status == Exit.USAGE
    assert ran.words == "worker: sync needs a source: the label of the set that is kept in step"


def test_two_sets_of_long_paths_have_two_labels(worker: Worker, tmp_path: Path, work: Callable[[], None]) -> None:
    deep = tmp_path / ("d" * 200) / ("e" * 100)
    for name in ("first", "second"):
        (deep / name).mkdir(parents=True)
        (deep / name / f"{name}.txt").write_text(name)
        worker("upload", str(deep / name), "-w", "handbook", "--sync")
        work()

    # Else the second sync would have removed what the first one brought.
    assert fates(worker, str(deep / "first"), "-w", "handbook", "--sync") == {"first.txt": "unchanged"}


def test_two_sets_of_one_folder_with_other_patterns_have_two_labels(
    worker: Worker, folder: Path, work: Callable[[], None]
) -> None:
    (folder / "b.md").write_text("beta")
    sets = [("--include", "*.txt"), ("--include", "*.md"), ("--exclude", "*.txt")]
    for patterns in sets:
        worker("upload", str(folder), "-w", "handbook", "--sync", *patterns)
        work()

    # Else the second sync would have removed what the first one brought.
    assert fates(worker, str(folder), "-w", "handbook", "--sync", *sets[0]) == {"a.txt": "unchanged"}


def test_a_dry_run_of_a_sync_in_which_a_file_would_fail_says_that_nothing_would_be_removed(
    worker: Worker, folder: Path, work: Callable[[], None]
) -> None:
    (folder / "b.txt").write_text("beta")
    worker("upload", str(folder), "-w", "handbook", "--sync")
    work()
    (folder / "a.txt").unlink()
    (folder / "b.txt").write_bytes(b"")

    told = worker("upload", str(folder), "-w", "handbook", "--dry-run", "--sync")

    assert told.status == Exit.PARTLY
    assert "orphaned" not in told.out
    assert "a sync would remove nothing, because some documents would fail" in told.out


def test_a_sync_of_a_folder_that_became_empty_says_why_nothing_is_removed(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "emptied").mkdir()

    ran = worker("upload", str(tmp_path / "emptied"), "-w", "handbook", "--sync")

    assert ran.status == Exit.USAGE
    assert "nothing is removed either, because a sync is a job, and a job needs a document" in ran.words


# --- what is done ---------------------------------------------------------------------------------------------------


def test_links_and_objects_that_may_not_be_read_fail_alone_with_their_codes(
    worker: Worker, folder: Path, working: Callable[[], None]
) -> None:
    working()

    ran = worker(
        *("upload", str(folder / "a.txt"), "-w", "handbook", "--wait"),
        *("--link", "http://127.0.0.1:1/inside.pdf", "--link", "ftp://example.org/a.pdf"),
        *("--object", "s3://somebody/a.pdf"),
    )

    assert ran.status == Exit.PARTLY
    assert ran.words.count("[link_forbidden]") == 2
    assert ran.words.count("[object_forbidden]") == 1
    assert "1 stored" in ran.out
    assert "3 failed" in ran.out
    job_id = ran.words.partition(" job ")[2].split()[0]
    assert f"again: worker jobs retry {job_id} --failed-items" in ran.words


def test_objects_below_an_allowed_folder_are_chosen_by_the_same_patterns(
    worker: Worker, folder: Path, work: Callable[[], None], engine: NotingEngine
) -> None:
    (folder / "b.md").write_text("beta")
    where = f"{folder.as_uri()}/"

    worker("upload", "-w", "handbook", "--object", where, "--exclude", "*.md", OBJECT_SOURCES=where)
    work()

    assert engine.added == ["a.txt"]


def test_a_sync_replaces_what_changed_and_removes_what_is_gone(
    worker: Worker, folder: Path, work: Callable[[], None], engine: NotingEngine
) -> None:
    (folder / "b.txt").write_text("beta")
    worker("upload", str(folder), "-w", "handbook", "--sync")
    work()
    (folder / "a.txt").write_text("another alpha")
    (folder / "b.txt").unlink()

    job_id = worker("upload", str(folder), "-w", "handbook", "--sync").out.strip()
    work()

    result = json.loads(worker("jobs", "show", job_id, "--json").out)["result"]
    assert (result["removed"], result["items"]) == (1, {"done": 1})
    assert list(engine.documents.values()) == [b"another alpha"]


def test_the_failed_items_of_a_completed_job_are_tried_again_alone(
    worker: Worker, folder: Path, work: Callable[[], None], engine: NotingEngine
) -> None:
    (folder / "bad.txt").write_text("reject this")
    job_id = worker("upload", str(folder), "-w", "handbook").out.strip()
    work()
    engine.mended = True

    again = worker("jobs", "retry", job_id, "--failed-items", "--json")
    (made,) = lines(again.out)
    work()
    (job, *items) = lines(worker("jobs", "show", made["job_id"], "--items", "--json").out)
    nothing = worker("jobs", "retry", made["job_id"], "--failed-items")

    assert again.status == Exit.OK
    assert made["job_id"] != job_id
    assert (job["status"], [(item["key"], item["status"]) for item in items]) == ("completed", [("bad.txt", "done")])
    assert sorted(engine.added) == ["a.txt", "bad.txt", "bad.txt"]
    assert (nothing.status, f"job {made['job_id']} has no failed items" in nothing.words) == (Exit.FAILED, True)


def test_items_are_a_table_in_which_no_name_is_a_formula(
    worker: Worker, folder: Path, work: Callable[[], None]
) -> None:
    (folder / "=1+1.txt").write_text("a formula")
    (folder / "bad.txt").write_text("reject this")
    (folder / "same.txt").write_text("alpha")
    job_id = worker("upload", str(folder), "-w", "handbook", ITEM_CONCURRENCY="1").out.strip()  # in order
    work()

    table = worker("jobs", "show", job_id, "--items", "--csv").out

    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(table))}
    assert {name: (row["status"], row["stage"], row["error_code"]) for name, row in rows.items()} == {
        "'=1+1.txt": ("done", "confirmed", ""),
        "a.txt": ("done", "confirmed", ""),
        "bad.txt": ("failed", "prepared", "corrupt"),
        "same.txt": ("skipped", "prepared", ""),
    }
    assert rows["same.txt"]["duplicate_of"] == "a.txt"
    assert (rows["a.txt"]["bytes"], rows["a.txt"]["media_type"]) == ("5", "text/plain")
    assert rows["a.txt"]["locations"] == f"{job_id}/1"
    phases = [float(rows["a.txt"][f"{phase}_seconds"]) for phase in ("read", "upload", "embed", "verify")]
    assert float(rows["a.txt"]["seconds"]) == pytest.approx(sum(phases), abs=0.001)
    assert rows["bad.txt"]["verify_seconds"] == ""
    assert rows["bad.txt"]["error"] == "bad.txt cannot be read"


def test_links_that_are_left_out_are_counted_and_named(worker: Worker, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "all").symlink_to(tmp_path / "elsewhere")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "b.txt").symlink_to(folder / "a.txt")

    told = worker("upload", str(folder), "--workspace", "handbook").words
    excluding = worker("upload", str(folder), "--workspace", "handbook", "--exclude", "all", "--follow-symlinks").words

    assert f"1 symbolic link is left out ({folder}/b.txt): --follow-symlinks reads them" in told
    assert f"2 symbolic links to folders are left out ({folder}/all, {folder}/more)" in told
    assert f"1 symbolic link to a folder is left out ({folder}/more): name what is meant itself" in excluding
    assert "b.txt" not in excluding


# --- following a folder ---------------------------------------------------------------------------------------------


@pytest.fixture
async def programs(settings: Settings, redis: ArqRedis, tmp_path: Path) -> AsyncIterator[Programs]:
    running = Programs(settings, tmp_path / "programs.log")
    yield running
    await running.end()


async def test_a_watched_folder_is_uploaded_and_then_each_change_of_it_until_sigint(
    programs: Programs, client: JobClient, runtime: Runtime, engine: NotingEngine, folder: Path, redis: ArqRedis
) -> None:
    hot = HotStatus(redis)  # the command reads where its jobs stand there

    async def job(count: int) -> Job:
        async def is_there() -> bool:
            return (await client.list_jobs(JobFilters(), SEVERAL))[1] == count

        await until(is_there, 30)
        return (await client.list_jobs(JobFilters(), SEVERAL))[0][0]

    async def carried_out(made: Job) -> list[str]:
        await execute(replace(runtime, hot=hot), str(made.id))
        await hot.settled()
        return [item.key for item in await client.items(made.id)]

    process = await programs.start("worker", "upload", str(folder), "-w", "handbook", "--watch")
    first = await job(1)
    (folder / "b.txt").write_text("beta")  # the first job goes on still
    assert await carried_out(first) == ["a.txt"]
    assert await carried_out(await job(2)) == ["b.txt"]
    (folder / "a.txt").write_text("another alpha")
    assert await carried_out(await job(3)) == ["a.txt"]

    process.send_signal(signal.SIGINT)

    assert await asyncio.wait_for(process.wait(), 20) == Exit.INTERRUPTED
    assert sorted(engine.documents.values()) == [b"another alpha", b"beta"]


@pytest.mark.slow
async def test_a_watched_folder_outlives_a_storage_that_is_away_and_uploads_what_changed_meanwhile(
    programs: Programs, client: JobClient, folder: Path, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "away" / "sha256"
    in_the_way.parent.mkdir()
    in_the_way.write_text("in the way")

    async def is_told() -> bool:
        return "the storage does not answer" in (tmp_path / "programs.log").read_text()

    async def is_enqueued() -> bool:
        return (await client.list_jobs(JobFilters(), SEVERAL))[1] == 1

    process = await programs.start(
        *("worker", "upload", str(folder), "-w", "handbook", "--watch"), STORAGE_URL=str(in_the_way.parent)
    )
    await until(is_told, 30)
    assert process.returncode is None
    in_the_way.unlink()
    await until(is_enqueued, 30)

    (job,), _ = await client.list_jobs(JobFilters(), SEVERAL)
    assert job.payload is not None
    assert [file["name"] for file in job.payload["files"]] == ["a.txt"]
    process.kill()
    await process.wait()


def test_a_folder_that_does_not_exist_is_not_followed(worker: Worker) -> None:
    ran = worker("upload", "nowhere", "-w", "handbook", "--watch")

    assert ran.status == Exit.USAGE
    assert "nowhere does not exist: check the spelling" in ran.words
