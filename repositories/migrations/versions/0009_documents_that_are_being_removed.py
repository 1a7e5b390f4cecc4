"""Removal is a state of a workspace's document, with a remover; the newest job that found a document is noted.

Safe while older code runs: the columns are empty at first, and old rows are checked without a lock that stops writers.
Until older code is replaced, its workers take a document that is being removed for one that stands, as they did before;
the sweep at the end of a job of theirs whose own document is just being removed meets a state that it does not know,
and that attempt is tried again seconds later. They do not finish what another worker began to remove.

On the way down what is being removed counts as stored; the next upload drops from the record what the engine has no
more.

Outside a transaction: every statement may be run again, because an interrupted step starts from its beginning.
"""

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLE = "workspace_documents"
COLUMNS = {"found_by": "uuid", "remover_id": "uuid", "remover_attempt": "integer", "removing_at": "timestamptz"}
CHECKS = {
    "state_known": "state IN ('reserved', 'stored', 'removing')",
    "stored_has_time_and_locations": (
        "(state = 'reserved') = (stored_at IS NULL) AND (state = 'reserved') = (cardinality(locations) = 0)"
    ),
    "removing_has_remover": (
        "(state = 'removing') = (remover_id IS NOT NULL) AND (remover_id IS NULL) = (remover_attempt IS NULL) "
        "AND (remover_id IS NULL) = (removing_at IS NULL)"
    ),
}
CHECKS_BEFORE = {
    "state_known": "state IN ('reserved', 'stored')",
    "stored_has_time_and_locations": (
        "(state = 'stored') = (stored_at IS NOT NULL) AND (state = 'stored') = (cardinality(locations) > 0)"
    ),
}
STORED_AGAIN = f"""
UPDATE {TABLE} SET state = 'stored', remover_id = NULL, remover_attempt = NULL, removing_at = NULL
WHERE state = 'removing'
"""  # noqa: S608 - a constant of this module
INDEX = "ix_workspace_documents_removing"


# The table is locked for moments only; rather fail and be run again than queue everybody behind a long reader.
QUICKLY = """
DO $$ BEGIN
    SET LOCAL lock_timeout = '10s';
    ALTER TABLE {table} {changes};
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        _exchange(CHECKS, CHECKS, [f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items()])
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON {TABLE} (remover_id) WHERE state = 'removing'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(STORED_AGAIN)
        _exchange(CHECKS, CHECKS_BEFORE, [])
        _alter([f"DROP COLUMN IF EXISTS {name}" for name in COLUMNS])


def _exchange(old: dict[str, str], new: dict[str, str], more: list[str]) -> None:
    """Put rules in the place of others, then check old rows beside the writers."""
    dropped = [f"DROP CONSTRAINT IF EXISTS ck_{TABLE}_{name}" for name in old]
    added = [f"ADD CONSTRAINT ck_{TABLE}_{name} CHECK ({rule}) NOT VALID" for name, rule in new.items()]
    _alter([*more, *dropped, *added])
    for name in new:
        op.execute(f"ALTER TABLE {TABLE} VALIDATE CONSTRAINT ck_{TABLE}_{name}")


def _alter(changes: list[str]) -> None:
    op.execute(QUICKLY.format(table=TABLE, changes=", ".join(changes)))
