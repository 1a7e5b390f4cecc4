"""Abridging JSON while it arrives gives what cutting it afterwards would."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.anythingllm.abridging import Abridger

CHARACTERS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('"\\/\n\t\x00é漢😀')))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), CHARACTERS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
)


def abridged(text: bytes, keep: int, chunk: int) -> bytes:
    abridger = Abridger(keep)
    parts = [abridger.feed(text[at : at + chunk]) for at in range(0, len(text), chunk)]
    return b"".join([*parts, abridger.finish()])


def cut(value: Any, keep: int) -> Any:
    if isinstance(value, str):
        return value[:keep]
    if isinstance(value, list):
        return [cut(each, keep) for each in value]
    if isinstance(value, dict):
        return {name[:keep]: cut(each, keep) for name, each in value.items()}
    return value


@given(value=VALUES, keep=st.integers(3, 12), chunk=st.integers(1, 40), ascii_only=st.booleans())
def test_abridging_first_and_parsing_then_is_parsing_first_and_cutting_then(
    value: Any, keep: int, chunk: int, ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert json.loads(abridged(text, keep, chunk)) == cut(value, keep)


@given(text=st.text(st.sampled_from('a"é😀\\'), min_size=1_000, max_size=2_000), chunk=st.integers(1, 997))
def test_a_long_text_is_cut_between_characters_never_within_one(text: str, chunk: int) -> None:
    for sent in (json.dumps({"t": text, "after": 1}), json.dumps({"t": text, "after": 1}, ensure_ascii=False)):
        out = abridged(sent.encode(), 100, chunk)
        assert json.loads(out) == {"t": text[:100], "after": 1}
        assert len(out) < 1_300


@given(noise=st.binary(max_size=300), keep=st.integers(1, 5), chunk=st.integers(1, 50))
def test_what_is_no_json_passes_and_never_grows(noise: bytes, keep: int, chunk: int) -> None:
    assert len(abridged(noise, keep, chunk)) <= len(noise)


def test_a_long_string_is_never_held() -> None:
    abridger = Abridger(10)
    abridger.feed(b'{"pageContent": "')
    for _ in range(100):
        abridger.feed(b"word " * 2_000)
        assert len(abridger._held) < 200
    assert abridger.feed(b'", "last": 1}') + abridger.finish() == b'", "last": 1}'


def test_a_text_that_is_cut_off_is_no_json() -> None:
    whole = json.dumps({"text": "word " * 100}).encode()
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(abridged(whole[:-1], 10, 7))
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(abridged(whole[:50], 10, 7))


def test_at_least_one_character_is_kept() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Abridger(0)
