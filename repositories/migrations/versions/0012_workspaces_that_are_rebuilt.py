"""A workspace's vectors may belong to no document, and it may be rebuilt: the record says so.

Safe while older code runs: the columns are empty at first. An older worker does not wait while a workspace is rebuilt;
replace it before the first rebuild.

Outside a transaction: every statement may be run again, because an interrupted step starts from its beginning.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS = {"orphans_seen_at": "timestamptz", "rebuild": "jsonb", "rebuilt_at": "timestamptz"}

# The table is locked for a moment only; rather fail and be run again than queue everybody behind a long reader.
QUICKLY = """
DO $$ BEGIN
    SET LOCAL lock_timeout = '10s';
    ALTER TABLE workspaces {changes};
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        _alter([f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items()])


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _alter([f"DROP COLUMN IF EXISTS {name}" for name in COLUMNS])


def _alter(changes: list[str]) -> None:
    op.execute(QUICKLY.format(changes=", ".join(changes)))
