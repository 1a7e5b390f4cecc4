"""Queues that are paused or limited, and the index of the jobs that wait for theirs.

Safe while older code runs: it reads neither. Outside a transaction: the index is built concurrently. Every statement
may be run again, because an interrupted step starts from its beginning.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUES = """
CREATE TABLE IF NOT EXISTS queues (
    name text NOT NULL,
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    max_running integer,
    max_per_minute integer,
    tokens double precision,
    refilled_at timestamptz,
    CONSTRAINT pk_queues PRIMARY KEY (name),
    CONSTRAINT ck_queues_name_spelled CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    CONSTRAINT ck_queues_pause_has_author CHECK ((paused_at IS NULL) = (paused_by IS NULL)),
    CONSTRAINT ck_queues_reason_has_pause CHECK (pause_reason IS NULL OR paused_at IS NOT NULL),
    CONSTRAINT ck_queues_max_running_in_range CHECK (max_running BETWEEN 1 AND 100000),
    CONSTRAINT ck_queues_max_per_minute_in_range CHECK (max_per_minute BETWEEN 1 AND 600000),
    CONSTRAINT ck_queues_rate_has_bucket CHECK (
        (max_per_minute IS NULL) = (tokens IS NULL) AND (tokens IS NULL) = (refilled_at IS NULL)
    ),
    CONSTRAINT ck_queues_tokens_in_range CHECK (tokens >= 0)
)
"""
PARKED = """
CREATE INDEX CONCURRENTLY ix_jobs_parked ON jobs (queue, type, priority, queued_at, id)
WHERE status = 'queued' AND scheduled_at = 'infinity'::timestamptz
"""
# Older code would leave them where they are for ever: without their queue's row nothing keeps them back.
RELEASE = "UPDATE jobs SET scheduled_at = NULL WHERE status = 'queued' AND scheduled_at = 'infinity'::timestamptz"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(QUEUES)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_jobs_parked")
        op.execute(PARKED)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(RELEASE)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_jobs_parked")
        op.execute("DROP TABLE IF EXISTS queues")
