"""a connection remembers when its directory was last synced, well or not

Auth0 tells of each sync in no particular order; a failure that comes late must not hide the good
one after it.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

from worker.store.types import Instant

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connections", sa.Column("synced_at", Instant(), nullable=True))


def downgrade() -> None:
    op.drop_column("connections", "synced_at")
