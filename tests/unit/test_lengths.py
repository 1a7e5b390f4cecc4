"""Names and URLs that are too long are refused where they come in, and the message names them without their secrets."""

import pytest
from pydantic import ValidationError

from worker.lengths import LONGEST_PATH, LONGEST_URL, problem_of_path
from worker.payloads import LinkSource, ObjectSource
from worker.sources.errors import SourceError
from worker.sources.targets import target

PARTS = "/".join(["n" * 255] * 4)  # 1,023 characters


@pytest.mark.parametrize("source", [LinkSource, ObjectSource])
def test_a_url_is_taken_up_to_its_bound_and_named_beyond_it(source: type[LinkSource | ObjectSource]) -> None:
    place = "https://me:hunter2@example.org/manual/"
    whole = place + "a" * (LONGEST_URL - len(place))

    assert source(url=whole).url == whole
    with pytest.raises(ValidationError, match=r"https://\*\*\*@example.org/manual/a+… has 2,049 characters") as caught:
        source(url=whole + "a")
    assert "hunter2" not in caught.value.errors(include_input=False)[0]["msg"]


def test_the_bound_of_a_link_is_the_one_that_is_kept_when_it_is_fetched() -> None:
    with pytest.raises(SourceError, match="longer than 2,048"):
        target("https://example.org/" + "a" * LONGEST_URL)
    assert target("https://example.org/".ljust(LONGEST_URL, "a")).host == "example.org"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (PARTS, None),
        (f"{PARTS}/", None),
        (f"{PARTS}/n", "has 1,025 characters, of which 1,024 are taken"),
        ("é" * 127, None),
        (f"a/{'é' * 128}", "has a part of more than 255 bytes"),
        ("n" * LONGEST_PATH, "has a part of more than 255 bytes"),
    ],
)
def test_a_path_has_a_bound_and_each_of_its_parts(path: str, problem: str | None) -> None:
    assert problem_of_path(path) == problem
