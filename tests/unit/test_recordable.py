"""Whatever comes from outside is recorded, or refused by an error of ours that names the place."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from repositories.errors import InvalidValueError
from repositories.recordable import DEEPEST, cleaned, encoded, recordable

ID = UUID("01a23073-4645-751d-a000-ff87772ada09")


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    NUL = "a\x00b"


class Model(BaseModel):
    at: datetime


@dataclass
class Point:
    x: float


class Text(str):
    __slots__ = ()


RECORDED_AS = [
    ("a\x00b", "a\ufffdb"),
    ("cut \ud83d", "cut \ufffd"),
    ("\ud83d\ude00", "\U0001f600"),  # two halves make a whole
    ("\ufffe", "\ufffe"),
    (r"no \u0000 at all", r"no \u0000 at all"),
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (2**70, 2**70),
    (True, True),
    (Decimal("1.50"), "1.50"),
    (Decimal("NaN"), "NaN"),
    (ID, str(ID)),
    (datetime(2026, 1, 1), "2026-01-01T00:00:00+00:00"),  # noqa: DTZ001 - a time without a zone is the subject
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5))), "2026-01-01T00:00:00+05:00"),
    (date(2026, 1, 1), "2026-01-01"),
    (time(1, 2), "01:02:00"),
    (timedelta(minutes=1), 60.0),
    (Path("a/x"), "a/x"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Word.NUL, "a\ufffdb"),
    (Text("x"), "x"),
    ((1, 2), [1, 2]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    (Model(at=datetime(2026, 1, 1, tzinfo=UTC)), {"at": "2026-01-01T00:00:00+00:00"}),
    (Point(math.nan), {"x": "NaN"}),
    ({1: "a", None: "b", ID: "d", "e\x00": "f"}, {"1": "a", "null": "b", str(ID): "d", "e\ufffd": "f"}),
]


@pytest.mark.parametrize(("value", "expected"), RECORDED_AS)
def test_a_value_is_recorded_as_the_table_says(value: Any, expected: Any) -> None:
    assert recordable({"deep": [value]}) == {"deep": [expected]}
    assert json.loads(encoded({"deep": [value]})) == {"deep": [expected]}


@pytest.mark.parametrize("value", [b"bytes", object(), 1j, int, 2**5_000, {(1, 2): "x"}, {"a\x00": 1, "a\ufffd": 2}])
def test_what_has_no_reading_is_refused_and_its_place_named(value: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^metadata\.list\[1\]"):
        recordable({"metadata": {"list": [0, value]}})


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(InvalidValueError, match=f"more than {DEEPEST}"):
        recordable(loop)


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_a_value_that_is_too_deep_is_refused(depth: int) -> None:
    value: Any = "\x00"
    for _ in range(depth):
        value = [value]

    with pytest.raises(InvalidValueError, match=f"more than {DEEPEST}"):
        encoded(value)


any_text = st.text(st.characters(codec=None, categories=None))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | any_text
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | st.timedeltas()
    | st.sampled_from([*Colour, *Level, *Word])
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(any_text | st.integers() | st.none(), inner)
        | st.tuples(inner, inner)
        | st.sets(st.integers() | any_text)
    ),
    max_leaves=20,
)


@given(anything)
def test_what_is_recorded_is_recordable_and_stays_so(value: Any) -> None:
    try:
        once = recordable(value)
    except InvalidValueError as error:
        assert "two keys" in str(error)  # noqa: PT017 - nothing else of these may be refused
        return
    assert recordable(once) == once
    assert json.loads(encoded(value)) == once
    text = encoded(value)
    assert "\\u0000" not in text.replace("\\\\", "")
    text.encode()


@given(any_text)
def test_cleaned_text_can_be_stored_and_stays_as_it_is(text: str) -> None:
    once = cleaned(text)

    assert "\x00" not in once
    once.encode()
    assert cleaned(once) == once


def test_a_message_is_cut() -> None:
    assert cleaned("x" * 10_000, 4_000) == "x" * 4_000
