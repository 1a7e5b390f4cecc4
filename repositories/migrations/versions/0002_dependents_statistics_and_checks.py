"""What a job does when a parent fails, the roll-up of statistics, and more CHECK constraints.

Safe while older code runs: the column has a default, older code keeps the constraints as well, and old rows are not yet
checked against them (the next step does that without a lock that stops writers).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHECKS = {
    "ck_jobs_counts_in_range": "attempt >= 0 AND failures >= 0 AND crashes >= 0 AND version >= 1",
    "ck_jobs_parents_left_in_range": "parents_left BETWEEN 0 AND cardinality(depends_on)",
    "ck_jobs_on_parent_failure_known": "on_parent_failure IN ('fail', 'release')",
    "ck_jobs_dependent_has_payload": "cardinality(depends_on) = 0 OR payload IS NOT NULL",
    "ck_jobs_waits_for_others": "NOT id = ANY (depends_on)",
    "ck_jobs_queue_position_in_range": "queue_position >= 1",
    "ck_jobs_queued_has_time": "status <> 'queued' OR queued_at IS NOT NULL",
    "ck_jobs_processing_has_start": "status <> 'processing' OR started_at IS NOT NULL",
    "ck_jobs_caller_drives_no_payload": "status <> 'processing' OR (payload IS NULL) = (worker_id = 'caller')",
    "ck_jobs_cancel_reason_has_request": "cancel_reason IS NULL OR cancel_requested_at IS NOT NULL",
}


def upgrade() -> None:
    # The table is locked for moments only; rather fail and be run again than queue everybody behind a long reader.
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.add_column("jobs", sa.Column("on_parent_failure", sa.Text(), server_default="fail", nullable=False))
    for name, rule in CHECKS.items():
        op.create_check_constraint(op.f(name), "jobs", sa.text(rule), postgresql_not_valid=True)
    op.create_table(
        "statistics",
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "queued",
                "processing",
                "completed",
                "failed",
                "cancelled",
                name="jobstatus",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name=op.f("ck_statistics_status_final")),
        sa.CheckConstraint("jobs >= 1 AND seconds >= 0", name=op.f("ck_statistics_counts_in_range")),
        sa.PrimaryKeyConstraint("hour", "type", "status", "workspace_id", "bucket", name=op.f("pk_statistics")),
    )


def downgrade() -> None:
    op.drop_table("statistics")
    for name in CHECKS:
        op.drop_constraint(op.f(name), "jobs")
    op.drop_column("jobs", "on_parent_failure")
