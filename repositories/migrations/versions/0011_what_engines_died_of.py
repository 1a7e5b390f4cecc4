"""Since when a job's engine is away, and how often an engine died while it read an item.

Safe while older code runs: the columns are empty or have a constant default, so nothing is rewritten. An older worker
puts jobs back without saying since when, and so without end, as before.

Outside a transaction: every statement may be run again, because an interrupted step starts from its beginning.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMNS = {
    "jobs": {"away_since": "timestamptz", "away_reason": "text"},
    "job_items": {"crashes": "integer NOT NULL DEFAULT 0"},
}

# The table is locked for a moment only; rather fail and be run again than queue everybody behind a long reader.
QUICKLY = """
DO $$ BEGIN
    SET LOCAL lock_timeout = '10s';
    ALTER TABLE {table} {changes};
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, columns in COLUMNS.items():
            _alter(table, [f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns.items()])


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for table, columns in COLUMNS.items():
            _alter(table, [f"DROP COLUMN IF EXISTS {name}" for name in columns])


def _alter(table: str, changes: list[str]) -> None:
    op.execute(QUICKLY.format(table=table, changes=", ".join(changes)))
