"""whatever is forgotten by age is found by an index

The hourly purge looked through all candidates and all notices, and each scrape of the metrics
through the whole inbox for the few events that failed. Partial indexes: what is neither spent nor
failed costs nothing.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_candidates_spent", "candidates", "spent_at", "spent_at IS NOT NULL"),
    ("ix_outbox_done", "outbox", "created_at", "next_at IS NULL"),
    ("ix_inbox_stuck", "inbox", "received_at", "state IN ('failed', 'unreadable')"),
)


def upgrade() -> None:
    for name, table, column, where in INDEXES:
        held = sa.text(where)
        op.create_index(name, table, [column], postgresql_where=held, sqlite_where=held)


def downgrade() -> None:
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)
