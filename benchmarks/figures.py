"""Reading results: medians with their range, and ratios, of what a run wrote down."""

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    least: float
    most: float
    rounds: int

    def text(self, digits: int = 0) -> str:
        """The median, with the range if there was more than one round."""
        if self.rounds == 1:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


def as_ratio(ratio: float) -> str:
    """A ratio as people write it: two digits below one, one below ten."""
    return f"{ratio:.{2 if ratio < 1 else 1 if ratio < 10 else 0}f}x"


class Results:
    """The figures of one run, by measure, system and name."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.systems: list[str] = list(results["plan"]["systems"])
        self._figures = results["figures"]
        self._systems = results["systems"]

    def title(self, system: str) -> str:
        """The system's name for people."""
        return str(self._systems[system]["title"])

    def about(self, system: str, what: str) -> Any:
        """One of the system's properties."""
        return self._systems[system][what]

    def spread(self, measure: str, system: str, name: str) -> Spread | None:
        """A figure over the rounds; ``None`` if it was not measured, or failed in all of them."""
        values = [float(figure["values"][name]) for figure in self._of(measure, system) if not figure["error"]]
        return Spread(statistics.median(values), min(values), max(values), len(values)) if values else None

    def values(self, measure: str, system: str) -> dict[str, Any] | None:
        """All that the last measurement of this kind gave."""
        found = [figure["values"] for figure in self._of(measure, system) if not figure["error"]]
        return found[-1] if found else None

    def failed(self, measure: str, system: str) -> bool:
        """Whether a measurement of this kind was tried and gave nothing."""
        tried = self._of(measure, system)
        return bool(tried) and all(figure["error"] for figure in tried)

    def _of(self, measure: str, system: str) -> list[Any]:
        return [figure for figure in self._figures if (figure["measure"], figure["system"]) == (measure, system)]
