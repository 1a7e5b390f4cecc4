"""A job that was running when its worker died may be the reason: the record counts that, and says who runs alone.

Safe while older code runs: both columns have constant defaults, so nothing is rewritten. An older worker's rescue
counts a crash for every job, as before, and keeps nothing apart; what is kept apart it may run beside others.

Outside a transaction: every statement may be run again, because an interrupted step starts from its beginning.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


# The table is locked for a moment only; rather fail and be run again than queue everybody behind a long reader.
QUICKLY = """
DO $$ BEGIN
    SET LOCAL lock_timeout = '10s';
    ALTER TABLE jobs {changes};
END $$
"""
COLUMNS = {"suspicion": "integer NOT NULL DEFAULT 0", "isolated": "boolean NOT NULL DEFAULT false"}
INDEX = "ix_jobs_suspects"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        _alter([f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items()])
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON jobs (id) WHERE status = 'queued' AND suspicion >= 2")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        _alter([f"DROP COLUMN IF EXISTS {name}" for name in COLUMNS])


def _alter(changes: list[str]) -> None:
    op.execute(QUICKLY.format(changes=", ".join(changes)))
