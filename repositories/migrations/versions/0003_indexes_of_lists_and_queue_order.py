"""Check old rows against the constraints of 0002, and exchange indexes, without stopping anybody.

Outside a transaction: an index is built concurrently. Every statement may be run again, because an interrupted step
starts from its beginning, and an index whose building was interrupted is there but invalid, so it is dropped first.
"""

from collections.abc import Mapping

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CHECKS = (
    "ck_jobs_counts_in_range",
    "ck_jobs_parents_left_in_range",
    "ck_jobs_on_parent_failure_known",
    "ck_jobs_dependent_has_payload",
    "ck_jobs_waits_for_others",
    "ck_jobs_queue_position_in_range",
    "ck_jobs_queued_has_time",
    "ck_jobs_processing_has_start",
    "ck_jobs_caller_drives_no_payload",
    "ck_jobs_cancel_reason_has_request",
)

NEW = {
    "ix_jobs_queue_order": "(queue, priority, queued_at, id) WHERE status = 'queued' AND scheduled_at IS NULL",
    "ix_jobs_dependents": (
        "USING gin (depends_on) WHERE status IN ('pending', 'queued') AND cardinality(depends_on) > 0"
    ),
    "ix_jobs_created": "(created_at, id)",
    "ix_jobs_workspace_created": "(workspace_id, created_at, id)",
    "ix_jobs_live_created": "(created_at, id) WHERE status IN ('pending', 'queued', 'processing')",
    "ix_jobs_failed_created": "(created_at, id) WHERE status IN ('failed', 'cancelled')",
}
OLD = {
    "ix_jobs_queued": "(queue, priority, id) WHERE status = 'queued'",
    "ix_jobs_waiting": "USING gin (depends_on) WHERE status = 'pending'",
    "ix_jobs_workspace": "(workspace_id, id)",
}

PARTIAL_KEYS = """
DO $$ BEGIN
    ALTER TABLE jobs DROP CONSTRAINT IF EXISTS uq_jobs_idempotency_key;
    DROP INDEX IF EXISTS uq_jobs_idempotency_key;
    ALTER INDEX uq_jobs_idempotency_key_next RENAME TO uq_jobs_idempotency_key;
END $$
"""
FULL_KEYS = """
DO $$ BEGIN
    ALTER TABLE jobs DROP CONSTRAINT IF EXISTS uq_jobs_idempotency_key;
    DROP INDEX IF EXISTS uq_jobs_idempotency_key;
    ALTER TABLE jobs ADD CONSTRAINT uq_jobs_idempotency_key UNIQUE USING INDEX uq_jobs_idempotency_key_next;
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name in CHECKS:
            op.execute(f"ALTER TABLE jobs VALIDATE CONSTRAINT {name}")
        _exchange(OLD, NEW)
        _build_unique("uq_jobs_idempotency_key_next", "(idempotency_key) WHERE idempotency_key IS NOT NULL")
        op.execute(PARTIAL_KEYS)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _exchange(NEW, OLD)
        _build_unique("uq_jobs_idempotency_key_next", "(idempotency_key)")
        op.execute(FULL_KEYS)


def _exchange(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Build the new indexes before the old ones go, so that no statement is without one."""
    for name, definition in new.items():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON jobs {definition}")
    for name in old:
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def _build_unique(name: str, definition: str) -> None:
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON jobs {definition}")
