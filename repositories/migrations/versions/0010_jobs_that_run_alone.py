"""A job that was running when its worker died may be the reason: the record counts that, and says who runs alone.

Safe while older code runs: both columns have constant defaults, so nothing is rewritten. An older worker's rescue
counts a crash for every job, as before, and keeps nothing apart; what is kept apart it may run beside others.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(
        "ALTER TABLE jobs ADD COLUMN suspicion integer NOT NULL DEFAULT 0, "
        "ADD COLUMN isolated boolean NOT NULL DEFAULT false"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("ALTER TABLE jobs DROP COLUMN suspicion, DROP COLUMN isolated")
