"""what is remembered of a refresh token leaves out its generation, which nobody asks for

The table grows by a row with each renewal that rotates, and eight bytes of each went into the
write-ahead log for nothing.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _generation(nullable=True)


def downgrade() -> None:
    op.execute("UPDATE seen_refresh_tokens SET generation = 0 WHERE generation IS NULL")
    _generation(nullable=False)


def _generation(*, nullable: bool) -> None:
    with op.batch_alter_table("seen_refresh_tokens") as table:
        table.alter_column("generation", existing_type=sa.BigInteger(), nullable=nullable)
