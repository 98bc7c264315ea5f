"""a grant remembers when its refresh token was first claimed, however often a takeover followed

A grace counts from the first use of a token, not from the latest attempt at it.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from worker.store.types import Instant

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("grants", sa.Column("first_claimed_at", Instant(), nullable=True))


def downgrade() -> None:
    op.drop_column("grants", "first_claimed_at")
