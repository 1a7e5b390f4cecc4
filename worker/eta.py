"""When jobs start or end, as far as what was measured tells: shapes and words.

An estimate always says how far off it may be, and there is none where nothing was measured to tell it from. How they
are reckoned stands in ``repositories/jobs/positions.py``.
"""

from collections.abc import Iterable
from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from repositories.jobs.figures import RestEstimate, WaitEstimate

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


class Eta(BaseModel):
    """When a waiting job starts, or a running one ends.

    Attributes:
        event: which of the two.
        seconds: from now.
        low_seconds, high_seconds: four times in five it is between them.
        measured: how many jobs (waiting) or items (running) the pace was taken from.
        position: where a waiting job stands in its queue, from 1.
    """

    job_id: UUID
    event: Literal["start", "end"]
    seconds: float
    low_seconds: float
    high_seconds: float
    measured: int
    position: int | None = None

    def __str__(self) -> str:
        about, low, high = (in_words(number) for number in (self.seconds, self.low_seconds, self.high_seconds))
        return f"about {about}" if low == high else f"about {about} ({low} to {high})"


def estimates(waits: Iterable[WaitEstimate], rests: Iterable[RestEstimate]) -> dict[UUID, Eta]:
    """Return an estimate of each job whose pace and spread are known; there is none of the others."""
    found = {
        wait.job_id: Eta(
            job_id=wait.job_id,
            event="start",
            seconds=wait.seconds,
            low_seconds=wait.low_seconds,
            high_seconds=wait.high_seconds,
            measured=wait.finished,
            position=wait.position,
        )
        for wait in waits
        if wait.seconds is not None and wait.low_seconds is not None and wait.high_seconds is not None
    }
    for rest in rests:
        found[rest.job_id] = Eta(
            job_id=rest.job_id,
            event="end",
            seconds=rest.seconds,
            low_seconds=rest.low_seconds,
            high_seconds=rest.high_seconds,
            measured=rest.finished,
        )
    return found


def in_words(seconds: float) -> str:
    """Say a time as coarsely as an estimate may be trusted: ``40 s``, ``12 min``, ``1 h 20 min``, ``3 days``."""
    if seconds < 1:
        return "less than 1 s" if seconds > 0 else "0 s"
    step = 1 if seconds < 10 else 5 if seconds < _MINUTE else _MINUTE  # noqa: PLR2004 - the steps of rounding
    rounded = round(seconds / step) * step
    if rounded < _MINUTE:
        return f"{rounded} s"
    if rounded < _HOUR:
        return f"{rounded // _MINUTE} min"
    if rounded < 2 * _DAY:
        hours, rest = divmod(rounded, _HOUR)
        minutes = rest // (10 * _MINUTE) * 10
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"  # noqa: PLR2004 - likewise
    return f"{round(rounded / _DAY)} days"
