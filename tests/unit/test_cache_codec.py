"""How values become bytes: what the contract suite does not already say of every backend."""

import json
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from repositories.cache.codec import Codec, ForeignValueError

HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.times().map(lambda at: at.replace(fold=0)),
    st.timedeltas(),
    st.datetimes(timezones=st.none() | st.just(UTC)).map(lambda at: at.replace(fold=0)),
)
ANYTHING = st.recursive(
    HASHABLE | st.builds(bytearray, st.binary()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(HASHABLE | st.just("$"), inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)


def _typed(value: Any) -> Any:
    """Return the value with every type in it written down: 1 == True == 1.0 must not pass for the same."""
    match value:
        case dict():
            return dict, [(_typed(key), _typed(item)) for key, item in value.items()]
        case list() | tuple():
            return type(value), [_typed(item) for item in value]
        case set() | frozenset():
            return type(value), sorted(map(repr, map(_typed, value)))
        case _:
            return type(value), value


@given(value=ANYTHING)
def test_any_value_comes_back_with_every_type_in_it(value: Any) -> None:
    codec = Codec()

    assert _typed(codec.decode(codec.encode("key", value))) == _typed(value)


def test_what_is_stored_is_strict_json_in_a_versioned_envelope() -> None:
    raw = Codec().encode("key", {"at": date(2026, 2, 3), "x": float("nan")})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(raw, parse_constant=refuse) == {
        "v": 1,
        "d": {"at": {"$": "date", "v": "2026-02-03"}, "x": {"$": "float", "v": "nan"}},
    }


@pytest.mark.parametrize(("value", "raw"), [(0, b"0"), (-7, b"-7"), (2**63 - 1, b"9223372036854775807")])
def test_a_whole_number_of_64_bits_stands_bare_so_that_redis_can_count(value: int, raw: bytes) -> None:
    assert Codec().encode("key", value) == raw


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "someone else"


def test_subclasses_come_back_as_their_plain_types() -> None:
    pair = namedtuple("pair", "a b")  # noqa: PYI024 - an untyped one is what old code caches
    values = [Name("ada"), OrderedDict(a=1), pair(1, 2), [pair(Name("x"), b"y")]]
    codec = Codec()

    back = codec.decode(codec.encode("key", values))

    assert _typed(back) == _typed(["ada", {"a": 1}, (1, 2), [("x", b"y")]])


def test_a_time_zone_comes_back_as_its_offset_at_that_moment() -> None:
    codec = Codec()
    summer = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Rome"))

    back = codec.decode(codec.encode("key", summer))

    assert back == summer
    assert back.utcoffset() == timedelta(hours=2)
    assert codec.decode(codec.encode("key", time(1, 2, tzinfo=UTC))) == time(1, 2, tzinfo=UTC)
    with pytest.raises(ValueError, match="cannot cache 'key': 12:00:00 has a zone but, without a date, no UTC offset"):
        codec.encode("key", summer.timetz())


class Login(BaseModel):
    password: SecretStr


def test_a_secret_in_a_model_is_refused_and_not_quoted() -> None:
    with pytest.raises(TypeError, match=r"cannot cache 'login': it holds a pydantic\.types\.SecretStr") as refused:
        Codec().encode("login", Login(password=SecretStr("hunter2")))

    assert "hunter2" not in str(refused.value)


def test_the_size_limit_counts_bytes_as_stored() -> None:
    codec = Codec(max_value_bytes=20)

    assert codec.encode("key", "éé!!") == '{"v":1,"d":"éé!!"}'.encode()
    with pytest.raises(ValueError, match="'key': its value takes 21 bytes, at most 20 may be"):
        codec.encode("key", "ééé!")
    with pytest.raises(ValueError, match="at least 1"):
        Codec(max_value_bytes=0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not_ours"),
        (b"007", "not_ours"),
        (b"+1", "not_ours"),
        (b"9223372036854775808", "not_ours"),
        (b"1\n", "not_ours"),
        (b"\x80\x05.", "not_ours"),
        (b'{"d":1,"v":1}', "not_ours"),
        (b'{"v":1,"d":1', "not_ours"),
        (b'{"v":1,"d":1}trailing', "not_ours"),
        (b'{"v":1,"d":{"$":["a"],"v":1}}', "not_ours"),
        (b'{"v":1,"d":{"$":"decimal","v":"x"}}', "not_ours"),
        (b'{"v":1,"d":{"$":"set","v":[[]]}}', "not_ours"),
        (b'{"v":1,"d":{"$":"timedelta","v":[1e300,0,0]}}', "not_ours"),
        (b'{"v":1,"d":' + b"[" * 100_000, "not_ours"),
        (b'{"v":2,"d":{"$":"tensor","v":1}}', "unknown_version"),
    ],
)
def test_bytes_that_are_not_ours_are_told_apart_from_a_newer_version(raw: bytes, reason: str) -> None:
    with pytest.raises(ForeignValueError) as refused:
        Codec().decode(raw)

    assert refused.value.reason == reason
