"""The tables of the roll-up: what ended, hour by hour and day by day, and what became of the jobs of each hour.

``repositories/jobs/rollup.py`` writes them and says what a bucket is. ``scope`` says whose jobs a row counts: ``all``,
or ``workspace:`` and the workspace's id. Rows outlive the jobs they counted. Importing :mod:`repositories.models` maps
these tables with all others.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, Double, Integer, PrimaryKeyConstraint, SmallInteger
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import SchemaItem

from repositories.mapping import Base


class Ends:
    """The columns of what ended in a closed hour or day: how many in each state, and a histogram of their durations.

    One histogram for the three states, because durations are asked for by type only. ``buckets`` are places on a
    logarithmic scale, ``counts`` the jobs in each, ``seconds`` the sum of the durations. Jobs that never started are in
    the states and not in the histogram. Rows are written once.
    """

    scope: Mapped[str]
    type: Mapped[str]
    completed: Mapped[int]
    failed: Mapped[int]
    cancelled: Mapped[int]
    seconds: Mapped[float] = mapped_column(Double)
    buckets: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    counts: Mapped[list[int]] = mapped_column(ARRAY(Integer))


def _rules(time: str) -> tuple[SchemaItem, ...]:
    """The key of a table of ends, in the order in which it is asked, and what is true of its rows."""
    return (
        PrimaryKeyConstraint("scope", time, "type"),
        CheckConstraint(
            "least(completed, failed, cancelled) >= 0 AND completed + failed + cancelled >= 1 AND seconds >= 0",
            name="counts_in_range",
        ),
        CheckConstraint("cardinality(buckets) = cardinality(counts)", name="buckets_have_counts"),
    )


class HourOfStatistics(Ends, Base):
    """What ended in one closed hour."""

    __tablename__ = "statistics"
    __table_args__ = _rules("hour")

    hour: Mapped[datetime]


class DayOfStatistics(Ends, Base):
    """What ended in one closed day (UTC): the sum of its hours."""

    __tablename__ = "statistics_days"
    __table_args__ = _rules("day")

    day: Mapped[datetime]


class HourOfCreation(Base):
    """What has become so far of the jobs that were created in one hour and ended in a closed one.

    ``timed`` counts the jobs that had started, ``seconds`` sums up their durations. The roll-up adds to a row for as
    long as jobs of its hour end.
    """

    __tablename__ = "statistics_created"

    scope: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(primary_key=True)
    completed: Mapped[int]
    failed: Mapped[int]
    cancelled: Mapped[int]
    timed: Mapped[int]
    seconds: Mapped[float] = mapped_column(Double)

    __table_args__ = (
        CheckConstraint(
            "completed >= 0 AND failed >= 0 AND cancelled >= 0 AND timed >= 0 AND seconds >= 0", name="counts_in_range"
        ),
        {"postgresql_with": {"fillfactor": 80}},  # rows grow while jobs of their hour end: in place
    )
