"""a kept token tells which grant held it when it came

A token that another grant holds is that one's to spend, also after it has spent it: the kept copy
must never be sent.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("candidates", sa.Column("held_by", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("candidates", "held_by")
