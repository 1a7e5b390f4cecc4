"""The documentation says what the code does."""

import re
import subprocess
import sys
from pathlib import Path

from repositories import errors
from worker.cli.exits import MEANINGS

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def test_the_page_of_commands_is_what_the_commands_say(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    command = ["typer", "worker.cli", "utils", "docs", "--name", "worker", "--title", "The worker command"]
    subprocess.run([sys.executable, "-m", *command, "--output", str(page)], check=True, cwd=ROOT, capture_output=True)

    assert (ROOT / "docs" / "cli.md").read_text() == page.read_text(), "run `make docs`"


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_that_the_docs_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in DOCS:
        named = set(re.findall(r"\bmake ([a-z-]+)`", page.read_text()))
        assert named <= targets, f"{page.name}: {named - targets}"


def test_every_error_of_the_repositories_stands_in_the_tree_of_its_module() -> None:
    tree = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.RepositoryError):
            assert name in tree, name


def test_every_exit_status_has_its_meaning_on_the_page_of_commands() -> None:
    page = " ".join((ROOT / "docs" / "cli.md").read_text().split())
    for status, meaning in MEANINGS.items():
        assert f"{int(status)} {meaning}" in page
