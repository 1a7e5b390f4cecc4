"""No pattern of ours can be held up by the text that it is used on: twice the text costs about twice the time.

Every regular expression of both packages is found by importing all of their modules. Each is searched for in texts made
of its own parts, which is what backtracking needs: repeated characters and pairs, near-misses, long runs of one kind.
"""

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator

import pytest

import repositories
import worker
from worker.questions.normalising import normalise
from worker.questions.scoring import contains

LENGTH = 20_000
SECONDS = 1.0  # the quadratic ones take many: a hundredth of it is usual

_SKIPPED = {"repositories.migrations.env", "worker.__main__"}
_PIECES = [
    *(
        "a",
        "1",
        " ",
        ".",
        ",",
        ":",
        "/",
        "@",
        "?",
        "=",
        "-",
        "_",
        "#",
        "<",
        "(",
        "[",
        "{",
        "'",
        '"',
        "\\",
        "\n",
        "*",
        "|",
    ),
    *("1.", "1,", "1 ", "a.", "a-", "a/", "a ", "://", "http://a@", "?a=", "<a", "&#", "[a](", "![", "**a", "> "),
    *('"a",', "\r\n", "=?", "%2", "../", "a\u0301", "\u6f22", "a;b=", "\x1b["),
]


def modules() -> Iterator[str]:
    for package in (repositories, worker):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in _SKIPPED and ".migrations.versions" not in module.name:
                yield module.name


def patterns() -> dict[str, re.Pattern[str]]:
    found: dict[str, re.Pattern[str]] = {}
    for name in modules():
        for attribute, value in vars(importlib.import_module(name)).items():
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                found[f"{name}.{attribute}"] = value
    return found


PATTERNS = patterns()


def texts() -> Iterator[str]:
    for piece in dict.fromkeys(_PIECES):
        whole = (piece * (LENGTH // len(piece) + 1))[:LENGTH]
        yield whole
        yield f"{whole[:-1]}\x00"  # nearly to the end, and then no


TEXTS = list(texts())


def test_the_patterns_of_both_packages_are_found() -> None:
    assert len(PATTERNS) > 50


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_pattern_takes_no_longer_than_its_text_deserves(name: str) -> None:
    pattern = PATTERNS[name]
    for text in TEXTS:
        began = time.process_time()
        for _ in zip(pattern.finditer(text), range(LENGTH), strict=False):
            pass
        pattern.fullmatch(text)
        assert time.process_time() - began < SECONDS, f"{pattern.pattern!r} on {text[:20]!r}…"


@pytest.mark.parametrize("piece", [*dict.fromkeys(_PIECES), "1.1kg ", "1,000 ", "20 - 25 ", "10²"])
def test_reading_an_answer_takes_no_longer_than_it_deserves(piece: str) -> None:
    text = (piece * (LENGTH // len(piece) + 1))[:LENGTH]
    began = time.process_time()

    assert normalise(normalise(text)) == normalise(text)
    contains(text, "45 Nm")

    assert time.process_time() - began < SECONDS
