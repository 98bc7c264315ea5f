"""a grant knows where its provider's API is, if the provider has told

Salesforce names the host of a person's org beside the tokens, and it can change.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("grants", sa.Column("api_base", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("grants", "api_base")
