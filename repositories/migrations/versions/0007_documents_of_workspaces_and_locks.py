"""What stands in each workspace, and locks; the local engine stores the same content as often as it is asked to.

Safe while older code runs, but for the local engine's duplicates: until older code is replaced, two of its workers that
store the same content at the same moment store it twice. What the local engine holds goes on the new record with the
size that its items tell. On the way down a content that stands in a workspace more than once keeps the copy that was
stored first, because older code allows one.

Up is one transaction: the new tables are empty, and the others are locked for moments only. Down builds an index of a
filled table, so it is outside a transaction, and an interrupted step is run again from its beginning.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATE = sa.Enum("reserved", "stored", name="documentstate", native_enum=False, length=16)

# A key of the local engine is a job's id and a position. What is not searchable yet is an item that goes on.
STANDING = """
INSERT INTO workspace_documents (workspace_id, name, sha256, size, media_type, locations, job_id, position, attempt,
                                 state, reserved_at, stored_at)
SELECT documents.workspace_id, left(documents.name, 4096), documents.sha256,
       CASE WHEN item.result->>'bytes' ~ '^[0-9]{1,15}$' THEN CAST(item.result->>'bytes' AS bigint) ELSE 0 END,
       left(documents.media_type, 255), ARRAY[CAST(documents.id AS text)], part.job_id, part.position,
       greatest(coalesce(item.attempt, 1), 1), 'stored', documents.created_at, documents.embedded_at
FROM documents
CROSS JOIN LATERAL (
    SELECT CASE WHEN key ~ known THEN CAST(left(key, 36) AS uuid) END,
           CASE WHEN key ~ known THEN CAST(substr(key, 38) AS integer) END
    FROM (VALUES ('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]{1,9}$')) AS spelling (known)
) AS part (job_id, position)
LEFT JOIN job_items AS item ON item.job_id = part.job_id AND item.position = part.position
WHERE part.job_id IS NOT NULL AND documents.embedded_at IS NOT NULL AND documents.sha256 ~ '^[0-9a-f]{64}$'
      AND documents.name <> '' AND documents.media_type <> ''
ON CONFLICT DO NOTHING
"""
LEAVE_ONE = """
DELETE FROM documents USING documents AS first
WHERE first.workspace_id = documents.workspace_id AND first.sha256 = documents.sha256
      AND (first.embedded_at IS NULL, first.created_at, first.id)
          < (documents.embedded_at IS NULL, documents.created_at, documents.id)
"""
ONE_CONTENT = """
DO $$ BEGIN
    ALTER TABLE documents DROP CONSTRAINT IF EXISTS uq_documents_workspace_id_sha256;
    ALTER TABLE documents
        ADD CONSTRAINT uq_documents_workspace_id_sha256 UNIQUE USING INDEX uq_documents_workspace_id_sha256_next;
END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.create_table(
        "locks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=False),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 255", name=op.f("ck_locks_name_length")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_locks")),
    )
    _create_documents()
    op.execute(STANDING)
    # Last, and in the order in which those who store a document take them: from here on nobody reads either.
    op.drop_constraint("uq_documents_workspace_id_sha256", "documents")
    op.add_column("workspaces", sa.Column("embedded_at", postgresql.TIMESTAMP(timezone=True), nullable=True))


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS uq_documents_workspace_id_sha256_next")
        op.execute(LEAVE_ONE)
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY uq_documents_workspace_id_sha256_next ON documents (workspace_id, sha256)"
        )
        op.execute(ONE_CONTENT)
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.drop_table("workspace_documents")
    op.drop_column("workspaces", "embedded_at")
    op.drop_table("locks")


def _create_documents() -> None:
    table = "workspace_documents"
    op.create_table(
        table,
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("locations", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("is_copy", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("shared", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column(
            "reserved_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("stored_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('reserved', 'stored')", name=op.f(f"ck_{table}_state_known")),
        sa.CheckConstraint(
            "(state = 'stored') = (stored_at IS NOT NULL) AND (state = 'stored') = (cardinality(locations) > 0)",
            name=op.f(f"ck_{table}_stored_has_time_and_locations"),
        ),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 4096", name=op.f(f"ck_{table}_name_length")),
        sa.CheckConstraint("length(source) BETWEEN 1 AND 255", name=op.f(f"ck_{table}_source_length")),
        sa.CheckConstraint("length(media_type) BETWEEN 1 AND 255", name=op.f(f"ck_{table}_media_type_length")),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f(f"ck_{table}_sha256_spelled")),
        sa.CheckConstraint("size >= 0 AND position >= 0 AND attempt >= 1", name=op.f(f"ck_{table}_numbers_in_range")),
        sa.CheckConstraint("cardinality(locations) <= 1000", name=op.f(f"ck_{table}_locations_in_range")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f(f"fk_{table}_workspace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("job_id", "position", name=op.f(f"uq_{table}_job_id_position")),
    )
    op.create_index(
        f"uq_{table}_content",
        table,
        ["workspace_id", "sha256"],
        unique=True,
        postgresql_where=sa.text("NOT is_copy"),
    )
    op.create_index(f"ix_{table}_copies", table, ["workspace_id", "sha256"], postgresql_where=sa.text("is_copy"))
    op.create_index(f"ix_{table}_name", table, ["workspace_id", sa.text("md5(name)")])
    op.create_index(f"ix_{table}_page", table, ["workspace_id", "id"])
