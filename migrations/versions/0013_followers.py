"""who follows a grant is found by an index

A grant that ends hands a shared refresh token over to one that follows it. Few follow another, so
both indexes are small.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_grants_alias", "grants", "alias_of", "alias_of IS NOT NULL"),
    ("ix_candidates_held", "candidates", "held_by", "held_by IS NOT NULL"),
)


def upgrade() -> None:
    for name, table, column, where in INDEXES:
        held = sa.text(where)
        op.create_index(name, table, [column], postgresql_where=held, sqlite_where=held)


def downgrade() -> None:
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)
