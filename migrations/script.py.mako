"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision or "nothing"}
"""

from alembic import op
import sqlalchemy as sa
from worker.store import types
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
