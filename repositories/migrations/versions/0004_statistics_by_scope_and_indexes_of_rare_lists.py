"""Statistics of all jobs beside those of each workspace, and by the hour of creation; indexes of rarely filled lists.

The table ``statistics`` is written anew: a row is a whole histogram, so that a big service's roll-up has a tenth of
the rows. Until older code is replaced, its roll-up and its reading of ended jobs fail; jobs themselves are not touched.
What was counted is kept, though the jobs may be gone; of these jobs, those that are still there are counted by their
hour of creation as well.

The indexes come first, concurrently and outside a transaction; then the tables, in one. An interrupted step is run
again from its beginning.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_workspace_live": "(workspace_id, created_at, id) WHERE status IN ('pending', 'queued', 'processing')",
    "ix_jobs_workspace_failed": "(workspace_id, created_at, id) WHERE status IN ('failed', 'cancelled')",
    "ix_jobs_type_created": "(type, created_at, id)",
}

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

ENDS_BY_SCOPE = """
INSERT INTO statistics (scope, hour, type, status, jobs, seconds, buckets, counts)
SELECT scope, hour, type, status, sum(jobs), sum(seconds),
       array_agg(bucket ORDER BY bucket), array_agg(jobs ORDER BY bucket)
FROM (
    SELECT scope, hour, type, status, bucket, CAST(sum(jobs) AS integer) AS jobs, sum(seconds) AS seconds
    FROM statistics_before
    CROSS JOIN LATERAL unnest(ARRAY['all', 'workspace:' || NULLIF(workspace_id, '')]) AS scope
    WHERE scope IS NOT NULL
    GROUP BY scope, hour, type, status, bucket
) AS buckets
GROUP BY scope, hour, type, status
"""
CREATED_BY_SCOPE = """
INSERT INTO statistics_created (scope, hour, type, completed, failed, cancelled, timed, seconds)
SELECT scope, date_trunc('hour', created_at, 'UTC'), type,
       count(*) FILTER (WHERE status = 'completed'),
       count(*) FILTER (WHERE status = 'failed'),
       count(*) FILTER (WHERE status = 'cancelled'),
       count(started_at),
       coalesce(sum(CASE WHEN started_at IS NOT NULL
                    THEN greatest(extract(epoch FROM completed_at - started_at), 0.001) END), 0)
FROM jobs CROSS JOIN LATERAL unnest(ARRAY['all', 'workspace:' || workspace_id]) AS scope
WHERE scope IS NOT NULL
  AND completed_at < (SELECT max(hour) + interval '1 hour' FROM statistics WHERE scope = 'all')
GROUP BY 1, 2, 3
"""
# The sum of a histogram's durations is shared out among its buckets by their counts. Jobs of no workspace are what is
# left of all jobs when those of the workspaces are taken away.
ENDS_BY_BUCKET = """
WITH parts AS (
    SELECT scope, hour, type, status, bucket, count, seconds * count / jobs AS seconds,
           CASE WHEN scope = 'all' THEN 1 ELSE -1 END AS sign
    FROM statistics_before CROSS JOIN LATERAL unnest(buckets, counts) AS part (bucket, count)
    WHERE scope <> 'workspace:'
)
INSERT INTO statistics (hour, type, status, workspace_id, bucket, jobs, seconds)
SELECT hour, type, status, substr(scope, 11), bucket, count, seconds FROM parts WHERE scope <> 'all'
UNION ALL
SELECT hour, type, status, '', bucket, sum(sign * count), greatest(sum(sign * seconds), 0)
FROM parts GROUP BY hour, type, status, bucket HAVING sum(sign * count) > 0
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON jobs {definition}")
    _set_aside()
    op.create_table(
        "statistics",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", STATUS, nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("buckets", postgresql.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("counts", postgresql.ARRAY(sa.Integer()), nullable=False),
        *_rules(),
        sa.CheckConstraint(
            "cardinality(buckets) = cardinality(counts)", name=op.f("ck_statistics_buckets_have_counts")
        ),
        sa.PrimaryKeyConstraint("scope", "hour", "type", "status", name=op.f("pk_statistics")),
    )
    op.create_table(
        "statistics_created",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.Column("timed", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "completed >= 0 AND failed >= 0 AND cancelled >= 0 AND timed >= 0 AND seconds >= 0",
            name=op.f("ck_statistics_created_counts_in_range"),
        ),
        sa.PrimaryKeyConstraint("scope", "hour", "type", name=op.f("pk_statistics_created")),
        postgresql_with={"fillfactor": 80},
    )
    op.execute(ENDS_BY_SCOPE)
    op.execute(CREATED_BY_SCOPE)
    op.drop_table("statistics_before")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    _set_aside()
    op.create_table(
        "statistics",
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", STATUS, nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        *_rules(),
        sa.PrimaryKeyConstraint("hour", "type", "status", "workspace_id", "bucket", name=op.f("pk_statistics")),
    )
    op.execute(ENDS_BY_BUCKET)
    op.drop_table("statistics_before")
    op.drop_table("statistics_created")


def _set_aside() -> None:
    """Put the table under another name, so that the new one can be filled from it. Readers wait for moments only."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.rename_table("statistics", "statistics_before")
    op.execute("ALTER INDEX pk_statistics RENAME TO pk_statistics_before")


def _rules() -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name=op.f("ck_statistics_status_final")),
        sa.CheckConstraint("jobs >= 1 AND seconds >= 0", name=op.f("ck_statistics_counts_in_range")),
    ]
