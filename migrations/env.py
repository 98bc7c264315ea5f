"""Runs the migrations on the database of EVERGRANT_DATABASE_URL, or on a connection handed in.

While nothing has been released, 0001 is made anew whenever tables.py changes; afterwards each
change is one new revision, and an old one is never edited. 0002 builds on 0001 by hand:

    rm migrations/versions/0001_*.py && mv migrations/versions/0002_*.py /tmp/
    EVERGRANT_DATABASE_URL=sqlite:////tmp/none.db \
        alembic revision --autogenerate --rev-id 0001 -m "initial tables"
    mv /tmp/0002_*.py migrations/versions/ && rm /tmp/none.db
    ruff format migrations; ruff check --fix migrations
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from worker.store.migrate import lock
from worker.store.tables import Base


def run() -> None:
    """`worker.store.migrate` hands its own connection in; `alembic` by hand opens one."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    from worker.settings import database_url
    from worker.store.engine import open_engine, writing

    with writing(open_engine(database_url())) as opened:
        lock(opened)
        _migrate(opened)


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        user_module_prefix="types.",
    )
    with context.begin_transaction():
        context.run_migrations()


run()
