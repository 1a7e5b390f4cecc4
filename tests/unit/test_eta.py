"""Estimates in words, and that there is none without a basis."""

from uuid import UUID

import pytest

from repositories.jobs.figures import RestEstimate, WaitEstimate
from worker.eta import Eta, estimates, in_words

ID, OTHER = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.2, "less than 1 s"),
        (4.4, "4 s"),
        (41, "40 s"),
        (58, "1 min"),
        (95, "2 min"),
        (3_500, "58 min"),
        (3_580, "1 h"),
        (4_900, "1 h 20 min"),
        (80_000, "22 h"),
        (260_000, "3 days"),
    ],
)
def test_a_time_is_told_as_coarsely_as_an_estimate_may_be_trusted(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_an_estimate_says_how_far_off_it_may_be() -> None:
    eta = Eta(job_id=ID, event="start", seconds=41, low_seconds=28, high_seconds=61, measured=50)
    assert str(eta) == "about 40 s (30 s to 1 min)"
    assert str(eta.model_copy(update={"low_seconds": 39, "high_seconds": 42})) == "about 40 s"


def test_without_a_pace_or_without_its_spread_there_is_no_estimate() -> None:
    no_pace = WaitEstimate(job_id=ID, position=1, seconds=None, finished=0, window_seconds=600)
    no_spread = no_pace.model_copy(update={"seconds": 5.0, "finished": 4})
    told = no_spread.model_copy(update={"finished": 5, "low_seconds": 1.0, "high_seconds": 9.0})
    rest = RestEstimate(job_id=OTHER, items_left=3, finished=9, seconds=6.0, low_seconds=5.0, high_seconds=7.0)

    assert estimates([no_pace], []) == estimates([no_spread], []) == {}
    both = estimates([told], [rest])
    assert (both[ID].event, both[ID].position, both[ID].measured) == ("start", 1, 5)
    assert (both[OTHER].event, both[OTHER].position, both[OTHER].measured) == ("end", None, 9)
