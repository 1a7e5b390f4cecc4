"""Statistics of days beside those of hours; one histogram for the three states.

The table ``statistics`` is written anew: a row is a type's hour, with a count for each state, which is a third of the
rows. ``statistics_days`` adds up the hours of closed days. Until older code is replaced, its roll-up and its reading of
ended jobs fail; jobs themselves are not touched. What was counted is kept, both ways.

Durations are no longer known by state. On the way down they are shared out, the shortest to the cancelled jobs and the
longest to the completed ones, so that the counts of every state and the durations of every type come out as they were.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATUS = sa.Enum(
    "pending",
    "queued",
    "processing",
    "completed",
    "failed",
    "cancelled",
    name="jobstatus",
    native_enum=False,
    length=16,
)

# Bucket -1000 held the jobs that never started: they are in the states, and no longer in the histogram.
HOURS = """
WITH states AS (
    SELECT scope, hour, type,
           coalesce(sum(jobs) FILTER (WHERE status = 'completed'), 0) AS completed,
           coalesce(sum(jobs) FILTER (WHERE status = 'failed'), 0) AS failed,
           coalesce(sum(jobs) FILTER (WHERE status = 'cancelled'), 0) AS cancelled,
           sum(seconds) AS seconds
    FROM statistics_before GROUP BY scope, hour, type
), parts AS (
    SELECT scope, hour, type, bucket, CAST(sum(count) AS integer) AS jobs
    FROM statistics_before CROSS JOIN LATERAL unnest(buckets, counts) AS part (bucket, count)
    WHERE bucket <> -1000 GROUP BY scope, hour, type, bucket
), histograms AS (
    SELECT scope, hour, type, array_agg(bucket ORDER BY bucket) AS buckets, array_agg(jobs ORDER BY bucket) AS counts
    FROM parts GROUP BY scope, hour, type
)
INSERT INTO statistics (scope, hour, type, completed, failed, cancelled, seconds, buckets, counts)
SELECT scope, hour, type, completed, failed, cancelled, seconds, coalesce(buckets, '{}'), coalesce(counts, '{}')
FROM states LEFT JOIN histograms USING (scope, hour, type)
ORDER BY scope, hour, type
"""
DAYS = """
WITH hours AS (
    SELECT *, date_trunc('day', hour, 'UTC') AS day FROM statistics
    WHERE hour < (SELECT date_trunc('day', max(hour) + interval '1 hour', 'UTC') FROM statistics WHERE scope = 'all')
), states AS (
    SELECT scope, day, type, sum(completed) AS completed, sum(failed) AS failed, sum(cancelled) AS cancelled,
           sum(seconds) AS seconds
    FROM hours GROUP BY scope, day, type
), parts AS (
    SELECT scope, day, type, bucket, CAST(sum(count) AS integer) AS jobs
    FROM hours CROSS JOIN LATERAL unnest(buckets, counts) AS part (bucket, count)
    GROUP BY scope, day, type, bucket
), histograms AS (
    SELECT scope, day, type, array_agg(bucket ORDER BY bucket) AS buckets, array_agg(jobs ORDER BY bucket) AS counts
    FROM parts GROUP BY scope, day, type
)
INSERT INTO statistics_days (scope, day, type, completed, failed, cancelled, seconds, buckets, counts)
SELECT scope, day, type, completed, failed, cancelled, seconds, coalesce(buckets, '{}'), coalesce(counts, '{}')
FROM states LEFT JOIN histograms USING (scope, day, type)
ORDER BY scope, day, type
"""
# The jobs of an hour and type stand in a line, once by their buckets (those that never started first) and once by their
# states; where a bucket and a state overlap in it, they share that many jobs. It is done for each workspace and for the
# jobs of none (all jobs without those of the workspaces), and all jobs are added up from these, so that they still fit.
# No joins: PostgreSQL would know too little of these rows to join them in a good order.
HISTOGRAM_A_STATE = """
WITH shares AS (
    SELECT CASE scope WHEN 'all' THEN 'none' ELSE scope END AS owner, 1 AS sign, * FROM statistics_before
    UNION ALL
    SELECT 'none', -1, * FROM statistics_before WHERE scope <> 'all'
), parts AS (
    SELECT owner, hour, type, bucket, sum(sign * part.jobs) AS jobs, sum(sign * part.completed) AS completed,
           sum(sign * part.failed) AS failed, sum(sign * part.cancelled) AS cancelled,
           sum(sign * part.seconds) AS seconds
    FROM shares
    CROSS JOIN LATERAL (SELECT CAST(coalesce(sum(count), 0) AS integer) AS jobs FROM unnest(counts) AS count) AS timed
    CROSS JOIN LATERAL unnest(
        CAST(-1000 AS smallint) || buckets,
        (shares.completed + shares.failed + shares.cancelled - timed.jobs) || counts,
        ARRAY[shares.completed], ARRAY[shares.failed], ARRAY[shares.cancelled], ARRAY[shares.seconds]
    ) AS part (bucket, jobs, completed, failed, cancelled, seconds)
    GROUP BY owner, hour, type, bucket
), line AS (
    SELECT owner, hour, type, bucket,
           sum(jobs) OVER so_far - jobs AS begins, sum(jobs) OVER so_far AS ends,
           sum(cancelled) OVER of_all AS cancelled, sum(failed) OVER of_all AS failed,
           sum(completed) OVER of_all AS completed, greatest(sum(seconds) OVER of_all, 0) AS seconds,
           sum(jobs) FILTER (WHERE bucket <> -1000) OVER of_all AS timed
    FROM parts
    WINDOW of_all AS (PARTITION BY owner, hour, type), so_far AS (PARTITION BY owner, hour, type ORDER BY bucket)
), cells AS (
    SELECT owner, hour, type, status, bucket, seconds, timed,
           least(line.ends, state.ends) - greatest(line.begins, state.begins) AS jobs
    FROM line CROSS JOIN LATERAL (VALUES
        ('cancelled', 0, cancelled),
        ('failed', cancelled, cancelled + failed),
        ('completed', cancelled + failed, cancelled + failed + completed)
    ) AS state (status, begins, ends)
), every AS (
    SELECT scope, hour, type, status, bucket, CAST(sum(jobs) AS integer) AS jobs,
           sum(CASE WHEN bucket = -1000 THEN 0 ELSE seconds * jobs / timed END) AS seconds
    FROM cells CROSS JOIN LATERAL unnest(ARRAY['all', NULLIF(owner, 'none')]) AS scope
    WHERE scope IS NOT NULL AND jobs > 0 GROUP BY scope, hour, type, status, bucket
)
INSERT INTO statistics (scope, hour, type, status, jobs, seconds, buckets, counts)
SELECT scope, hour, type, status, sum(jobs), sum(seconds),
       array_agg(bucket ORDER BY bucket), array_agg(jobs ORDER BY bucket)
FROM every GROUP BY scope, hour, type, status
"""


def upgrade() -> None:
    _set_aside()
    for table, time in (("statistics", "hour"), ("statistics_days", "day")):
        op.create_table(
            table,
            sa.Column("scope", sa.Text(), nullable=False),
            sa.Column(time, postgresql.TIMESTAMP(timezone=True), nullable=False),
            sa.Column("type", sa.Text(), nullable=False),
            sa.Column("completed", sa.Integer(), nullable=False),
            sa.Column("failed", sa.Integer(), nullable=False),
            sa.Column("cancelled", sa.Integer(), nullable=False),
            *_histogram(),
            sa.CheckConstraint(
                "least(completed, failed, cancelled) >= 0 AND completed + failed + cancelled >= 1 AND seconds >= 0",
                name=op.f(f"ck_{table}_counts_in_range"),
            ),
            _paired(table),
            sa.PrimaryKeyConstraint("scope", time, "type", name=op.f(f"pk_{table}")),
        )
    op.execute(HOURS)
    op.execute(DAYS)
    op.drop_table("statistics_before")


def downgrade() -> None:
    _set_aside()
    op.create_table(
        "statistics",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", STATUS, nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        *_histogram(),
        sa.CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name=op.f("ck_statistics_status_final")),
        sa.CheckConstraint("jobs >= 1 AND seconds >= 0", name=op.f("ck_statistics_counts_in_range")),
        _paired("statistics"),
        sa.PrimaryKeyConstraint("scope", "hour", "type", "status", name=op.f("pk_statistics")),
    )
    op.execute(HISTOGRAM_A_STATE)
    op.drop_table("statistics_before")
    op.drop_table("statistics_days")


def _set_aside() -> None:
    """Put the table under another name, so that the new one can be filled from it. Readers wait for moments only."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.rename_table("statistics", "statistics_before")
    op.execute("ALTER INDEX pk_statistics RENAME TO pk_statistics_before")


def _histogram() -> list[sa.Column[object]]:
    return [
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("buckets", postgresql.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("counts", postgresql.ARRAY(sa.Integer()), nullable=False),
    ]


def _paired(table: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(
        "cardinality(buckets) = cardinality(counts)", name=op.f(f"ck_{table}_buckets_have_counts")
    )
