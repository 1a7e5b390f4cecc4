"""How PostgreSQL is reached, as the settings say it."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

import repositories
import worker
from repositories.engine import make_engine
from worker.settings import Settings, SettingsError, load_settings

DIRECT = "postgresql+asyncpg://me:secret@db/name"
POOLED = "postgresql+asyncpg://me:secret@pool:6432/name"


def _text(url: SecretStr | None) -> str | None:
    return None if url is None else url.get_secret_value()


def test_the_flag_marks_the_url_of_the_primary_and_of_the_replica_but_not_the_direct_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", POOLED)
    monkeypatch.setenv("DATABASE_REPLICA_URL", POOLED)
    monkeypatch.setenv("DATABASE_DIRECT_URL", DIRECT)
    monkeypatch.setenv("DATABASE_PGBOUNCER", "true")

    settings = load_settings()

    assert _text(settings.database_url) == _text(settings.database_replica_url) == f"{POOLED}?pgbouncer=true"
    assert _text(settings.database_direct_url) == _text(settings.migration_url) == DIRECT


@pytest.mark.parametrize(
    ("given", "migrations"),
    [
        ({"database_url": DIRECT}, DIRECT),
        ({"database_url": POOLED, "database_pgbouncer": True}, None),
        ({"database_url": f"{POOLED}?pgbouncer=true"}, None),
        ({}, None),
    ],
)
def test_migrations_run_where_a_connection_is_ones_own(given: dict[str, object], migrations: str | None) -> None:
    url = Settings.model_validate({"database_url": None} | given).migration_url

    assert _text(url) == migrations


def test_a_mark_that_is_neither_true_nor_false_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{DIRECT}?pgbouncer=maybe")

    with pytest.raises(SettingsError, match="pgbouncer in a database's URL must be true or false"):
        load_settings()


def test_the_mark_is_ours_and_never_reaches_the_server() -> None:
    engine = make_engine(f"{DIRECT}?pgbouncer=true&ssl=require", pool_size=1, max_overflow=0, name="test")

    assert engine.url == make_url(f"{DIRECT}?ssl=require")


def test_nothing_outside_the_migrations_belongs_to_a_session() -> None:
    """Behind PgBouncer the next statement's session may be another one."""
    session_scoped = re.compile(
        r"pg_(try_)?advisory_(lock|unlock)(_shared)?\b|\bLISTEN \w|\bUNLISTEN\b|\bWITH HOLD\b|\bCREATE TEMP"
        r"|\bPREPARE \w|[\"']SET (?!LOCAL|TRANSACTION)\w+|[\"']RESET |AUTOCOMMIT|\bset_config\([^)]*, false\)"
    )
    packages = [Path(str(package.__file__)).parent for package in (repositories, worker)]
    # The examples make and drop a database of their own, which no transaction can.
    modules = [path for package in packages for path in package.rglob("*.py") if path.parent.name != "examples"]
    found = [str(path) for path in modules if session_scoped.search(path.read_text())]

    assert len(modules) > 50
    # One statement, one commit: get_autocommit and Lane, which make transactions of it where there is PgBouncer.
    expected = {"database.py", "lane.py"}
    assert {Path(path).name for path in found if "/migrations/" not in path} == expected
    assert found, "the migrations set their session's time limit: this test would have to find that"
