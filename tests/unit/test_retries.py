"""When a reply says how long to wait."""

import pytest

from worker.retries import asked_to_wait


@pytest.mark.parametrize(
    "said",
    [
        "",
        "soon",
        "nan",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
    ],
)
def test_a_wait_that_no_clock_knows_is_as_good_as_none(said: str) -> None:
    assert asked_to_wait({"retry-after": said}) is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("-7", 0.0),
        ("inf", 3_600.0),
        ("99999999999999999999", 3_600.0),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0.0),
    ],
)
def test_a_wait_is_an_hour_at_most_and_never_less_than_nothing(said: str, seconds: float) -> None:
    assert asked_to_wait({"retry-after": said}) == seconds
