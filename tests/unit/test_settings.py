"""Settings: every malformed variable is named, and no value that may be secret is repeated."""

import io
import json
from datetime import datetime

import pytest
import structlog
from pydantic import SecretStr

from worker.masking import mask
from worker.settings import LogFormat, LogLevel, SettingsError, load_settings
from worker.telemetry import configure_logging


def test_a_malformed_variable_is_named_with_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "many")
    monkeypatch.setenv("LEASE_SECONDS", "-1")

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert "WORKER_CONCURRENCY: should be a valid integer" in str(caught.value)
    assert "LEASE_SECONDS: should be greater than 0" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DATABASE_URL", "mysql://root:hunter2@host/db"), ("REDIS_URL", "http://:hunter2@host")],
)
def test_a_url_of_the_wrong_kind_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=f"{variable}: must begin with") as caught:
        load_settings()

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"), [("DATABASE_URL", "postgresql://h:port/db"), ("REDIS_URL", "redis://h:port/0")]
)
def test_a_url_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=f"{variable}: must be like"):
        load_settings()


def test_sslmode_of_a_hosted_platform_means_the_drivers_ssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://me:s%40cret@host/db?sslmode=require")

    url = load_settings().database_url

    assert url is not None
    assert url.get_secret_value() == "postgresql+asyncpg://me:s%40cret@host/db?ssl=require"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_any_spelling_of_a_postgresql_url_means_the_async_driver(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://me:hunter2@host/db")

    url = load_settings().database_url

    assert url is not None
    assert url.get_secret_value() == "postgresql+asyncpg://me:hunter2@host/db"
    assert "hunter2" not in repr(load_settings())


def test_names_of_the_older_service_are_read_as_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_FILE_SIZE", "1000")
    monkeypatch.setenv("MAX_CONCURRENT_JOBS", "7")

    settings = load_settings()

    assert (settings.max_file_bytes, settings.worker_concurrency) == (1_000, 7)


def test_an_empty_url_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.setenv("DATABASE_URL", "")

    assert (load_settings().redis_url, load_settings().database_url) == (None, None)


def test_a_lease_shorter_than_its_heartbeat_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "2")
    monkeypatch.setenv("HEARTBEAT_SECONDS", "2")

    with pytest.raises(SettingsError, match="HEARTBEAT_SECONDS"):
        load_settings()


def test_credentials_in_a_url_are_masked_wherever_it_stands_in_a_text() -> None:
    text = "cannot reach postgresql+asyncpg://me:s%40cret@host:5432/db nor redis://:pass@h"

    assert mask(text) == "cannot reach postgresql+asyncpg://***@host:5432/db nor redis://***@h"
    assert mask("postgresql://u:pa/ss@wo:rd@h/db") == "postgresql://***@h/db"
    assert mask("redis://h/0?password=sekret&db=1") == "redis://h/0?password=***&db=1"


def test_a_traceback_in_text_shows_no_local_variable() -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.TEXT, stream)

    def connect(password: str) -> int:
        return int("1" * len(password) + "x")

    try:
        connect(password=SecretStr("hunter2").get_secret_value())
    except ValueError:
        structlog.get_logger("test").exception("test.error")

    assert "test.error" in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue().replace('SecretStr("hunter2")', "")


@pytest.mark.parametrize(
    "value",
    [2**80, "a\udcffb", {1: "a key that is no text"}, "postgresql://me:hunter2@host/db \udcff"],
    ids=["a long number", "a name that is no text", "a key that is no text", "a URL in a name that is no text"],
)
def test_whatever_a_field_holds_its_line_is_json_with_a_time_and_without_a_password(value: object) -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.JSON, stream)

    structlog.get_logger("test").info("test.odd", value=value)

    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("test.odd", "info")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    assert "hunter2" not in stream.getvalue()
