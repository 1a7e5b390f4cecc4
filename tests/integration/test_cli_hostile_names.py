"""Every command prints names that others chose: none of them is obeyed by a terminal, and JSON spells them as JSON."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
from redis import Redis

from repositories.schemas import NewJob
from tests.integration.test_cli import Worker, folder, worker
from tests.integration.test_cli_upload import engine, work
from tests.integration.test_registry import live_worker
from worker.cli import app
from worker.client import open_client
from worker.queue import connect
from worker.registry import Registry
from worker.settings import load_settings

__all__ = ["engine", "folder", "work", "worker"]  # fixtures

HOSTILE = "a\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x7f\r\b\u202egpj\u2066\nforged"
OBEYED = frozenset(
    {chr(code) for code in [*range(32), *range(127, 160)]} - {"\n", "\t"} | {"\u202e", "\u2066", "\u2028"}
)
PRINT_NO_NAMES = {"dev", "run", "demo", "db upgrade", "db current"}  # but their own, of servers and of what is shipped


class Scene(NamedTuple):
    """What hostile names stand in: a job with items, one that failed, one that was cancelled; files and a table."""

    job: str
    strange: str
    folder: Path
    questions: Path


@pytest.fixture
def scene(worker: Worker, work: Callable[[], None], tmp_path: Path, redis_url: str) -> Iterator[Scene]:
    files = tmp_path / "names"
    files.mkdir()
    (files / f"{HOSTILE}.txt").write_text("alpha")
    (files / f"{HOSTILE} empty.txt").write_text("")
    (files / f"{HOSTILE} link.txt").symlink_to(files / f"{HOSTILE}.txt")
    questions = tmp_path / f"{HOSTILE}.csv"
    questions.write_text(f'question,expected\n"what is {HOSTILE}",alpha\n')
    uploaded = worker("upload", str(files), "--workspace", HOSTILE, "--source", HOSTILE, "--json")
    assert not OBEYED & set(uploaded.out + uploaded.err)
    work()

    async def add() -> str:
        settings = load_settings()
        async with open_client(settings) as client:
            (strange,) = await client.enqueue_many([NewJob(type=HOSTILE, payload={}, workspace_id=HOSTILE)])
        redis = connect(redis_url)
        await Registry(redis).announce(
            live_worker().model_copy(update={"id": HOSTILE, "host": HOSTILE, "version": HOSTILE})
        )
        await redis.aclose(close_connection_pool=True)
        return str(strange)

    yield Scene(json.loads(uploaded.out)["job_id"], asyncio.run(add()), files, questions)
    with Redis.from_url(redis_url) as redis:
        redis.flushdb()  # the jobs that are left would stand before those of other tests


Arguments = Callable[[Scene], list[str]]

# Each command, with what makes it print names; in the order in which they change the scene.
WALK: dict[str, list[Arguments]] = {
    "jobs list": [lambda _: [], lambda _: ["--workspace", HOSTILE], lambda _: ["--type", HOSTILE]],
    "jobs show": [lambda scene: [scene.job], lambda scene: [scene.strange], lambda scene: [scene.job, "--items"]],
    "jobs status": [lambda scene: [scene.job], lambda scene: [scene.strange]],
    "jobs why": [lambda scene: [scene.job], lambda scene: [scene.strange]],
    "jobs watch": [lambda scene: [scene.job]],
    "jobs cancel": [lambda scene: [scene.strange, "--reason", HOSTILE]],
    "jobs retry": [lambda scene: [scene.strange], lambda scene: [scene.job, "--failed-items"]],
    "upload": [
        lambda scene: [str(scene.folder), "--workspace", HOSTILE, "--dry-run"],
        lambda scene: [str(scene.folder), "--workspace", HOSTILE],
        lambda scene: [str(scene.folder / HOSTILE), "--workspace", "w"],
        lambda _: ["--url", f"https://127.0.0.1/{HOSTILE}", "--workspace", "w"],
        lambda scene: [str(scene.folder), "--include", f"../{HOSTILE}", "--workspace", "w"],
        lambda scene: [str(scene.folder), "--workspace", "w", "--queue", HOSTILE],
    ],
    "ask": [
        lambda scene: [str(scene.questions), "--workspace", HOSTILE],
        lambda scene: [str(scene.questions), "--workspace", f"{HOSTILE}s"],
        lambda scene: [str(scene.folder / f"{HOSTILE}.txt"), "--workspace", HOSTILE],
        lambda scene: [str(scene.folder / HOSTILE), "--workspace", HOSTILE],
    ],
    "workers": [lambda _: []],
    "queues": [lambda _: []],
    "queues pause": [lambda _: ["slow", "--reason", HOSTILE, "--by", HOSTILE], lambda _: [HOSTILE]],
    "queues resume": [lambda _: [HOSTILE]],
    "queues limit": [lambda _: [HOSTILE, "--none"]],
    "workspaces": [lambda _: []],
    "workspaces rebuild": [lambda _: [HOSTILE], lambda _: [f"{HOSTILE}s"], lambda _: [HOSTILE, "--yes"]],
    "settings": [lambda _: []],
}


def commands(group: Any, above: tuple[str, ...] = ()) -> list[str]:
    found: list[str] = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None or command.invoke_without_command:
            found.append(" ".join((*above, name)))
        if inner is not None:
            found += commands(command, (*above, name))
    return found


def test_every_command_is_walked() -> None:
    assert sorted(commands(typer.main.get_command(app))) == sorted([*WALK, *PRINT_NO_NAMES])


def test_no_command_prints_what_a_terminal_obeys(worker: Worker, scene: Scene) -> None:
    bad: list[Any] = []
    shown = 0
    for command, calls in WALK.items():
        for arguments in calls:
            for as_json in ([], ["--json"]):
                ran = worker(*command.split(), *as_json, *arguments(scene), ANYTHINGLLM_URL=None)
                printed = ran.out + ran.err
                forged = [line for line in printed.splitlines() if line.startswith("forged")]
                if OBEYED & set(printed) or forged:
                    bad.append((command, arguments(scene), as_json, OBEYED & set(printed), printed))
                shown += "\\u001b]52" in printed
                if as_json and ran.out:
                    for line in ran.out.splitlines():
                        json.loads(line)
    assert bad == []
    assert shown > 25


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "show", HOSTILE],
        [f"--{HOSTILE}"],
        ["workers", HOSTILE],
        [HOSTILE],
        ["jobs", HOSTILE],
        ["jobs", "list", "--limit", HOSTILE],
        ["jobs", "list", f"--{HOSTILE}"],
        ["queues", "pause", "slow", HOSTILE],
    ],
)
def test_a_wrong_command_is_told_without_being_obeyed(worker: Worker, arguments: list[str]) -> None:
    ran = worker(*arguments)

    assert ran.status != 0
    assert not OBEYED & set(ran.out + ran.err)


def test_a_traceback_is_not_obeyed_and_shows_no_secret(tmp_path: Path) -> None:
    told = f"{HOSTILE} password=hunter2"
    given = {
        "DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:9/db",
        "REDIS_URL": "redis://127.0.0.1:9",
        "PATH": "/bin",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "worker", "--debug", "upload", str(tmp_path / told), "--workspace", "w"],
        env=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert "\\u001b]52" in ran.stderr
    assert "hunter2" not in ran.stderr
    assert not OBEYED & set(ran.stderr)
