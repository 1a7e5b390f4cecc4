"""The deployment files and the operators' documents agree with the program, and with each other.

No container engine is needed: the files are read, checked against the published schema, and compared with the settings,
the commands and the log events of the code.
"""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from annotated_types import Ge, Gt, Le
from arq.utils import import_string
from pydantic import AliasChoices
from typer.core import TyperGroup

from worker.cli import app
from worker.settings import Settings, load_settings, variable_name

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCUMENTS = (
    "README.md",
    "docs/operating.md",
    "docs/documents.md",
    "docs/anythingllm.md",
    "docs/architecture.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    ".env.example",
)
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}
OF_ANYTHINGLLM = {"WORKSPACE_DELETION_PROTECTION"}  # a setting of its server
NOT_FOR_CONTAINERS = {"DATA_DIR"}  # the embedded servers are another way to run
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# --- what is read -------------------------------------------------------------------------------------------------


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """Do with ``${NAME:-default}`` and ``${NAME:?message}`` what Docker Compose does."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if environment.get(name):
            return environment[name]
        if operator == ":-":
            return str(rest)
        raise LookupError(f"required variable {name} is missing a value: {rest}")

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, text)


def compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file as an engine would see it, its variables read from ``environment``."""
    # Line by line, without comments: a variable in one is not a variable.
    lines = [line for line in COMPOSE.read_text().splitlines() if not line.lstrip().startswith("#")]
    loaded = yaml.safe_load(interpolated("\n".join(lines), environment or dict.fromkeys(SECRETS, "given")))
    assert isinstance(loaded, dict)
    return loaded


def service(name: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = compose(environment)["services"][name]
    return found


def seconds(duration: str) -> int:
    """A duration of the compose format: numbers with units, added up (``1m20s``)."""
    assert re.fullmatch(r"(\d+[hms])+", duration)
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


class Instruction(NamedTuple):
    name: str
    rest: str


def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions, stage by stage, comments and line breaks taken out."""
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    found: list[list[Instruction]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, " ".join(rest.split())))
    return found


def all_of(name: str, stage: list[Instruction]) -> list[str]:
    return [instruction.rest for instruction in stage if instruction.name == name]


def assert_is_a_command(words: list[str]) -> None:
    """Parse a command line as the program would; an unknown command or option is an error."""
    assert words[0] == "worker"
    command, left = typer.main.get_command(app), words[1:]
    while isinstance(command, TyperGroup):
        if command.invoke_without_command and (not left or left[0].startswith("-")):
            break
        assert left, f"{words}: a command is missing"
        assert left[0] in command.commands, f"{words}: there is no command {left[0]!r}"
        command, left = command.commands[left[0]], left[1:]
    command.make_context(" ".join(words), left)


# --- docker-compose.yml -------------------------------------------------------------------------------------------


def test_the_compose_file_keeps_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*checker, str(COMPOSE)], capture_output=True, text=True, timeout=50, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "version" not in compose()


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_compose_refuses_to_start_without_a_password(missing: str) -> None:
    with pytest.raises(LookupError, match=f"{missing} is missing a value: set it in .env"):
        compose(dict.fromkeys(SECRETS - {missing}, "given"))


def test_no_secret_stands_in_the_compose_file() -> None:
    required = set(re.findall(r"\$\{(\w+):\?([^}]*)\}", COMPOSE.read_text()))
    # What remains of every secret once nothing is put in for its variable.
    bare = re.sub(r"\$\{\w+:\?[^}]*\}", "", COMPOSE.read_text())

    assert required == {(name, "set it in .env") for name in SECRETS}
    assert re.findall(r"(?im)^.*(?:password|requirepass|_auth|secret|token)\b[^\w\n]*\w.*$", bare) == []
    assert re.findall(r"://\w*:([^@/\s]+)@", bare) == []


def test_containers_get_every_setting_and_nothing_else() -> None:
    given = set(service("worker")["environment"])

    assert given == set().union(*names_of_settings().values()) - NOT_FOR_CONTAINERS
    assert service("migrate")["environment"] == service("worker")["environment"]


def test_what_compose_sets_makes_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service("worker", dict.fromkeys(SECRETS, "9c1f"))["environment"].items():
        if value is not None:
            monkeypatch.setenv(name, value)
    healthcheck = service("worker")["healthcheck"]
    arq, check, worker_settings = healthcheck["test"][1:]

    made = import_string(worker_settings)

    assert (arq, check) == ("arq", "--check")
    # The key that it reads is missing for so long after a worker stopped: the others must not become unhealthy by it.
    assert seconds(healthcheck["interval"]) * healthcheck["retries"] > made["health_check_interval"] + 30
    assert (made["redis_settings"].host, made["redis_settings"].password) == ("redis", "9c1f")
    assert (url := load_settings().database_url) is not None
    assert url.get_secret_value() == "postgresql+asyncpg://worker:9c1f@postgres:5432/worker"


def test_workers_begin_on_a_migrated_database_and_a_redis_that_answers() -> None:
    services = compose()["services"]

    assert services["worker"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "postgres": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }
    assert services["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert (services["migrate"]["command"], services["migrate"]["restart"]) == (["worker", "db", "upgrade"], "no")
    assert_is_a_command(services["migrate"]["command"])
    assert all(services[name]["healthcheck"]["test"] for name in ("postgres", "redis", "worker"))


def test_two_workers_or_more_share_one_storage() -> None:
    worker = service("worker")
    mounts = dict(mount.split(":") for mount in worker["volumes"])

    assert worker["deploy"]["replicas"] >= 2
    # STORAGE_URL is the operator's to set: its default, in the folder that the image works in, is the volume.
    (folder,) = all_of("WORKDIR", stages()[-1])
    assert worker["environment"]["STORAGE_URL"] is None
    assert mounts == {"storage": f"{folder}/{Settings.model_fields['storage_url'].default}"}
    assert "storage" in compose()["volumes"]


@pytest.mark.parametrize("grace", [None, 0, 3600])
def test_compose_waits_longer_than_the_workers_grace_period(grace: int | None) -> None:
    told = {} if grace is None else {"SHUTDOWN_GRACE_SECONDS": str(grace)}
    period = service("worker", dict.fromkeys(SECRETS, "given") | told)["stop_grace_period"]

    # A parent of several processes kills them ten seconds after the grace period, and needs time for that.
    default = Settings.model_fields["shutdown_grace_seconds"].default
    assert seconds(period) == (default if grace is None else grace) + 60


@pytest.mark.parametrize("name", ["postgres", "redis", "migrate", "worker"])
def test_a_container_has_no_privileges_and_no_published_port(name: str) -> None:
    found = service(name)

    assert set(compose()["services"]) == {"postgres", "redis", "migrate", "worker"}
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not {"ports", "privileged", "network_mode", "cap_add"} & set(found)
    if "build" in found:  # the image says who runs it
        assert found["read_only"] is True
    else:
        assert found["user"] not in {"root", "0"}


# --- Procfile, Dockerfile, .dockerignore --------------------------------------------------------------------------


def test_every_process_of_the_procfile_is_a_command() -> None:
    processes = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())

    assert set(processes) == {"release", "worker"}
    assert processes["release"] == "worker db upgrade"
    for command in processes.values():
        assert_is_a_command(shlex.split(command))


def test_the_image_runs_a_worker_as_a_user_without_rights() -> None:
    final = stages()[-1]
    user, *_ = all_of("USER", final)[-1].split(":")
    (made,) = [part for run in all_of("RUN", final) for part in run.split("&&") if "useradd" in part]

    assert int(user) > 0
    assert f"--uid {user} " in made
    assert_is_a_command(json.loads(all_of("CMD", final)[-1]))
    assert final.index(Instruction("USER", all_of("USER", final)[-1])) > max(
        at for at, instruction in enumerate(final) if instruction.name in {"RUN", "COPY"}
    )


def test_the_image_is_built_with_the_uv_of_the_makefile_and_the_locked_versions() -> None:
    (wanted,) = re.findall(r"(?m)^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text())
    runs = all_of("RUN", stages()[1])

    assert [version for run in runs for version in re.findall(r"uv==(\S+)", run)] == [wanted]
    synced = [run for run in runs if "uv sync" in run]
    assert len(synced) == 2
    assert all({"--locked", "--no-dev", "--no-editable"} <= set(run.split()) for run in synced)
    assert all("--extra local" in run for run in synced)


def test_the_image_has_a_python_that_the_project_supports() -> None:
    (least,) = re.findall(r">=3\.(\d+)", PROJECT["requires-python"])
    base = all_of("FROM", stages()[0])[0]
    (found,) = re.findall(r"^python:3\.(\d+)-slim\b", base)

    assert int(found) >= int(least)
    assert [all_of("FROM", stage)[0].split()[0] for stage in stages()[1:]] == ["base", "base"]


def test_the_image_holds_dependencies_in_a_layer_of_their_own_and_no_build_tool() -> None:
    _, build, final = stages()
    sources = {"repositories", "worker"}
    first_source = next(at for at, (name, rest) in enumerate(build) if name == "COPY" and rest.split()[0] in sources)
    dependencies = next(at for at, (name, rest) in enumerate(build) if name == "RUN" and "--no-install-project" in rest)

    assert dependencies < first_source
    assert all_of("COPY", final) == ["--from=build /opt/worker /opt/worker"]
    assert not re.search(r"\b(pip|uv|apt-get|apk)\b", " ".join(all_of("RUN", final)))
    assert "PYTHONUNBUFFERED=1" in " ".join(all_of("ENV", final))


def test_no_secret_can_get_into_the_image() -> None:
    for stage in stages():
        declared = " ".join(all_of("ARG", stage) + all_of("ENV", stage))
        assert not re.search(r"(?i)password|secret|token|api_?key|database_url|redis_url", declared)
    copied = {source for rest in all_of("COPY", stages()[1]) for source in rest.split()[:-1]}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    assert rules[0] == "*"  # all is left out ...
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied  # ... but what is copied
    assert all((ROOT / source).exists() for source in copied)


def test_image_and_labels_carry_the_version_of_the_project() -> None:
    assert service("worker")["image"] == f"{PROJECT['name']}:{PROJECT['version']}"
    assert service("migrate")["image"] == service("worker")["image"]
    assert f'image.version="{PROJECT["version"]}"' in " ".join(all_of("LABEL", stages()[-1]))


# --- .env.example -------------------------------------------------------------------------------------------------


class Variable(NamedTuple):
    name: str
    value: str
    comment: str
    commented_out: bool


def variables() -> list[Variable]:
    """What ``.env.example`` documents, in order."""
    found, comment = list[Variable](), list[str]()
    for line in (ROOT / ".env.example").read_text().splitlines():
        if assignment := re.fullmatch(r"(# )?([A-Z0-9_]+)=(.*)", line):
            found.append(Variable(assignment[2], assignment[3], " ".join(comment), bool(assignment[1])))
            comment = []
        elif line.startswith("# "):
            comment.append(line.removeprefix("# "))
        else:  # a heading or an empty line
            comment = []
    return found


def names_of_settings() -> dict[str, list[str]]:
    """The variables that each field is read from, the preferred one first."""
    names = {}
    for name, field in Settings.model_fields.items():
        choices = field.validation_alias
        names[name] = [str(choice) for choice in choices.choices] if isinstance(choices, AliasChoices) else []
        assert not names[name] or names[name][0] == variable_name(name)
        names[name] = names[name] or [variable_name(name)]
    return names


def bounds(field: str) -> str:
    """The range of a numeric field, in words; empty if it has none."""
    limits = {type(limit): limit for limit in Settings.model_fields[field].metadata}
    least, above, most = limits.get(Ge), limits.get(Gt), limits.get(Le)
    if above is not None and most is not None:
        return f"above {above.gt:,} and at most {most.le:,}."
    if least is not None and most is not None:
        return f"{least.ge:,} to {most.le:,}."
    return "" if least is None else f"{least.ge:,} or more."


def test_every_setting_is_documented_once_and_no_other() -> None:
    assert sorted(variable.name for variable in variables() if variable.commented_out) == sorted(
        variable_name(name) for name in Settings.model_fields
    )
    blank = {variable.name: variable.value for variable in variables() if not variable.commented_out}
    assert blank == dict.fromkeys(SECRETS, "")


def test_the_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    by_field = {variable.name.lower(): variable.value for variable in variables() if variable.commented_out}
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    uncommented = tmp_path / ".env"
    uncommented.write_text("".join(f"{name}={value}\n" for name, value in by_field.items() if value))

    read = Settings(_env_file=uncommented)

    assert {name for name, value in by_field.items() if not value} == {
        name for name, default in defaults.items() if default in (None, ())
    }
    for name, value in by_field.items():
        if value:
            assert name in read.model_fields_set
            assert getattr(read, name) == defaults[name], name


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_a_setting_is_explained_with_its_unit_its_range_and_its_synonyms(name: str) -> None:
    (comment,) = [variable.comment for variable in variables() if variable.name == variable_name(name)]
    (unit,) = re.findall(r"_(seconds|bytes|days)$", name) or [""]

    assert comment.startswith(Settings.model_fields[name].description or "nothing")
    assert bounds(name) in comment
    assert unit in comment.lower()
    for synonym in names_of_settings()[name][1:]:
        assert f"Also read as {synonym}." in comment


# --- documents ----------------------------------------------------------------------------------------------------


def commands_in(document: str) -> Iterator[str]:
    """Every ``worker ...`` in code: between backticks, or in a fenced block, there also inside a container."""
    text = (ROOT / document).read_text()
    fenced = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", text))
    for line in [*spans, *(line for block in fenced for line in block.splitlines())]:
        if command := re.search(r"(?:^|\bworker )(worker [a-z].*)", line):
            yield command[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_exists(document: str) -> None:
    for command in commands_in(document):
        assert_is_a_command(shlex.split(command, comments=True))


def test_the_operators_page_names_real_commands() -> None:
    assert len(set(commands_in("docs/operating.md"))) >= 5


class Event(NamedTuple):
    level: str
    fields: frozenset[str]


def logged_events() -> dict[str, Event]:
    """Every event that the code can log, with its level and its fields."""
    found: dict[str, Event] = {}
    for path in sorted([*ROOT.glob("worker/**/*.py"), *ROOT.glob("repositories/**/*.py")]):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"debug", "info", "warning", "error", "exception", "critical"}
                and _is_a_log(node.func.value)
            ):
                if path.name == "server_wait.py":  # its events are named by its callers, below
                    continue
                level = node.func.attr.replace("exception", "error")
                # What comes as a whole (``**about``) is what stands on every line of a job.
                fields = {keyword.arg.replace("exc_info", "exception") for keyword in node.keywords if keyword.arg}
                for name in _texts(node.args[0], tree):
                    assert name not in found, f"{name} is logged at two places: give one of them another name"
                    found[name] = Event(level, frozenset(fields))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ServerWait":
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                (waiting,), (recovered,) = _texts(node.args[0], tree), _texts(node.args[1], tree)
                found[waiting] = Event("warning", frozenset(fields | {"reason"}))
                found[recovered] = Event("info", frozenset(fields | {"tries", "seconds"}))
    return found


def _is_a_log(value: ast.expr) -> bool:
    """Whether a call's object is a logger: ``log``, ``_LOG``, or ``self._log`` with fields bound to it."""
    name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
    return name.strip("_").lower() == "log"


def _texts(argument: ast.expr, tree: ast.Module) -> list[str]:
    """The texts that an argument can be: itself, or what its variable is set to in the same module."""
    if isinstance(argument, ast.Name):
        values = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == argument.id for target in node.targets)
        ]
    else:
        values = [argument]
    constants = [node.value for value in values for node in ast.walk(value) if isinstance(node, ast.Constant)]
    texts = [text for text in constants if isinstance(text, str)]
    assert texts, f"an event with no name that can be read: {ast.dump(argument)}"
    return texts


def test_every_log_event_is_in_the_operators_table_with_its_level_and_fields() -> None:
    rows = re.findall(r"(?m)^\| `([a-z_.]+)` \| (\w+) \|(.*?)\| .+ \|$", (ROOT / "docs/operating.md").read_text())

    documented = {name: Event(level, frozenset(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows}

    assert len(documented) == len(rows)
    assert documented == logged_events()


@pytest.mark.parametrize("page", ["docs/operating.md", "docs/documents.md", "docs/anythingllm.md"])
def test_a_page_for_operators_names_only_settings_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    known = set().union(*names_of_settings().values()) | SECRETS | OF_ANYTHINGLLM

    assert set(re.findall(r"`?\b([A-Z]+(?:_[A-Z0-9]+)+)\b", text)) <= known


def test_what_the_operators_page_says_of_defaults_is_so() -> None:
    text = " ".join((ROOT / "docs/operating.md").read_text().split())
    default = {name: field.default for name, field in Settings.model_fields.items()}
    lease = timedelta(seconds=default["lease_seconds"] + default["rescue_seconds"])

    assert f"within {lease.total_seconds():.0f} s by default" in text
    assert f"{default['database_pool_size'] + default['database_max_overflow'] + 5} by default" in text
