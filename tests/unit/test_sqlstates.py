"""The table of PostgreSQL's codes: every code has a standing, and only a value that cannot be stored is given up."""

import re
from pathlib import Path

import asyncpg
import pytest
from asyncpg import exceptions
from sqlalchemy.exc import DBAPIError, StatementError

from repositories.errors import (
    STANDINGS,
    ConflictError,
    DatabaseRefusedError,
    DatabaseStateError,
    DatabaseUnavailableError,
    InvalidValueError,
    ReadOnlyError,
    SchemaOutdatedError,
    Standing,
    TransactionAbortedError,
    TransactionFailedError,
    standing,
    translated,
)

KNOWN = sorted(
    {
        (code, name)
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type)
        and len(code := str(getattr(kind, "sqlstate", ""))) == 5
        and code[:2] not in {"01", "02"}
    }
)
SQL = "UPDATE jobs SET result = 'secret'"


def test_the_driver_knows_some_hundred_codes() -> None:
    assert len({code for code, _ in KNOWN}) > 200


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("25006", Standing.AWAY),
        ("57P01", Standing.AWAY),
        ("57P03", Standing.AWAY),
        ("57P05", Standing.AWAY),
        ("53100", Standing.AWAY),
        ("53300", Standing.AWAY),
        ("58030", Standing.AWAY),
        ("08006", Standing.AWAY),
        ("25P03", Standing.AWAY),
        ("XX001", Standing.AWAY),
        ("55P03", Standing.BUSY),
        ("57014", Standing.BUSY),
        ("40001", Standing.BUSY),
        ("40P01", Standing.BUSY),
        ("22P05", Standing.NEVER),
        ("22003", Standing.NEVER),
        ("22021", Standing.NEVER),
        ("22032", Standing.NEVER),
        ("22P02", Standing.NEVER),
        ("23514", Standing.NEVER),
        ("54001", Standing.NEVER),
        ("42501", Standing.OURS),
        ("42P01", Standing.OURS),
        ("28P01", Standing.OURS),
        ("3D000", Standing.OURS),
        ("P0001", Standing.OURS),
        ("", Standing.OURS),
    ],
)
def test_each_code_has_the_standing_of_its_cause(code: str, expected: Standing) -> None:
    assert standing(code) is expected


@pytest.mark.parametrize(("code", "name"), KNOWN)
def test_only_a_value_that_cannot_be_stored_is_given_up(code: str, name: str) -> None:
    given_up = code[:2] in {"22", "23", "54"}

    assert (standing(code) is Standing.NEVER) is given_up, name


@pytest.mark.parametrize(("code", "name"), KNOWN)
def test_every_answer_becomes_an_error_of_ours_without_sql(code: str, name: str) -> None:
    answer = asyncpg.PostgresError.new({"C": code, "M": "the server's sentence"})
    wrapped = DBAPIError(SQL, {"result": "secret"}, answer)
    for raised in (answer, wrapped):
        with pytest.raises(Exception) as caught, translated():  # noqa: PT011 - which one is the subject
            raise raised
        error = caught.value

        kept = isinstance(error, DatabaseStateError | TransactionFailedError)
        assert kept is (standing(code) is not Standing.NEVER), name
        assert isinstance(error, DatabaseStateError | TransactionFailedError | ConflictError | InvalidValueError)
        assert "UPDATE" not in str(error)
        assert "secret" not in f"{error} {error!r}"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("25006", ReadOnlyError),
        ("25P02", TransactionFailedError),
        ("42P01", SchemaOutdatedError),
        ("42703", SchemaOutdatedError),
        ("40P01", TransactionAbortedError),
        ("57014", TransactionAbortedError),
        ("53300", DatabaseUnavailableError),
        ("42501", DatabaseRefusedError),
        ("23505", ConflictError),
        ("22021", InvalidValueError),
    ],
)
def test_a_code_becomes_the_error_that_callers_know(code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind), translated():
        raise asyncpg.PostgresError.new({"C": code, "M": "no"})


def test_what_sqlalchemy_cannot_bind_is_a_bad_value_without_sql() -> None:
    with pytest.raises(InvalidValueError) as caught, translated():
        raise StatementError("(builtins.TypeError) no", SQL, {"result": "secret"}, TypeError("set is no JSON"))

    assert str(caught.value) == "the database cannot take this value: set is no JSON"


def test_a_server_that_answered_is_not_said_to_be_silent() -> None:
    with pytest.raises(DatabaseUnavailableError, match=r"takes nothing now .*57P03"), translated():
        raise asyncpg.PostgresError.new({"C": "57P03", "M": "the database system is starting up"})


def test_no_entry_of_the_table_repeats_what_its_class_says() -> None:
    assert [code for code in STANDINGS if len(code) == 5 and STANDINGS.get(code[:2]) is STANDINGS[code]] == []


def test_the_operators_page_lists_the_table_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    rows = {
        cells[0]: set(re.findall(r"`([0-9A-Z]{2,5})`", cells[1]))
        for cells in (re.split(r" ?\| ?", line.strip("| ")) for line in page.splitlines() if line.startswith("| "))
        if cells[0] in set(Standing)
    }

    table = {str(each): {code for code, of in STANDINGS.items() if of is each} for each in Standing}
    assert rows == table
