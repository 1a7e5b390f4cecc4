"""The documentation says what the code does."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from repositories import errors
from worker.cli.exits import MEANINGS
from worker.settings import Settings

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


def codes(*errors: str) -> set[str]:
    """The codes that the code gives to these errors: their first argument, or ``code``."""
    found = set()
    for path in sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors:
                given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "code")]
                found |= {str(value.value) for value in given if isinstance(value, ast.Constant)}
    return found


def test_every_code_that_a_document_fails_with_is_explained() -> None:
    page = (ROOT / "docs" / "documents.md").read_text()
    told = set(re.findall(r"`([a-z_]+)`", page))
    raised = codes(
        "JobError", "SourceError", "ArchiveError", "BoundExceededError", "EntryError", "DocumentRejectedError"
    )

    assert len(raised) > 30
    assert raised - told == set()


def test_every_code_in_the_table_of_errors_can_come() -> None:
    page = (ROOT / "docs" / "documents.md").read_text().partition("## Errors")[2].partition("## ")[0]
    table = {code for row in re.findall(r"(?m)^\| (`.*?) \|", page) for code in re.findall(r"`([a-z_]+)`", row)}
    source = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))

    assert len(table) > 30
    assert {code for code in table if f'"{code}"' not in source} == set()


def test_every_test_that_the_docs_name_exists() -> None:
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = {name for page in (ROOT / "docs").glob("*.md") for name in re.findall(r"`(test_\w+)`", page.read_text())}

    assert named - tests == set()
    assert len(named) > 30


def test_the_bounds_of_archives_are_told_with_their_defaults() -> None:
    rows = re.findall(r"(?m)^\| `(MAX_\w+)`.*? \| ([\d,]+) ?(\w*)", (ROOT / "docs" / "documents.md").read_text())
    units = {"GiB": 1024**3, "MiB": 1024**2}

    told = {name.lower(): int(number.replace(",", "")) * units.get(unit, 1) for name, number, unit in rows}

    assert len(told) == 6
    assert told == {name: Settings.model_fields[name].default for name in told}


def test_the_bounds_of_anythingllm_are_told_with_their_defaults() -> None:
    rows = re.findall(r"(?m)^\| `(ANYTHINGLLM_\w+)` \| (\d+)", (ROOT / "docs" / "anythingllm.md").read_text())

    told = {name.lower(): float(number) for name, number in rows}

    assert len(told) == 4
    assert told == {name: Settings.model_fields[name].default for name in told}
