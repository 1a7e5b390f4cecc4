"""What may be asked of a column, and how a wrong question is answered; nothing here needs a database."""

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy.dialects import postgresql

from repositories.errors import InvalidFilterError, RepositoryError
from repositories.filters import MAX_TEXT, MAX_VALUES, Filters, conditions
from repositories.models import Job, Passage

JOB_ID = "01a20c21-c349-77ee-a3f8-36c03af62079"


def sql(filters: Filters) -> list[str]:
    return [str(term.compile(dialect=postgresql.dialect())) for term in conditions(Job, filters)]  # type: ignore[no-untyped-call]  # SQLAlchemy's


def bound(filters: Filters) -> list[object]:
    (term,) = conditions(Job, filters)
    return list(term.compile().params.values())


def refusal(filters: Filters) -> InvalidFilterError:
    with pytest.raises(InvalidFilterError) as caught:
        conditions(Job, filters)
    assert isinstance(caught.value, RepositoryError)
    assert isinstance(caught.value, ValueError)  # for callers that only know that a value was wrong
    return caught.value


def test_a_plain_value_means_equal_a_list_any_of_it_and_none_no_value() -> None:
    assert bound({"priority": 3}) == [3]
    assert bound({"priority": [3, 4]}) == [[3, 4]]
    assert sql({"workspace_id": None}) == ["jobs.workspace_id IS NULL"]


def test_every_operator_of_a_mapping_must_hold() -> None:
    assert len(sql({"priority": {"ge": 3, "lt": 7}, "queue": "default"})) == 3


def test_a_list_travels_as_one_parameter_however_long_it_is() -> None:
    short, long = sql({"priority": {"in": [1]}}), sql({"priority": {"in": list(range(5_000))}})

    assert short == long


@pytest.mark.parametrize(
    ("field", "given", "meant"),
    [
        ("id", JOB_ID, UUID(JOB_ID)),
        ("created_at", "2025-03-01T12:00:00Z", datetime(2025, 3, 1, 12, tzinfo=UTC)),
        ("progress", 50, 50.0),
    ],
)
def test_ids_and_times_may_be_given_as_text_and_whole_numbers_for_fractions(
    field: str, given: object, meant: object
) -> None:
    assert bound({field: given}) == [meant]


def test_an_unknown_field_is_an_error_that_names_those_there_are() -> None:
    error = refusal({"colour": "red"})

    assert error.field == "colour"
    assert re.search(r"no such column of jobs; there are .*metadata.*workspace_id", str(error))


@pytest.mark.parametrize(
    ("field", "operator", "allowed"),
    [
        ("priority", "approximately", "eq, ne, is_null, lt, le, gt, ge, between, in"),
        ("priority", "ilike", "eq, ne, is_null, lt, le, gt, ge, between, in"),
        ("type", "contains", "eq, ne, is_null, lt, le, gt, ge, between, in, ilike"),
        ("metadata", "lt", "eq, ne, is_null, contains"),
        ("depends_on", "in", "eq, ne, is_null, contains"),
    ],
)
def test_an_operator_that_the_column_has_not_is_an_error_that_names_those_it_has(
    field: str, operator: str, allowed: str
) -> None:
    error = refusal({field: {operator: 1}})

    assert error.field == field
    assert str(error) == f"{field}: no operator {operator!r} here; there are {allowed}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "high"),
        ("priority", "5"),
        ("priority", True),
        ("priority", 2**31),
        ("priority", -(2**31) - 1),
        ("priority", {"ge": None}),
        ("priority", {"between": [1, "2"]}),
        ("priority", {"in": [1, "2"]}),
        ("progress", "half"),
        ("has_dependents", 1),
        ("status", "sleeping"),
        ("id", "no id"),
        ("type", 7),
        ("type", "nul \x00"),
        ("type", "half a pair \ud800"),
        ("type", "x" * (MAX_TEXT + 1)),
        ("created_at", "yesterday"),
        ("created_at", "2025-03-01T12:00:00"),  # no zone
        ("created_at", 5),
        ("depends_on", {"contains": ["no id"]}),
        ("metadata", {"contains": {"when": datetime(2025, 3, 1, tzinfo=UTC)}}),
        ("metadata", {"contains": {"share": float("nan")}}),
        ("metadata", {"contains": {"text": "x" * MAX_TEXT}}),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_an_error_that_names_the_column(field: str, value: object) -> None:
    error = refusal({field: value})

    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert len(str(error)) < 300, "a long value is cut"


@pytest.mark.parametrize(
    "asked",
    [{"between": 3}, {"between": [1]}, {"between": [1, 2, 3]}, {"in": 3}, {"in": "123"}, {"is_null": 1}, {}],
)
def test_an_operator_with_a_value_of_the_wrong_shape_is_an_error(asked: dict[str, object]) -> None:
    assert refusal({"priority": asked}).field == "priority"


def test_a_pattern_that_ends_within_an_escape_is_an_error() -> None:
    assert "backslash" in str(refusal({"type": {"ilike": "50\\"}}))
    assert len(sql({"type": {"ilike": "50\\\\"}})) == 1


def test_a_json_value_too_deep_to_write_is_an_error_and_no_crash() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    assert refusal({"metadata": {"contains": {"deep": deep}}}).field == "metadata"


def test_the_number_of_values_is_bounded_for_one_field_and_for_all_together() -> None:
    assert len(sql({"priority": [1] * MAX_VALUES})) == 1
    assert str(MAX_VALUES) in str(refusal({"priority": [1] * (MAX_VALUES + 1)}))
    half = [1] * (MAX_VALUES // 2)
    assert str(MAX_VALUES) in str(refusal({"priority": half, "attempt": {"in": half}, "crashes": 1}))


def test_a_column_of_postgresqls_own_type_can_only_be_asked_whether_it_is_there() -> None:
    with pytest.raises(InvalidFilterError, match="there are is_null"):
        conditions(Passage, {"search": "kestrel"})


def test_the_mapped_attributes_name_is_understood_like_the_public_one() -> None:
    asked = {"contains": {"a": 1}}
    assert sql({"job_metadata": asked}) == sql({"metadata": asked})
