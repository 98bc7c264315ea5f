"""a grant remembers that its refresh token was taken over, whatever became of the takeover

An attempt that took over and sent nothing gives its claim back; the one before it may have sent,
and may yet bring the token's successor.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from worker.store.types import Instant

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("grants", sa.Column("retaken_fp", sa.LargeBinary(), nullable=True))
    op.add_column("grants", sa.Column("unproven_until", Instant(), nullable=True))


def downgrade() -> None:
    op.drop_column("grants", "unproven_until")
    op.drop_column("grants", "retaken_fp")
