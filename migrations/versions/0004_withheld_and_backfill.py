"""withheld grants are found by an index, and a backfill's place is kept in the store

Building the index holds up writers of `grants` for as long as it takes to read the table once.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WITHHELD = sa.text("withheld IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_grants_withheld",
        "grants",
        ["tenant", "withheld_at"],
        unique=False,
        postgresql_where=WITHHELD,
        sqlite_where=WITHHELD,
    )
    with op.batch_alter_table("tenants") as batch_op:
        batch_op.add_column(
            sa.Column("backfill", sa.JSON(), server_default=sa.text("'{}'"), nullable=False)
        )


def downgrade() -> None:
    with op.batch_alter_table("tenants") as batch_op:
        batch_op.drop_column("backfill")
    op.drop_index(
        "ix_grants_withheld",
        table_name="grants",
        postgresql_where=WITHHELD,
        sqlite_where=WITHHELD,
    )
