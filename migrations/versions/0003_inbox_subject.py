"""inbox rows name whom they are about

So that after an outage one look at a user serves all the events that wait for it. Rows from
before stay NULL and are worked off one by one.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WAITING = sa.text("next_at IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("inbox") as batch_op:
        batch_op.add_column(sa.Column("subject", sa.Text(), nullable=True))
        batch_op.create_index(
            "ix_inbox_subject",
            ["tenant", "subject"],
            unique=False,
            postgresql_where=WAITING,
            sqlite_where=WAITING,
        )


def downgrade() -> None:
    with op.batch_alter_table("inbox") as batch_op:
        batch_op.drop_index("ix_inbox_subject", postgresql_where=WAITING, sqlite_where=WAITING)
        batch_op.drop_column("subject")
